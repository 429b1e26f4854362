package moe

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// differentiable are configurations of all gates for 8 experts, beside those
// of settings with 1 … 4 slots and every kind of score.
func differentiable() []Config {
	list := settings()
	for _, gate := range Gates() {
		for topK := 1; topK <= 4; topK++ {
			for _, scores := range AllScores {
				for _, normalize := range []bool{false, true} {
					c := DefaultConfig(gate)
					c.TopK, c.Scores, c.Normalize, c.RoutedScaling, c.Seed = topK, scores, normalize, 1.5, topK
					if gate == GateTokenRounding {
						c.Tile = 4
					}
					if c.Check(8) == nil {
						list = append(list, c)
					}
				}
			}
		}
	}
	all := DefaultConfig(GateNoisy) // no expert is left that noise might choose
	all.TopK = 8
	return append(list, all)
}

// TestDifferentiate compares the gradients of every gate with differences of a
// loss that has random weights, wherever no choice changes.
func TestDifferentiate(t *testing.T) {
	const tokens = 21
	for _, c := range differentiable() {
		for _, training := range []bool{false, true} {
			for _, losses := range []bool{false, true} {
				if losses && c.Gate == GateNoisy && c.Scores == ScoresOne {
					continue // its loss is of scores, which only let gradients pass
				}
				t.Run(fmt.Sprintf("%s k=%d %s normalize=%v training=%v losses=%v", c.Gate, c.TopK, c.Scores, c.Normalize, training, losses), func(t *testing.T) {
					g, err := NewGate(c, 8)
					if err != nil {
						t.Fatal(err)
					}
					logits, noise := differentiate(g.(Differentiable), c, tokens, training, losses)
					skipped := compareDifferences(t, c, tokens, training, losses, "logit", logits, func(b *Batch) []float64 { return b.Logits })
					skipped += compareDifferences(t, c, tokens, training, losses, "noise", noise, func(b *Batch) []float64 { return b.Noise })
					if skipped > tokens/4 {
						t.Errorf("%d numbers change what is chosen", skipped)
					}
				})
			}
		}
	}
}

// weightedLoss is the loss of a batch that a gate settled.
func weightedLoss(b *Batch, losses bool) float64 {
	r := rand.New(rand.NewPCG(3, 4))
	loss := 0.0
	for _, s := range b.Scores {
		loss += r.NormFloat64() * s
	}
	if losses {
		loss += 3*b.BalanceLoss + 0.25*ZLoss(b)
	}
	return loss
}

// settled returns a random batch after a gate decided about it and after
// change.
func settled(c Config, g Gate, tokens int, training bool, change func(b *Batch)) *Batch {
	b := randomBatch(c, g, tokens, training)
	if b.Sequence = 10; c.TopK%2 == 1 {
		b.Mask, b.Sequence = nil, 0
	}
	change(b)
	g.Choose(b, 0, tokens)
	g.Settle(b)
	if c.Scores == ScoresOne {
		passThrough(c, g, b)
	}
	return b
}

// passThrough replaces scores of one by those whose gradients they have.
func passThrough(c Config, g Gate, b *Batch) {
	for i, e := range b.Indices {
		if e >= 0 {
			p := slices.Clone(b.row(i / g.Slots()))
			softmax(p, p)
			b.Scores[i] = c.RoutedScaling * p[e]
		}
	}
}

// differentiate returns the gradients of weightedLoss.
func differentiate(g Differentiable, c Config, tokens int, training, losses bool) (logits, noise []float64) {
	d := &Gradients{Scores: make([]float64, tokens*g.Slots()), Logits: make([]float64, tokens*8)}
	b := settled(c, g, tokens, training, func(b *Batch) { d.Noise = slices.Clone(b.Noise) })
	r := rand.New(rand.NewPCG(3, 4))
	for i := range d.Scores {
		d.Scores[i] = r.NormFloat64()
	}
	if losses {
		d.BalanceLoss, d.ZLoss = 3, 0.25
	}
	var all sync.WaitGroup
	for lo := 0; lo < tokens; lo += 10 {
		all.Go(func() { Differentiate(g, b, d, lo, min(lo+10, tokens)) })
	}
	all.Wait()
	if c.Gate != GateNoisy || !training {
		d.Noise = make([]float64, tokens*8) // others do not touch it
	}
	return d.Logits, d.Noise
}

// compareDifferences compares a gradient with central differences of the fourth
// order. It returns how many numbers it left out because what is chosen depends
// on them.
func compareDifferences(t *testing.T, c Config, tokens int, training, losses bool, what string, gradient []float64, numbers func(b *Batch) []float64) (skipped int) {
	const step = 1e-4
	g, err := NewGate(c, 8)
	if err != nil {
		t.Fatal(err)
	}
	here := settled(c, g, tokens, training, func(*Batch) {})
	for i := 0; i < len(gradient); i += 5 { // 5 and the number of experts have no common factor
		got := gradient[i]
		want, changes := 0.0, false
		for _, p := range []struct{ at, weight float64 }{{-2, 1.0 / 12}, {-1, -8.0 / 12}, {1, 8.0 / 12}, {2, -1.0 / 12}} {
			b := settled(c, g, tokens, training, func(b *Batch) { numbers(b)[i] += p.at * step })
			want += p.weight * weightedLoss(b, losses) / step
			changes = changes || !slices.Equal(b.Indices, here.Indices)
		}
		if changes {
			skipped++
			continue
		}
		if math.Abs(got-want) > 1e-6*max(math.Abs(want), 1e-3) {
			t.Errorf("gradient by %s %d is %v, differences give %v", what, i, got, want)
			return skipped
		}
	}
	return skipped
}

func TestDifferentiateDoesNotAllocate(t *testing.T) {
	for _, c := range settings() {
		g, err := NewGate(c, 8)
		if err != nil {
			t.Fatal(err)
		}
		d := &Gradients{Scores: make([]float64, 64*g.Slots()), Logits: make([]float64, 64*8), BalanceLoss: 1, ZLoss: 1}
		b := settled(c, g, 64, true, func(b *Batch) { d.Noise = slices.Clone(b.Noise) })
		if n := testing.AllocsPerRun(2, func() { Differentiate(g.(Differentiable), b, d, 0, 64) }); n != 0 {
			t.Errorf("%s: %v allocations", c.Gate, n)
		}
	}
}
