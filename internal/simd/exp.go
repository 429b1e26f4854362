package simd

import "math"

// Exp replaces x by e^x, with a relative error below 2e-7.
func Exp(x []float32) {
	for i, v := range x {
		x[i] = exp(v)
	}
}

// Sigmoid replaces x by 1/(1+e^-x), with a relative error below 3e-7.
func Sigmoid(x []float32) {
	for i, v := range x {
		x[i] = 1 / (1 + exp(-v))
	}
}

// Tanh replaces x by its hyperbolic tangent, with a relative error below
// 3e-7.
func Tanh(x []float32) {
	for i, v := range x {
		x[i] = tanh(v)
	}
}

// exp splits x = n·ln 2 + r, so that e^x = 2^n·e^r with |r| ≤ ln 2 / 2, where
// a polynomial is accurate.
func exp(x float32) float32 {
	const (
		overflow  = 88.722839  // the last x with a finite e^x
		underflow = -103.97208 // e^x rounds to 0 below it
		log2e     = math.Log2E
		ln2High   = 0.693359375 // few bits, so that n·ln2High is exact
		ln2Low    = math.Ln2 - ln2High
		shift     = 3 << 22 // added and subtracted, it rounds to an integer
	)
	switch {
	case x > overflow:
		return float32(math.Inf(1))
	case x < underflow:
		return 0
	case x != x:
		return x
	}
	n := float32(x*log2e+shift) - shift
	r := x - n*ln2High - n*ln2Low
	p := float32(1.3950602e-3)
	p = p*r + 8.3689535e-3
	p = p*r + 4.1666206e-2
	p = p*r + 1.6666518e-1
	p = p*r + 0.5
	y := p*(r*r) + r + 1
	// 2^n may lie outside float32 where 2^n·y does not: apply it in halves.
	k := int32(n)
	half := k >> 1
	return y * power2(half) * power2(k-half)
}

// power2 returns 2^k for −126 ≤ k ≤ 127.
func power2(k int32) float32 { return math.Float32frombits(uint32(k+127) << 23) }

// tanh is a polynomial near 0, where 1 − 2/(e^2x + 1) would cancel.
func tanh(x float32) float32 {
	a := x
	if a < 0 {
		a = -a
	}
	if a < 0.6 {
		s := x * x
		p := float32(-5.9058674e-3)
		p = p*s + 2.0805383e-2
		p = p*s - 5.3786684e-2
		p = p*s + 1.3331959e-1
		p = p*s - 3.33333e-1
		return x + x*(s*p)
	}
	y := 1 - 2/(exp(2*a)+1)
	if x < 0 {
		return -y
	}
	return y
}
