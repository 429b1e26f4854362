package simd

import "math"

// ReLU replaces x by max(x, 0). NaN stays NaN.
func ReLU(x []float32) {
	if avx2 {
		float32ReLU(x)
		return
	}
	for i, v := range x {
		x[i] = max(v, 0)
	}
}

// ReLUSquared replaces x by max(x, 0)².
func ReLUSquared(x []float32) {
	if avx2 {
		float32ReLUSquared(x)
		return
	}
	for i, v := range x {
		v = max(v, 0)
		x[i] = v * v
	}
}

// GELU replaces x by x·Φ(x), Φ being the normal distribution function
// (Hendrycks and Gimpel 2016), with a relative error below 3e-7 for x > −1 and
// 2e-5 down to where the result is 1e-35.
func GELU(x []float32) {
	if avx2 {
		float32GELU(x)
		return
	}
	for i, v := range x {
		x[i] = gelu(v)
	}
}

func gelu(x float32) float32 {
	bits := math.Float32bits(x)
	tail := 0.5 * erfc(math.Float32frombits(bits&^(1<<31))*(math.Sqrt2/2))
	// Φ is tail for negative x, else 1 − tail. Signs are as good as random, so
	// that a branch on them would be slow.
	negative := uint32(int32(bits) >> 31)
	return x * math.Float32frombits(math.Float32bits(tail)&negative|math.Float32bits(1-tail)&^negative)
}

// GELUTanh replaces x by x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))), the
// approximation of [GELU] that is called "tanh" or "gelu_new".
func GELUTanh(x []float32) {
	if avx2 {
		float32GELUTanh(x)
		return
	}
	const (
		linear = 2 * math.Sqrt2 / math.SqrtPi
		cubic  = 0.044715 * linear
	)
	// (1 + tanh u)/2 = 1/(1 + e^−2u)
	for i, v := range x {
		x[i] = v / (1 + exp(-v*(linear+cubic*(v*v))))
	}
}

// SiLU replaces x by x·sigmoid(x).
func SiLU(x []float32) { Swish(x, 1) }

// QuickGELU replaces x by x·sigmoid(1.702·x).
func QuickGELU(x []float32) { Swish(x, 1.702) }

// Swish replaces x by x·sigmoid(α·x).
func Swish(x []float32, alpha float32) {
	if avx2 {
		float32Swish(x, alpha)
		return
	}
	for i, v := range x {
		x[i] = v / (1 + exp(-alpha*v))
	}
}

// SwiGLU writes gate·sigmoid(α·gate)·linear to out. The three have the same
// length; out may be gate or linear (Shazeer 2020).
func SwiGLU(out, gate, linear []float32, alpha float32) {
	gate, linear = gate[:len(out)], linear[:len(out)]
	if avx2 {
		float32SwiGLU(out, gate, linear, alpha)
		return
	}
	for i, v := range gate {
		out[i] = v / (1 + exp(-alpha*v)) * linear[i]
	}
}

// Mish replaces x by x·tanh(ln(1 + e^x)) (Misra 2019).
func Mish(x []float32) {
	if avx2 {
		float32Mish(x)
		return
	}
	for i, v := range x {
		if v > 20 { // tanh(ln(1 + e^x)) rounds to 1
			continue
		}
		e := exp(v)
		n := e * (e + 2)
		x[i] = v * (n / (n + 2))
	}
}

// ReLUGradient writes the elements of gradient for which y, the result of
// [ReLU], is positive to out, and 0 for others. The three have the same
// length; out may be gradient or y.
func ReLUGradient(out, gradient, y []float32) {
	gradient, y = gradient[:len(out)], y[:len(out)]
	if avx2 {
		float32ReLUGradient(out, gradient, y)
		return
	}
	for i, v := range y {
		g := math.Float32bits(gradient[i])
		if !(v > 0) {
			g = 0
		}
		out[i] = math.Float32frombits(g)
	}
}

// GELUGradient writes gradient·GELU′(x) to out: GELU′(x) = Φ(x) + x·φ(x), φ
// being the density of the normal distribution. The three have the same
// length; out may be gradient or x.
func GELUGradient(out, gradient, x []float32) {
	gradient, x = gradient[:len(out)], x[:len(out)]
	if avx2 {
		float32GELUGradient(out, gradient, x)
		return
	}
	const flat = 14 // from here on the density is 0
	for i, v := range x {
		v = max(-flat, min(flat, v))
		density, tail := exp(-v*v/2), 0.5*erfc(max(v, -v)*(math.Sqrt2/2))
		normal := 1 - tail
		if v < 0 {
			normal = tail
		}
		out[i] = gradient[i] * (normal + v*(density*(0.5*math.Sqrt2/math.SqrtPi)))
	}
}

// GELUTanhGradient writes gradient·GELUTanh′(x) to out, under the conditions
// of [GELUGradient].
func GELUTanhGradient(out, gradient, x []float32) {
	gradient, x = gradient[:len(out)], x[:len(out)]
	if avx2 {
		float32GELUTanhGradient(out, gradient, x)
		return
	}
	const (
		flat   = 10 // from here on the slope is 0 or 1
		linear = 2 * math.Sqrt2 / math.SqrtPi
		cubic  = 0.044715 * linear
	)
	for i, v := range x {
		v = max(-flat, min(flat, v))
		e := exp(-v * (linear + cubic*(v*v)))
		s := 1 / (1 + e)
		out[i] = gradient[i] * (s + v*(linear+3*cubic*(v*v))*(s*(e*s)))
	}
}

// SwishGradient writes gradient·Swish′(x) to out, Swish′(x) being
// s + α·x·s·(1 − s) for s = sigmoid(α·x), under the conditions of
// [GELUGradient].
func SwishGradient(out, gradient, x []float32, alpha float32) {
	gradient, x = gradient[:len(out)], x[:len(out)]
	if avx2 {
		float32SwishGradient(out, gradient, x, alpha)
		return
	}
	const flat = 88 // from here on the slope is 0 or 1
	for i, v := range x {
		v = max(-flat, min(flat, alpha*v))
		e := exp(-v)
		s := 1 / (1 + e)
		out[i] = gradient[i] * (s + v*(s*(e*s))) // 1 − s is e·s, without cancellation
	}
}

// GELUSlope writes GELU(x) to value and GELU′(x) to slope, for the price of one
// of them. The three have the same length; value may be x.
func GELUSlope(value, slope, x []float32) {
	value, slope = value[:len(x)], slope[:len(x)]
	if avx2 {
		float32GELUSlope(value, slope, x)
		return
	}
	const flat = 14 // from here on the density is 0
	for i, v := range x {
		density := exp(-v * v * 0.5)
		normal := erfcx(max(v, -v)*(math.Sqrt2/2)) * density * 0.5
		if v >= 0 {
			normal = 1 - normal
		}
		value[i], slope[i] = v*normal, normal+max(-flat, min(flat, v))*(density*(0.5*math.Sqrt2/math.SqrtPi))
	}
}

// SwishSlope is likewise for Swish.
func SwishSlope(value, slope, x []float32, alpha float32) {
	value, slope = value[:len(x)], slope[:len(x)]
	if avx2 {
		float32SwishSlope(value, slope, x, alpha)
		return
	}
	const flat = 88 // from here on the slope is 0 or 1
	for i, v := range x {
		e := exp(-alpha * v)
		s := 1 / (1 + e)
		rest := min(e, 0x1p126) * s // 1 − s without cancellation
		value[i], slope[i] = v/(1+e), s+max(-flat, min(flat, alpha*v))*(s*rest)
	}
}
