package moe

import "math"

// capacity returns the capacity factor that applies to a batch.
func (c *Config) capacity(b *Batch) float64 {
	if b.Training {
		return c.CapacityTrain
	}
	return c.CapacityEval
}

// rows returns the number of rows ⌈c·tokens/parts⌉, or no less than there can
// be where c is Unlimited.
func rows(c float64, tokens, parts int) int {
	if x := math.Ceil(c * float64(tokens) / float64(parts)); c != Unlimited && x < float64(tokens) {
		return int(x)
	}
	return tokens
}

// grant gives each expert at most the given number of rows of the tokens
// lo … hi, to slots in their order: token by token, a token's best first. It
// drops the others. used [T] is memory that it needs.
func (b *Batch) grant(lo, hi, slots, rows int, used []int) {
	clear(used)
	for s := lo * slots; s < hi*slots; s++ {
		e := b.Indices[s]
		if e < 0 {
			continue
		}
		if used[e] == rows {
			b.Indices[s], b.Scores[s] = -1, 0
			continue
		}
		used[e]++
	}
}

// part returns the tokens lo … hi that are on a worker: a batch is that of all
// workers, each of which has an equal part, one after the other.
func (b *Batch) part(worker, workers int) (lo, hi int) {
	return worker * b.Tokens / workers, (worker + 1) * b.Tokens / workers
}

// unmasked returns how many of the tokens lo … hi experts shall compute.
func (b *Batch) unmasked(lo, hi int) int {
	if b.Mask == nil {
		return hi - lo
	}
	count := 0
	for _, m := range b.Mask[lo:hi] {
		if m {
			count++
		}
	}
	return count
}
