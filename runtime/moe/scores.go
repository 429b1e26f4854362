package moe

import "math"

// Scores is how the logits of a token's experts become their weights in the
// output.
type Scores string

// The kinds of scores.
const (
	ScoresSoftmax Scores = "softmax" // over the chosen logits, or over all where Normalize is unset
	ScoresSigmoid Scores = "sigmoid" // of each logit by itself; divided by the sum over the chosen ones where Normalize is set
	ScoresOne     Scores = "one"     // 1 for each chosen expert
)

// AllScores lists the kinds of scores.
var AllScores = []Scores{ScoresSoftmax, ScoresSigmoid, ScoresOne}

// chooseLargest chooses the experts with the largest logits of a token, one
// for each of indices, and weighs them. A masked token gets none.
func (c *Config) chooseLargest(b *Batch, token int, indices []int32, scores []float64) {
	if b.masked(token) {
		drop(indices, scores)
		return
	}
	row := b.row(token)
	largest(row, b.SelectionBias, indices, scores)
	c.weigh(row, indices, scores)
}

// weigh gives the chosen experts of a token their weights in the output, and
// slots of no expert 0.
func (c *Config) weigh(row []float64, indices []int32, scores []float64) {
	for j, e := range indices {
		scores[j] = math.Inf(-1)
		if e >= 0 {
			scores[j] = row[e]
		}
	}
	switch {
	case c.Scores == ScoresOne:
		for j := range scores {
			scores[j] = 1
		}
	case c.Scores == ScoresSigmoid:
		sum := 0.0
		for j, x := range scores {
			scores[j] = sigmoid(x)
			sum += scores[j]
		}
		if c.Normalize {
			for j := range scores {
				scores[j] /= sum
			}
		}
	case c.Normalize:
		softmax(scores, scores)
	default:
		softmax(scores, row)
	}
	for j, e := range indices {
		if e < 0 {
			scores[j] = 0
		} else if c.RoutedScaling != 1 {
			scores[j] *= c.RoutedScaling
		}
	}
}

// affinities writes to dst what experts that compare tokens compare: each
// logit's share in the softmax over all experts, or its sigmoid.
func (c *Config) affinities(dst, row []float64) {
	copy(dst, row)
	if c.Scores != ScoresSigmoid {
		softmax(dst, row)
		return
	}
	for e, x := range dst {
		dst[e] = sigmoid(x)
	}
}

// drop leaves slots to no expert.
func drop(indices []int32, scores []float64) {
	for j := range indices {
		indices[j], scores[j] = -1, 0
	}
}

// largest finds the len(values) largest elements of row, bias added to them
// unless it is nil, in descending order, by insertion: the lists are short.
// Elements that are not a number count as smallest, so that every index is
// set.
func largest(row, bias []float64, indices []int32, values []float64) {
	n := 0
	for i, x := range row {
		if bias != nil {
			x += bias[i]
		}
		switch {
		case n < len(values):
			n++
		case !above(x, values[n-1]):
			continue
		}
		at := n - 1
		for ; at > 0 && above(x, values[at-1]); at-- {
			values[at], indices[at] = values[at-1], indices[at-1]
		}
		values[at], indices[at] = x, int32(i)
	}
}

// above reports whether x is larger than y, or a number where y is none.
func above(x, y float64) bool { return x > y || y != y && x == x }

// softmax replaces values by their shares of the sum of exponentials over a
// list that they are part of.
func softmax(values, over []float64) {
	top, sum := exponentials(over)
	for i, x := range values {
		values[i] = math.Exp(x-top) / sum
	}
}

// exponentials returns the largest element of row, and the sum of the elements'
// exponentials divided by that of the largest, which does not overflow.
func exponentials(row []float64) (top, sum float64) {
	top = math.Inf(-1)
	for _, x := range row {
		top = max(top, x)
	}
	for _, x := range row {
		sum += math.Exp(x - top)
	}
	return top, sum
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// ZLoss is the router z-loss of ST-MoE (arXiv 2202.08906), whatever the gate:
// the mean over the tokens of the square of the logarithm of the sum of the
// logits' exponentials.
func ZLoss(b *Batch) float64 {
	sum := 0.0
	for n := range b.Tokens {
		sum += ZTerm(b, n)
	}
	return sum / float64(max(1, b.unmasked(0, b.Tokens)))
}

// ZTerm is what a token adds to the sum whose mean is the z-loss: 0 if it is
// masked.
func ZTerm(b *Batch, token int) float64 {
	if b.masked(token) {
		return 0
	}
	top, scaled := exponentials(b.row(token))
	z := top + math.Log(scaled)
	return z * z
}
