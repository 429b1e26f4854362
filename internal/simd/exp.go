package simd

import "math"

// Exp replaces x by e^x, with a relative error below 2e-7.
func Exp(x []float32) {
	if avx2 {
		float32Exp(x)
		return
	}
	for i, v := range x {
		x[i] = exp(v)
	}
}

// Sigmoid replaces x by 1/(1+e^-x), with a relative error below 3e-7.
func Sigmoid(x []float32) {
	if avx2 {
		float32Sigmoid(x)
		return
	}
	for i, v := range x {
		x[i] = 1 / (1 + exp(-v))
	}
}

// Tanh replaces x by its hyperbolic tangent, with a relative error below
// 3e-7.
func Tanh(x []float32) {
	if avx2 {
		float32Tanh(x)
		return
	}
	for i, v := range x {
		x[i] = tanh(v)
	}
}

const (
	expOverflow  = 88.722839  // the last x with a finite e^x
	expUnderflow = -103.97208 // e^x rounds to 0 below it
)

func exp(x float32) float32 {
	switch {
	case x > expOverflow:
		return float32(math.Inf(1))
	case x < expUnderflow:
		return 0
	case x != x:
		return x
	}
	n, y := reduceExp(x)
	// 2^n may lie outside float32 where e^x does not: apply it in halves.
	half := n >> 1
	return (y + 1) * power2(half) * power2(n-half)
}

// reduceExp splits x = n·ln 2 + r, so that e^x = 2^n·e^r with |r| ≤ ln 2 / 2,
// and returns n and e^r − 1.
func reduceExp(x float32) (n int32, y float32) {
	const (
		ln2High = 0.693359375 // few bits, so that n·ln2High is exact
		ln2Low  = math.Ln2 - ln2High
		shift   = 3 << 22 // added and subtracted, it rounds to an integer
	)
	whole := float32(x*math.Log2E+shift) - shift
	r := x - whole*ln2High - whole*ln2Low
	p := float32(1.3950602e-3)
	p = p*r + 8.3689535e-3
	p = p*r + 4.1666206e-2
	p = p*r + 1.6666518e-1
	p = p*r + 0.5
	return int32(whole), p*(r*r) + r
}

// power2 returns 2^k for −126 ≤ k ≤ 127.
func power2(k int32) float32 { return math.Float32frombits(uint32(k+127) << 23) }

// tanh is m/(m + 2) with m = e^2|x| − 1, which is accurate near 0 too.
func tanh(x float32) float32 {
	const one = 9.5 // tanh rounds to 1 from here on
	sign := math.Float32bits(x) & (1 << 31)
	a := min(math.Float32frombits(math.Float32bits(x)&^(1<<31)), one)
	if a != a {
		return x
	}
	n, y := reduceExp(2 * a)
	scale := power2(n)
	m := scale*y + (scale - 1)
	return math.Float32frombits(math.Float32bits(m/(m+2)) | sign)
}
