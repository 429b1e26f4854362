package moe

// GateDC is the name of the gate of a capacity over all workers.
const GateDC = "dc"

func init() {
	Register(Kind{
		Name:    GateDC,
		Summary: "as gshard, with one capacity of an expert for the tokens of all workers",
		Options: []string{AttributeCapacityTrain, AttributeCapacityEval, AttributeRandomRouting},
		Defaults: func(c *Config) {
			c.CapacityTrain, c.CapacityEval, c.RandomRouting = 1.2, 2.4, true
		},
		Check: exactly(2),
		New: func(c Config, experts int) Gate {
			return &dc{config: c, balance: newFirstChoices(experts), used: make([]int, experts)}
		},
		Workers: true,
	})
}

// dc is FastMoE's gate with a dynamic capacity: where each of W workers has N
// tokens, an expert computes ⌈c·N⌉ rows, whichever worker they come from.
type dc struct {
	config  Config
	balance firstChoices
	used    []int // [T]
}

func (g *dc) Slots() int { return 2 }

func (g *dc) Choose(b *Batch, lo, hi int) {
	for n := lo; n < hi; n++ {
		g.config.chooseLargest(b, n, b.Indices[2*n:][:2], b.Scores[2*n:][:2])
	}
}

func (g *dc) Settle(b *Batch) {
	b.BalanceLoss = g.balance.loss(b)
	b.grant(0, b.Tokens, 2, g.capacity(g.config.capacity(b), b.unmasked(0, b.Tokens)), g.used)
	if b.Training && g.config.RandomRouting {
		g.config.routeRandomly(b)
	}
}

// Differentiate implements [Differentiable].
func (g *dc) Differentiate(b *Batch, d *Gradients, n int) {
	g.balance.addLoss(b, d, n)
	g.config.addLargest(b, d, n)
}

// capacity returns the rows of an expert, of the tokens of all workers.
func (g *dc) capacity(c float64, tokens int) int { return rows(c, tokens, g.config.Workers) }
