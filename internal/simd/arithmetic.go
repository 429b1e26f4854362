package simd

// Add writes a + b to out. The three have the same length; out may be a or b,
// but must not overlap them otherwise.
func Add(out, a, b []float32) {
	a, b = a[:len(out)], b[:len(out)]
	if avx2 {
		float32Add(out, a, b)
		return
	}
	for i := range out {
		out[i] = a[i] + b[i]
	}
}

// Sub writes a − b to out, under the conditions of [Add].
func Sub(out, a, b []float32) {
	a, b = a[:len(out)], b[:len(out)]
	if avx2 {
		float32Sub(out, a, b)
		return
	}
	for i := range out {
		out[i] = a[i] - b[i]
	}
}

// Mul writes a · b to out, under the conditions of [Add].
func Mul(out, a, b []float32) {
	a, b = a[:len(out)], b[:len(out)]
	if avx2 {
		float32Mul(out, a, b)
		return
	}
	for i := range out {
		out[i] = a[i] * b[i]
	}
}

// Div writes a / b to out, under the conditions of [Add].
func Div(out, a, b []float32) {
	a, b = a[:len(out)], b[:len(out)]
	if avx2 {
		float32Div(out, a, b)
		return
	}
	for i := range out {
		out[i] = a[i] / b[i]
	}
}

// Scale multiplies x by factor.
func Scale(x []float32, factor float32) {
	if avx2 {
		float32Scale(x, factor)
		return
	}
	for i := range x {
		x[i] *= factor
	}
}
