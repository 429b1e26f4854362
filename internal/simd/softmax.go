package simd

import "math"

// Softmax writes e^x / Σ e^x to out, which may be x and has its length.
func Softmax(out, x []float32) {
	sum := ExpSum(out, x, Max(x))
	Scale(out[:len(x)], float32(1/sum))
}

// ExpSum writes e^(x − shift) to out, which may be x and has its length, and
// returns the sum of what it wrote, added up in float64. With the greatest
// element as shift nothing overflows.
func ExpSum(out, x []float32, shift float32) float64 {
	out = out[:len(x)]
	if avx2 {
		return float32ExpSum(out, x, shift)
	}
	for i, v := range x {
		out[i] = exp(v - shift)
	}
	return wideSum(out)
}

// Max returns the greatest element of x that is a number, −∞ if there is
// none.
func Max(x []float32) float32 {
	if avx2 {
		return float32Max(x)
	}
	a := float32(math.Inf(-1))
	b := a
	for ; len(x) >= 2; x = x[2:] {
		if x[0] > a {
			a = x[0]
		}
		if x[1] > b {
			b = x[1]
		}
	}
	if len(x) > 0 && x[0] > a {
		a = x[0]
	}
	return max(a, b)
}
