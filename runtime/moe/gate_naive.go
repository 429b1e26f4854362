package moe

import "math"

// Naive is FastMoE's plain gate: the k largest logits, the lower index first
// where two are equal (as ONNX's TopK has it), weighted by a softmax over
// those k, or with Normalize unset over all experts. It has no noise, no
// capacity and no balance loss.
type Naive[T Float] struct {
	Experts, TopK int
	Normalize     bool
}

// Route implements [Gate].
func (g *Naive[T]) Route(logits []T, indices []int32, scores []T) {
	k := g.TopK
	for len(indices) >= k {
		row := logits[:g.Experts]
		largest(row, indices[:k], scores[:k])
		over := scores[:k]
		if !g.Normalize {
			over = row
		}
		softmax(scores[:k], over)
		logits, indices, scores = logits[g.Experts:], indices[k:], scores[k:]
	}
}

// largest finds the len(values) largest elements of row, in descending order,
// by insertion: the lists are short. Elements that are not a number count as
// smallest, so that every index is set.
func largest[T Float](row []T, indices []int32, values []T) {
	n := 0
	for i, x := range row {
		at := n
		for at > 0 && (x > values[at-1] || values[at-1] != values[at-1] && x == x) {
			at--
		}
		if at == len(values) {
			continue
		}
		n = min(n+1, len(values))
		copy(values[at+1:n], values[at:n-1])
		copy(indices[at+1:n], indices[at:n-1])
		values[at], indices[at] = x, int32(i)
	}
}

// softmax replaces the values, largest first, by their share of the sum over
// a list of which they are the largest.
func softmax[T Float](values, over []T) {
	top, sum := values[0], 0.0
	for _, x := range over {
		sum += math.Exp(float64(x - top))
	}
	for i, x := range values {
		values[i] = T(math.Exp(float64(x-top)) / sum)
	}
}
