package moe

import (
	"fmt"
	"math"
	"slices"
)

// GateSigmoid is the name of DeepSeek-V3's gate.
const GateSigmoid = "sigmoid"

func init() {
	Register(Kind{
		Name:     GateSigmoid,
		Summary:  "the k largest sigmoids plus a selection bias, within the best groups of experts, as in DeepSeek-V3",
		Options:  []string{AttributeGroups, AttributeTopGroups},
		Defaults: func(c *Config) { c.Scores = ScoresSigmoid },
		Check: func(c Config, experts int) error {
			switch {
			case c.Scores != ScoresSigmoid:
				return fmt.Errorf("scores are %s; the gate %s takes %s only", c.Scores, c.Gate, ScoresSigmoid)
			case experts > 0 && c.Groups > 0 && c.TopK > experts/c.Groups*c.TopGroups:
				return fmt.Errorf("top_k is %d, more than the %d experts of top_groups %d", c.TopK, experts/c.Groups*c.TopGroups, c.TopGroups)
			}
			return nil
		},
		New: func(c Config, experts int) Gate {
			g := &sigmoidGate{config: c, share: make([]float64, experts),
				indices: make([]int32, c.TopK), values: make([]float64, c.TopK)}
			g.work.make = func() *sigmoidWork {
				return &sigmoidWork{biased: make([]float64, experts), groups: make([]float64, c.Groups),
					indices: make([]int32, c.TopGroups), values: make([]float64, c.TopGroups)}
			}
			return g
		},
		SelectionBias: true,
	})
}

// sigmoidGate is the gate of DeepSeek-V3 (arXiv 2412.19437), s being the
// sigmoid of a logit. Experts are compared by s plus their selection bias.
// With groups, which are ranked by the sum of their two best, only the experts
// of the best top_groups are. Scores are s, divided by its sum over the chosen
// ones where Normalize is set, times routed_scaling.
//
// The loss is that paper's sequence-wise one, without its factor α: the mean
// over the sequences of the sum over the experts of f·P, with f the share of a
// sequence's tokens that have an expert among their k largest s, times T/k,
// and P the mean over its tokens of s / Σs. A batch that does not say how long
// its sequences are is one.
type sigmoidGate struct {
	config    Config
	work      spare[sigmoidWork]
	weight    []float64 // [sequences, T], of the experts' shares in the loss
	share     []float64 // [T]
	sequences int       // in the loss
	indices   []int32   // [k]
	values    []float64 // [k]
}

type sigmoidWork struct {
	biased  []float64 // [T]
	groups  []float64 // [groups]
	indices []int32   // [top_groups]
	values  []float64 // [top_groups]
}

func (g *sigmoidGate) Slots() int { return g.config.TopK }

func (g *sigmoidGate) Choose(b *Batch, lo, hi int) {
	w := g.work.take()
	defer g.work.give(w)
	k := g.config.TopK
	for n := lo; n < hi; n++ {
		indices, scores := b.Indices[n*k:][:k], b.Scores[n*k:][:k]
		if b.masked(n) {
			drop(indices, scores)
			continue
		}
		for e, z := range b.row(n) {
			w.biased[e] = sigmoid(z)
			if b.SelectionBias != nil {
				w.biased[e] += b.SelectionBias[e]
			}
		}
		if len(w.groups) > 0 {
			w.keepBestGroups()
		}
		largest(w.biased, nil, indices, scores)
		g.config.weigh(b.row(n), indices, scores)
	}
}

// keepBestGroups puts the experts of other groups behind all others.
func (w *sigmoidWork) keepBestGroups() {
	size := len(w.biased) / len(w.groups)
	for i := range w.groups {
		first, second := math.Inf(-1), math.Inf(-1)
		for _, x := range w.biased[i*size:][:size] {
			if x > first {
				first, second = x, first
			} else {
				second = max(second, x)
			}
		}
		if w.groups[i] = first; size > 1 {
			w.groups[i] += second
		}
	}
	largest(w.groups, nil, w.indices, w.values)
	clear(w.groups)
	for _, i := range w.indices {
		w.groups[i] = 1
	}
	for e := range w.biased {
		if w.groups[e/size] == 0 {
			w.biased[e] = math.Inf(-1)
		}
	}
}

func (g *sigmoidGate) Settle(b *Batch) {
	b.BalanceLoss = 0
	if !b.WantLoss || b.Tokens == 0 {
		return
	}
	length := sequence(b)
	g.weight = slices.Grow(g.weight[:0], (b.Tokens+length-1)/length*b.Experts)
	g.sequences = 0
	for lo := 0; lo < b.Tokens; lo += length {
		hi := min(lo+length, b.Tokens)
		weight := g.weight[len(g.weight):][:b.Experts]
		g.weight = g.weight[:len(g.weight)+b.Experts]
		if b.unmasked(lo, hi) > 0 {
			b.BalanceLoss += g.loss(b, lo, hi, weight)
			g.sequences++
		}
	}
	b.BalanceLoss /= float64(max(1, g.sequences))
}

// sequence returns the length of a batch's sequences.
func sequence(b *Batch) int {
	if b.Sequence <= 0 {
		return b.Tokens
	}
	return b.Sequence
}

// loss returns the loss of a sequence: the experts' shares, added up, times
// weight.
func (g *sigmoidGate) loss(b *Batch, lo, hi int, weight []float64) float64 {
	w := g.work.take()
	defer g.work.give(w)
	clear(weight)
	clear(g.share)
	tokens := float64(b.unmasked(lo, hi))
	for n := lo; n < hi; n++ {
		if b.masked(n) {
			continue
		}
		s, sum := w.biased, 0.0
		for e, z := range b.row(n) {
			s[e] = sigmoid(z)
			sum += s[e]
		}
		largest(s, nil, g.indices, g.values)
		for _, e := range g.indices {
			weight[e]++
		}
		for e := range s {
			g.share[e] += s[e] / sum
		}
	}
	loss := 0.0
	for e, share := range g.share {
		weight[e] *= float64(b.Experts) / (float64(g.config.TopK) * tokens * tokens)
		loss += weight[e] * share
	}
	return loss
}

// Differentiate implements [Differentiable].
func (g *sigmoidGate) Differentiate(b *Batch, d *Gradients, n int) {
	row, logits, k := b.row(n), d.row(b, n), g.config.TopK
	if d.BalanceLoss != 0 {
		weight := g.weight[n/sequence(b)*b.Experts:][:b.Experts]
		sum, mean := 0.0, 0.0
		for e, z := range row {
			s := sigmoid(z)
			sum += s
			mean += weight[e] * s
		}
		mean /= sum
		factor := d.BalanceLoss / float64(g.sequences) / sum
		for e, z := range row {
			s := sigmoid(z)
			logits[e] += factor * (weight[e] - mean) * s * (1 - s)
		}
	}
	g.config.addScores(b, d, n, b.Indices[n*k:][:k])
}

// UpdateSelectionBias balances experts without a loss (arXiv 2408.15664): it
// adds rate to the selection bias of experts that computed fewer rows than
// the mean, and takes it from those that computed more. It is called after
// each step of training with the step's counts of rows [T].
func UpdateSelectionBias(bias []float64, counts []int64, rate float64) {
	mean := 0.0
	for _, n := range counts {
		mean += float64(n) / float64(len(counts))
	}
	for e, n := range counts {
		switch {
		case float64(n) < mean:
			bias[e] += rate
		case float64(n) > mean:
			bias[e] -= rate
		}
	}
}
