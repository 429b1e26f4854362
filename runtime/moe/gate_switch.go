package moe

// GateSwitch is the name of the Switch Transformer's gate.
const GateSwitch = "switch"

func init() {
	Register(Kind{
		Name:    GateSwitch,
		Summary: "the largest logit, jittered in training, weighted by its softmax over all; a capacity, a balance loss",
		Options: []string{AttributeCapacityTrain, AttributeCapacityEval, AttributeJitter},
		Defaults: func(c *Config) {
			c.CapacityTrain, c.CapacityEval, c.Jitter, c.Normalize = 1.2, 2.4, 0.1, false
		},
		Check: exactly(1),
		New: func(c Config, experts int) Gate {
			return &switchGate{config: c, kept: make([]float64, experts), sum: make([]float64, experts),
				row: make([]float64, experts), used: make([]int, experts)}
		},
	})
}

// switchGate is the gate of the Switch Transformer (arXiv 2101.03961). In
// training logits are multiplied by uniform random numbers between 1 − ε and
// 1 + ε. An expert computes ⌈c·N/T⌉ of the N tokens. The loss is T times the
// sum over the experts of f·P, with f the share of an expert among the tokens
// that were not dropped, and P the sum of its entries in all tokens' softmax
// divided by the number of tokens that were not dropped.
type switchGate struct {
	config         Config
	kept, sum, row []float64 // [T]
	factor         float64   // of Σ kept·sum in the loss
	used           []int     // [T]
}

func (g *switchGate) Slots() int { return 1 }

func (g *switchGate) Choose(b *Batch, lo, hi int) {
	for n := lo; n < hi; n++ {
		if b.Training && g.config.Jitter > 0 {
			g.jitter(b, n, b.row(n))
		}
		g.config.chooseLargest(b, n, b.Indices[n:][:1], b.Scores[n:][:1])
	}
}

// jitter multiplies a row of logits, or of their gradients, by a token's random
// numbers.
func (g *switchGate) jitter(b *Batch, n int, row []float64) {
	for i := 0; i < len(row); i += 4 {
		for j, u := range b.Random.Uniform(b.First+int64(n), i/4) {
			if e := i + j; e < len(row) {
				row[e] *= 1 - g.config.Jitter + 2*g.config.Jitter*u
			}
		}
	}
}

func (g *switchGate) Settle(b *Batch) {
	b.grant(0, b.Tokens, 1, g.capacity(g.config.capacity(b), b.unmasked(0, b.Tokens)), g.used)
	b.BalanceLoss, g.factor = 0, 0
	if !b.WantLoss {
		return
	}
	clear(g.kept)
	clear(g.sum)
	tokens := 0.0
	for n := range b.Tokens {
		if b.masked(n) {
			continue
		}
		if e := b.Indices[n]; e >= 0 {
			g.kept[e]++
			tokens++
		}
		copy(g.row, b.row(n))
		softmax(g.row, g.row)
		for e, p := range g.row {
			g.sum[e] += p
		}
	}
	if tokens == 0 {
		return
	}
	g.factor = float64(b.Experts) / (tokens * tokens)
	for e, kept := range g.kept {
		b.BalanceLoss += g.factor * kept * g.sum[e]
	}
}

// Differentiate implements [Differentiable].
func (g *switchGate) Differentiate(b *Batch, d *Gradients, n int) {
	if d.BalanceLoss != 0 {
		addShares(b.row(n), g.kept, d.BalanceLoss*g.factor, d.row(b, n))
	}
	g.config.addScores(b, d, n, b.Indices[n:][:1])
	if b.Training && g.config.Jitter > 0 {
		g.jitter(b, n, d.row(b, n))
	}
}

// capacity returns the rows of an expert.
func (g *switchGate) capacity(c float64, tokens int) int { return rows(c, tokens, len(g.used)) }
