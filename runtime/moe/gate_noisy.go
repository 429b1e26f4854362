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
			g.rows.make = func() *[2][]float64 {
				return &[2][]float64{make([]float64, experts), make([]float64, experts)}
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
	rows             spare[[2][]float64] // [T]
	importance, load []float64           // [T], from Settle on the derivatives of the loss by them
}

func (g *noisy) Slots() int { return g.config.TopK }

// noise reports whether there is any.
func (g *noisy) noise(b *Batch) bool { return b.Training && b.Noise != nil }

// probabilities reports whether the load is a sum of probabilities.
func (g *noisy) probabilities(b *Batch) bool { return g.noise(b) && g.config.TopK < b.Experts }

func (g *noisy) Choose(b *Batch, lo, hi int) {
	rows := g.rows.take()
	defer g.rows.give(rows)
	clean, k := rows[0], g.config.TopK
	for n := lo; n < hi; n++ {
		copy(clean, b.row(n))
		if g.noise(b) {
			g.addNoise(b, n)
		}
		indices := b.Indices[n*k:][:k]
		g.config.chooseLargest(b, n, indices, b.Scores[n*k:][:k])
		if b.WantLoss && g.probabilities(b) && !b.masked(n) {
			chances(b.Noise[n*b.Experts:][:b.Experts], clean, b.row(n), indices[k-1])
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
				sigma[e] = deviation(sigma[e])
				row[e] += epsilon * sigma[e]
			}
		}
	}
}

// deviation returns the noise's standard deviation, softplus(x) + 0.01.
func deviation(x float64) float64 {
	return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) + 0.01
}

// chances replaces σ by the probabilities that experts would be chosen if only
// their own noise were drawn anew: that they then exceed the k-th largest of
// the other logits. last is the k-th choice.
func chances(sigma, clean, row []float64, last int32) {
	next := runnerUp(row, last)
	for e := range row {
		threshold := row[last]
		if chosen(row, last, e) {
			threshold = row[next]
		}
		sigma[e] = math.Erfc((threshold-clean[e])/(sigma[e]*math.Sqrt2)) / 2
	}
}

// chosen reports whether an expert is chosen where last is the k-th choice.
func chosen(row []float64, last int32, e int) bool {
	return row[e] > row[last] || row[e] == row[last] && e <= int(last)
}

// runnerUp returns the best expert behind the k-th choice, which there must
// be.
func runnerUp(row []float64, last int32) int {
	best := -1
	for e, x := range row {
		if !chosen(row, last, e) && (best < 0 || above(x, row[best])) {
			best = e
		}
	}
	return max(best, 0) // none only where some logits are not numbers
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

// Differentiate implements [Differentiable].
func (g *noisy) Differentiate(b *Batch, d *Gradients, n int) {
	k, row, logits := g.config.TopK, b.row(n), d.row(b, n)
	indices := b.Indices[n*k:][:k]
	if d.BalanceLoss != 0 {
		for j, e := range indices {
			d.Scores[n*k+j] += d.BalanceLoss * g.importance[e]
		}
	}
	g.config.addScores(b, d, n, indices)
	if !g.noise(b) {
		return
	}
	rows := g.rows.take()
	defer g.rows.give(rows)
	epsilon, direct, noise := rows[0], rows[1], d.noise(b, n)
	for i := 0; i < len(row); i += 4 {
		draws := b.Random.Normal(b.First+int64(n), i/4)
		copy(epsilon[i:], draws[:])
	}
	clear(direct)
	if d.BalanceLoss != 0 && g.probabilities(b) {
		g.addLoad(row, noise, epsilon, direct, d.BalanceLoss, logits, indices[k-1])
	}
	for e, x := range noise {
		noise[e] = (epsilon[e]*logits[e] + direct[e]) * sigmoid(x)
	}
}

// addLoad adds the gradient through the load. What the sum of a clean logit
// and its noise, ε·σ, has as a gradient is the logit's too, and ε times it that
// of σ; direct becomes what σ has beyond that.
func (g *noisy) addLoad(row, noise, epsilon, direct []float64, factor float64, logits []float64, last int32) {
	next := runnerUp(row, last)
	for e, x := range row {
		rival := int(last)
		if chosen(row, last, e) {
			rival = next
		}
		sigma := deviation(noise[e])
		distance := (row[rival] - x) / sigma
		u := distance + epsilon[e] // the chance is Φ(−u)
		density := factor * g.load[e] * math.Exp(-u*u/2) / (math.Sqrt(2*math.Pi) * sigma)
		logits[e] += density
		logits[rival] -= density
		direct[e] = density * distance
	}
}

// variation returns the square of the coefficient of variation,
// var/(mean² + 10⁻¹⁰) with the unbiased variance, and replaces the numbers by
// its derivatives by them; 0 of one number.
func variation(x []float64) float64 {
	if len(x) < 2 {
		clear(x)
		return 0
	}
	mean, variance := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x)-1)
	}
	size := mean*mean + 1e-10
	for i, v := range x {
		x[i] = 2 * ((v-mean)/float64(len(x)-1) - variance/size*mean/float64(len(x))) / size
	}
	return variance / size
}
