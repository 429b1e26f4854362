package moe

import "math"

// GateNoisy is the name of the noisy gate.
const GateNoisy = "noisy"

func init() {
	Register(Kind{
		Name:    GateNoisy,
		Summary: "the k largest logits after adding noise of learned size in training, with losses of importance and load",
		New: func(c Config, experts int) Gate {
			g := &noisy{config: c, importance: make([]float64, experts), load: make([]float64, experts)}
			g.clean.make = func() *[]float64 {
				row := make([]float64, experts)
				return &row
			}
			return g
		},
		Noisy: true,
	})
}

// noisy is the gate of Shazeer et al., "Outrageously large neural networks"
// (arXiv 1701.06538). In training logits are z + ε·σ with ε of the standard
// normal distribution and σ = softplus(noise) + 0.01. Its loss is
//
//	CV²(importance) + CV²(load)
//
// where an expert's importance is the sum of its scores, and its load the sum
// over the tokens of the probability that it would be chosen again if its
// noise were drawn anew; without noise, and where all experts are chosen, the
// number of tokens that chose it.
type noisy struct {
	config           Config
	clean            spare[[]float64]
	importance, load []float64 // [T]
}

func (g *noisy) Slots() int { return g.config.TopK }

// noise reports whether there is any.
func (g *noisy) noise(b *Batch) bool { return b.Training && b.Noise != nil }

// probabilities reports whether the load is a sum of probabilities.
func (g *noisy) probabilities(b *Batch) bool { return g.noise(b) && g.config.TopK < b.Experts }

func (g *noisy) Choose(b *Batch, lo, hi int) {
	clean := g.clean.take()
	defer g.clean.give(clean)
	k := g.config.TopK
	for n := lo; n < hi; n++ {
		copy(*clean, b.row(n))
		if g.noise(b) {
			g.addNoise(b, n)
		}
		indices := b.Indices[n*k:][:k]
		g.config.chooseLargest(b, n, indices, b.Scores[n*k:][:k])
		if b.WantLoss && g.probabilities(b) && !b.masked(n) {
			chances(b.Noise[n*b.Experts:][:b.Experts], *clean, b.row(n), indices[k-1])
		}
	}
}

// addNoise adds noise to a token's logits, and replaces what the second
// projection gave by the noise's standard deviation σ.
func (g *noisy) addNoise(b *Batch, n int) {
	row, sigma := b.row(n), b.Noise[n*b.Experts:][:b.Experts]
	for i := 0; i < len(row); i += 4 {
		for j, epsilon := range b.Random.Normal(b.First+int64(n), i/4) {
			if e := i + j; e < len(row) {
				sigma[e] = max(sigma[e], 0) + math.Log1p(math.Exp(-math.Abs(sigma[e]))) + 0.01
				row[e] += epsilon * sigma[e]
			}
		}
	}
}

// chances replaces σ by the probabilities that experts would be chosen if only
// their own noise were drawn anew: that they then exceed the k-th largest of
// the other logits. last is the k-th choice.
func chances(sigma, clean, row []float64, last int32) {
	kth, next := row[last], math.Inf(-1)
	chosen := func(e int, x float64) bool { return x > kth || x == kth && e <= int(last) }
	for e, x := range row {
		if !chosen(e, x) {
			next = max(next, x)
		}
	}
	for e, x := range row {
		threshold := kth
		if chosen(e, x) {
			threshold = next
		}
		sigma[e] = math.Erfc((threshold-clean[e])/(sigma[e]*math.Sqrt2)) / 2
	}
}

func (g *noisy) Settle(b *Batch) {
	b.BalanceLoss = 0
	if !b.WantLoss {
		return
	}
	clear(g.importance)
	clear(g.load)
	k := g.config.TopK
	for n := range b.Tokens {
		if b.masked(n) {
			continue
		}
		for j, e := range b.Indices[n*k:][:k] {
			g.importance[e] += b.Scores[n*k+j]
			if !g.probabilities(b) {
				g.load[e]++
			}
		}
		if g.probabilities(b) {
			for e, p := range b.Noise[n*b.Experts:][:b.Experts] {
				g.load[e] += p
			}
		}
	}
	b.BalanceLoss = variation(g.importance) + variation(g.load)
}

// variation returns the square of the coefficient of variation,
// var/(mean² + 10⁻¹⁰) with the unbiased variance; 0 of one number.
func variation(x []float64) float64 {
	if len(x) < 2 {
		return 0
	}
	mean, variance := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x)-1)
	}
	return variance / (mean*mean + 1e-10)
}
