package moe

import "fmt"

// GateZero is the name of the gate that sends every token to expert 0.
const GateZero = "zero"

func init() {
	Register(Kind{
		Name:    GateZero,
		Summary: "every slot goes to expert 0, for debugging and for dense baselines",
		Check: func(c Config, _ int) error {
			if c.Scores != ScoresSoftmax {
				return fmt.Errorf("scores are %s; the gate %s has the score 1/k and takes none", c.Scores, c.Gate)
			}
			return nil
		},
		New: func(c Config, experts int) Gate { return &zero{config: c} },
	})
}

// zero gives every slot of a token to expert 0 with the score 1/k.
type zero struct{ config Config }

func (g *zero) Slots() int { return g.config.TopK }

func (g *zero) Choose(b *Batch, lo, hi int) {
	k := g.config.TopK
	for n := lo; n < hi; n++ {
		indices, scores := b.Indices[n*k:][:k], b.Scores[n*k:][:k]
		if b.masked(n) {
			drop(indices, scores)
			continue
		}
		for j := range indices {
			indices[j], scores[j] = 0, g.config.RoutedScaling/float64(k)
		}
	}
}

func (g *zero) Settle(b *Batch) { b.BalanceLoss = 0 }

// Differentiate implements [Differentiable]: no score depends on a logit.
func (g *zero) Differentiate(*Batch, *Gradients, int) {}
