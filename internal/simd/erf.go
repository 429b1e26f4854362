package simd

// Erf replaces x by the Gauss error function of it, with a relative error
// below 3e-7.
func Erf(x []float32) {
	if avx2 {
		float32Erf(x)
		return
	}
	for i, v := range x {
		x[i] = erf(v)
	}
}

func erf(x float32) float32 {
	a := x
	if a < 0 {
		a = -a
	}
	if a < 0.6 {
		s := x * x
		p := float32(-7.3509955e-4)
		p = p*s + 5.1768936e-3
		p = p*s - 2.6857518e-2
		p = p*s + 1.1283719e-1
		p = p*s - 3.7612637e-1
		p = p*s + 1.1283792
		return x * p
	}
	y := 1 - erfc(a)
	if x < 0 {
		return -y
	}
	return y
}

// erfc returns 1 − erf(a) for a ≥ 0 without cancellation: e^(−a²) times a
// polynomial of t = 1/(1 + a/2) that was fitted to a ≤ 10; beyond, erfc is
// below what a float32 can hold.
func erfc(a float32) float32 { return erfcx(a) * exp(-a*a) }

// erfcx is the polynomial times t.
func erfcx(a float32) float32 {
	t := 2 / (2 + a)
	p := float32(-5.9068985e-2)
	p = p*t + 2.8457508e-1
	p = p*t - 4.8720013e-1
	p = p*t + 2.7806741e-1
	p = p*t - 2.6625827e-2
	p = p*t + 2.0268694e-1
	p = p*t + 2.4310374e-1
	p = p*t + 2.8237531e-1
	p = p*t + 2.8208642e-1
	return p * t
}
