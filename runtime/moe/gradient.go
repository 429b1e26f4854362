package moe

import "math"

// Differentiable is a gate that can be trained. Which experts it chooses has
// no gradient, nor have the counts in its loss; scores and shares have.
type Differentiable interface {
	Gate

	// Differentiate adds to g.Logits the gradient of a token's logits through
	// its scores and the balance loss. What is there already is by the logits
	// that the gate chose by, b.Logits; if it changed them, it takes the sum
	// back to those of the router. The batch is the one that it settled last,
	// and the token is not masked. Devices call it concurrently for different
	// tokens.
	Differentiate(b *Batch, g *Gradients, token int)
}

// Gradients are those of a loss by what a gate decided about a batch, and by
// what it decided from.
type Gradients struct {
	// Scores [N, slots] is by the scores of slots. A gate may change it.
	Scores []float64

	// BalanceLoss and ZLoss are by the scalars of these names. The batch of a
	// BalanceLoss other than 0 has WantLoss set.
	BalanceLoss, ZLoss float64

	// Logits [N, T] is by the router's logits.
	Logits []float64

	// Noise [N, T] is the noisy gate's second projection, and becomes the
	// gradient by it. It is nil where the batch has none.
	Noise []float64
}

// Differentiate computes Logits and Noise for the tokens lo … hi of a batch
// that a gate has settled. Calls for different tokens may run at the same time.
func Differentiate(gate Differentiable, b *Batch, g *Gradients, lo, hi int) {
	slots, tokens := gate.Slots(), b.unmasked(0, b.Tokens)
	for n := lo; n < hi; n++ {
		logits := g.row(b, n)
		clear(logits)
		if b.masked(n) {
			if g.Noise != nil {
				clear(g.noise(b, n))
			}
			continue
		}
		for j, e := range b.Indices[n*slots:][:slots] {
			if e < 0 {
				g.Scores[n*slots+j] = 0 // those of dropped slots are constant
			}
		}
		if g.ZLoss != 0 {
			addZLoss(b.row(n), g.ZLoss/float64(tokens), logits)
		}
		gate.Differentiate(b, g, n)
	}
}

// row returns the gradient by a token's logits.
func (g *Gradients) row(b *Batch, token int) []float64 {
	return g.Logits[token*b.Experts:][:b.Experts]
}

// noise returns a token's part of Noise.
func (g *Gradients) noise(b *Batch, token int) []float64 {
	return g.Noise[token*b.Experts:][:b.Experts]
}

// addZLoss adds to logits the gradient of factor times a token's part of the
// z-loss.
func addZLoss(row []float64, factor float64, logits []float64) {
	top, sum := exponentials(row)
	factor *= 2 * (top + math.Log(sum)) / sum
	for e, x := range row {
		logits[e] += factor * math.Exp(x-top)
	}
}

// addShares adds to logits the gradient of factor · Σ weight[e]·p[e], where p
// is the softmax of row.
func addShares(row, weight []float64, factor float64, logits []float64) {
	top, sum := exponentials(row)
	mean := 0.0
	for e, x := range row {
		mean += weight[e] * math.Exp(x-top) / sum
	}
	for e, x := range row {
		logits[e] += factor * math.Exp(x-top) / sum * (weight[e] - mean)
	}
}

// addScores adds to a token's logits the gradient through the scores that
// weigh gives the chosen experts, one for each slot. Scores of one, which are
// constant, let it pass as if they were shares of the softmax over all experts
// (straight-through, Bengio et al. 2013, arXiv 1308.3432): otherwise nothing
// would tell the router which experts help.
func (c *Config) addScores(b *Batch, g *Gradients, token int, indices []int32) {
	row, logits, scores := b.row(token), g.row(b, token), g.Scores[token*len(indices):][:len(indices)]
	switch {
	case c.Scores == ScoresSigmoid:
		c.addSigmoids(row, indices, scores, logits)
	case c.Normalize && c.Scores != ScoresOne:
		top := math.Inf(-1)
		for _, e := range indices {
			if e >= 0 {
				top = max(top, row[e])
			}
		}
		sum, mean := 0.0, 0.0
		for j, e := range indices {
			if e >= 0 {
				x := math.Exp(row[e] - top)
				sum += x
				mean += scores[j] * x
			}
		}
		mean /= sum
		for j, e := range indices {
			if e >= 0 {
				logits[e] += c.RoutedScaling * math.Exp(row[e]-top) / sum * (scores[j] - mean)
			}
		}
	default:
		top, sum := exponentials(row)
		mean := 0.0
		for j, e := range indices {
			if e >= 0 {
				x := math.Exp(row[e]-top) / sum * scores[j]
				mean += x
				logits[e] += c.RoutedScaling * x
			}
		}
		for e, x := range row {
			logits[e] -= c.RoutedScaling * math.Exp(x-top) / sum * mean
		}
	}
}

// addSigmoids is addScores for sigmoids.
func (c *Config) addSigmoids(row []float64, indices []int32, scores, logits []float64) {
	sum, mean := 1.0, 0.0
	if c.Normalize {
		sum = 0
		for j, e := range indices {
			if e >= 0 {
				s := sigmoid(row[e])
				sum += s
				mean += scores[j] * s
			}
		}
		mean /= sum
	}
	for j, e := range indices {
		if e >= 0 {
			s := sigmoid(row[e])
			logits[e] += c.RoutedScaling * (scores[j] - mean) / sum * s * (1 - s)
		}
	}
}

// addLargest is addScores for a gate that weighs the largest logits before it
// drops some of them.
func (c *Config) addLargest(b *Batch, g *Gradients, token int) {
	var indices [2]int32
	var values [2]float64
	largest(b.row(token), nil, indices[:], values[:])
	c.addScores(b, g, token, indices[:])
}
