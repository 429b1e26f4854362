package simd

import (
	"math"
	"testing"
)

// TestMasks: what is hidden is −∞, whatever it was.
func TestMasks(t *testing.T) {
	inf := float32(math.Inf(1))
	for n := range 40 {
		x := random[float32](n)
		mask, kept, added := make([]bool, n), make([]float32, n), make([]float32, n)
		bias := random[float32](n + 1)[:n]
		for i := range x {
			if i%5 == 0 {
				x[i] = inf
			}
			mask[i] = i%3 != 0
			kept[i], added[i] = x[i], x[i]
			if !mask[i] {
				bias[i] = -inf
			}
		}
		Keep(kept, mask)
		AddMask(added, bias)
		for i, v := range x {
			want, sum := v, v+bias[i]
			if !mask[i] {
				want, sum = -inf, -inf
			}
			if kept[i] != want || added[i] != sum {
				t.Fatalf("element %d of %d: kept %g, want %g; added %g, want %g", i, n, kept[i], want, added[i], sum)
			}
		}
	}
}
