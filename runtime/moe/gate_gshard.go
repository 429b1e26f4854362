package moe

import (
	"fmt"
	"math"
)

// GateGShard is the name of GShard's gate.
const GateGShard = "gshard"

func init() {
	Register(Kind{
		Name:    GateGShard,
		Summary: "the two largest logits, a capacity for each expert and worker, random routing of the second, a balance loss",
		Options: []string{AttributeCapacityTrain, AttributeCapacityEval, AttributeRandomRouting},
		Defaults: func(c *Config) {
			c.CapacityTrain, c.CapacityEval, c.RandomRouting = 1.2, 2.4, true
		},
		Check: exactly(2),
		New: func(c Config, experts int) Gate {
			return &gshard{config: c, balance: newFirstChoices(experts), used: make([]int, experts)}
		},
		Workers: true,
	})
}

// exactly checks that top_k is the only one that a gate is made for.
func exactly(topK int) func(c Config, experts int) error {
	return func(c Config, _ int) error {
		if c.TopK != topK {
			return fmt.Errorf("top_k is %d; the gate %s takes top_k %d only", c.TopK, c.Gate, topK)
		}
		return nil
	}
}

// gshard is the gate of GShard (arXiv 2006.16668). Of the N tokens of each
// worker an expert computes ⌈c·N⌉·2 div T rows. Then, in training, a token's
// second expert is dropped where twice its score is below a uniform random
// number.
type gshard struct {
	config  Config
	balance firstChoices
	used    []int // [T]
}

func (g *gshard) Slots() int { return 2 }

func (g *gshard) Choose(b *Batch, lo, hi int) {
	for n := lo; n < hi; n++ {
		g.config.chooseLargest(b, n, b.Indices[2*n:][:2], b.Scores[2*n:][:2])
	}
}

func (g *gshard) Settle(b *Batch) {
	b.BalanceLoss = g.balance.loss(b)
	for w := range g.config.Workers {
		if lo, hi := b.part(w, g.config.Workers); lo < hi {
			b.grant(lo, hi, 2, g.capacity(g.config.capacity(b), b.unmasked(lo, hi)), g.used)
		}
	}
	if b.Training && g.config.RandomRouting {
		g.config.routeRandomly(b)
	}
}

// Differentiate implements [Differentiable].
func (g *gshard) Differentiate(b *Batch, d *Gradients, n int) {
	g.balance.addLoss(b, d, n)
	g.config.addLargest(b, d, n)
}

// capacity returns the rows of an expert, of a worker's tokens.
func (g *gshard) capacity(c float64, tokens int) int {
	if x := math.Ceil(c * float64(tokens)); c != Unlimited && x < float64(tokens*len(g.used)) {
		return int(x) * 2 / len(g.used)
	}
	return tokens
}

// routeRandomly drops the second choices of tokens at random, the more likely
// the smaller their scores are.
func (c *Config) routeRandomly(b *Batch) {
	for n := range b.Tokens {
		second := 2*n + 1
		if b.Indices[second] < 0 {
			continue
		}
		u := b.Random.Uniform(b.First+int64(n), 0)[0]
		if 2*b.Scores[second]/c.RoutedScaling < u {
			b.Indices[second], b.Scores[second] = -1, 0
		}
	}
}

// firstChoices computes GShard's balance loss: T²·mean over the experts of the
// share of tokens whose first choice an expert is, before capacities, times
// the mean of its entries in the tokens' softmax over all experts.
type firstChoices struct {
	count, sum, row []float64 // [T]
	factor          float64   // of Σ count·sum in the loss
}

func newFirstChoices(experts int) firstChoices {
	memory := make([]float64, 3*experts)
	return firstChoices{count: memory[:experts], sum: memory[experts : 2*experts], row: memory[2*experts:]}
}

// loss is that of a batch whose tokens have two slots.
func (f *firstChoices) loss(b *Batch) float64 {
	tokens := b.unmasked(0, b.Tokens)
	if !b.WantLoss || tokens == 0 {
		return 0
	}
	clear(f.count)
	clear(f.sum)
	for n := range b.Tokens {
		if b.masked(n) {
			continue
		}
		f.count[b.Indices[2*n]]++
		copy(f.row, b.row(n))
		softmax(f.row, f.row)
		for e, p := range f.row {
			f.sum[e] += p
		}
	}
	loss := 0.0
	for e, count := range f.count {
		loss += count * f.sum[e]
	}
	f.factor = float64(b.Experts) / (float64(tokens) * float64(tokens))
	return loss * f.factor
}

// addLoss adds the gradient of the loss by a token's logits.
func (f *firstChoices) addLoss(b *Batch, g *Gradients, token int) {
	if g.BalanceLoss != 0 {
		addShares(b.row(token), f.count, g.BalanceLoss*f.factor, g.row(b, token))
	}
}
