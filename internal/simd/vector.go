package simd

// Axpy adds alpha·x to y. y has at least x's length.
func Axpy[T Number](alpha T, x, y []T) {
	y = y[:len(x)]
	if axpyAVX2(alpha, x, y) {
		return
	}
	for len(x) >= 4 {
		p, q := (*[4]T)(x), (*[4]T)(y)
		q[0] += alpha * p[0]
		q[1] += alpha * p[1]
		q[2] += alpha * p[2]
		q[3] += alpha * p[3]
		x, y = x[4:], y[4:]
	}
	for i, v := range x {
		y[i] += alpha * v
	}
}

// Dot returns Σ x[i]·y[i], as interleaved sums. y has at least x's length.
func Dot[T Number](x, y []T) T {
	y = y[:len(x)]
	if s, ok := dotAVX2(x, y); ok {
		return s
	}
	var s0, s1, s2, s3 T
	for len(x) >= 4 {
		p, q := (*[4]T)(x), (*[4]T)(y)
		s0 += p[0] * q[0]
		s1 += p[1] * q[1]
		s2 += p[2] * q[2]
		s3 += p[3] * q[3]
		x, y = x[4:], y[4:]
	}
	for i, v := range x {
		s0 += v * y[i]
	}
	return (s0 + s2) + (s1 + s3)
}

// Sum returns Σ x[i], as interleaved sums.
func Sum[T Number](x []T) T {
	if s, ok := sumAVX2(x); ok {
		return s
	}
	var s0, s1, s2, s3 T
	for len(x) >= 4 {
		p := (*[4]T)(x)
		s0 += p[0]
		s1 += p[1]
		s2 += p[2]
		s3 += p[3]
		x = x[4:]
	}
	for _, v := range x {
		s0 += v
	}
	return (s0 + s2) + (s1 + s3)
}
