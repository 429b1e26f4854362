package simd

import "math"

// AddMask adds mask, of the same length, to x. Where mask is −∞, so is x then,
// whatever it was.
func AddMask(x, mask []float32) {
	mask = mask[:len(x)]
	if avx2 {
		float32AddMask(x, mask)
		return
	}
	least := float32(math.Inf(-1))
	for i, m := range mask {
		if m == least {
			x[i] = least
		} else {
			x[i] += m
		}
	}
}

// Keep makes x −∞ where mask, of the same length, does not hold.
func Keep(x []float32, mask []bool) {
	mask = mask[:len(x)]
	done := keepAVX2(x, mask)
	for i, kept := range mask[done:] {
		if !kept {
			x[done+i] = float32(math.Inf(-1))
		}
	}
}
