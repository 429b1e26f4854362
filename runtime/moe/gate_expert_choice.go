package moe

// GateExpertChoice is the name of the gate with which experts choose tokens.
const GateExpertChoice = "expert-choice"

func init() {
	Register(Kind{
		Name:    GateExpertChoice,
		Summary: "each expert takes the same number of tokens, those that prefer it most",
		Options: []string{AttributeCapacityTrain, AttributeCapacityEval},
		Defaults: func(c *Config) {
			c.CapacityTrain, c.CapacityEval, c.Normalize = 1, 1, false
		},
		New:          func(c Config, experts int) Gate { return &expertChoice{config: c, experts: experts} },
		ExpertChoice: true,
		Rows: func(c Config, tokens, experts int) int {
			g := expertChoice{config: c, experts: experts}
			return experts * max(g.capacity(c.CapacityTrain, tokens), g.capacity(c.CapacityEval, tokens))
		},
	})
}

// expertChoice is the gate of Zhou et al., "Mixture-of-Experts with expert
// choice routing" (arXiv 2202.09368): each expert takes the ⌈c·N·k/T⌉ of the
// N tokens in whose softmax over all experts it has the largest share, the
// first tokens where shares are equal. That share is the score. Slot e of a
// token is that of expert e, and is dropped where e did not choose the token.
type expertChoice struct {
	config  Config
	experts int
}

func (g *expertChoice) Slots() int { return g.experts }

func (g *expertChoice) Choose(b *Batch, lo, hi int) {
	for n := lo; n < hi; n++ {
		indices, scores := b.Indices[n*g.experts:][:g.experts], b.Scores[n*g.experts:][:g.experts]
		drop(indices, scores)
		if !b.masked(n) {
			g.config.affinities(scores, b.row(n))
		}
	}
}

func (g *expertChoice) Settle(b *Batch) {
	b.BalanceLoss = 0
	count := g.capacity(g.config.capacity(b), b.unmasked(0, b.Tokens))
	for e := range g.experts {
		affinity := func(n int) (float64, bool) { return b.Scores[n*g.experts+e], !b.masked(n) }
		chosen := best(b.Tokens, count, affinity)
		for n := range b.Tokens {
			if x, ok := affinity(n); ok && chosen.admits(x) {
				b.Indices[n*g.experts+e] = int32(e)
			}
		}
	}
	for n := range b.Tokens {
		g.config.weigh(b.row(n), b.Indices[n*g.experts:][:g.experts], b.Scores[n*g.experts:][:g.experts])
	}
}

// capacity returns the number of tokens that an expert takes.
func (g *expertChoice) capacity(c float64, tokens int) int {
	if c == Unlimited {
		return tokens
	}
	return min(rows(c*float64(g.config.TopK), tokens, g.experts), tokens)
}

// Differentiate implements [Differentiable].
func (g *expertChoice) Differentiate(b *Batch, d *Gradients, n int) {
	g.config.addScores(b, d, n, b.Indices[n*g.experts:][:g.experts])
}
