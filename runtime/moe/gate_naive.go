package moe

// GateNaive is the name of the naive gate.
const GateNaive = "naive"

func init() {
	Register(Kind{
		Name:    GateNaive,
		Summary: "the k largest logits, weighted by a softmax over them",
		New:     func(c Config, experts int) Gate { return &naive{config: c} },

		SelectionBias: true,
	})
}

// naive is FastMoE's plain gate: the k largest logits, the lower index first
// where two are equal (as ONNX's TopK has it), weighted by a softmax over
// those k, or with Normalize unset over all experts. It has no noise, no
// capacity and no balance loss.
type naive struct{ config Config }

func (g *naive) Slots() int { return g.config.TopK }

func (g *naive) Choose(b *Batch, lo, hi int) {
	k := g.config.TopK
	for n := lo; n < hi; n++ {
		g.config.chooseLargest(b, n, b.Indices[n*k:][:k], b.Scores[n*k:][:k])
	}
}

func (g *naive) Settle(b *Batch) { b.BalanceLoss = 0 }

// Differentiate implements [Differentiable].
func (g *naive) Differentiate(b *Batch, d *Gradients, n int) {
	g.config.addScores(b, d, n, b.Indices[n*g.config.TopK:][:g.config.TopK])
}
