package simd

// Moments returns the mean of x and its variance, that of a whole population.
// Both are added up in float64 as interleaved sums, the variance from
// the differences to the mean.
func Moments(x []float32) (mean, variance float64) {
	n := float64(len(x))
	mean = wideSum(x) / n
	return mean, deviation(x, mean) / n
}

// MeanSquare returns Σ x² / n, added up as by [Moments].
func MeanSquare(x []float32) float64 { return deviation(x, 0) / float64(len(x)) }

// wideSum returns Σ x[i].
func wideSum(x []float32) float64 {
	if avx2 {
		return float32WideSum(x)
	}
	var s0, s1, s2, s3 float64
	for ; len(x) >= 4; x = x[4:] {
		s0 += float64(x[0])
		s1 += float64(x[1])
		s2 += float64(x[2])
		s3 += float64(x[3])
	}
	for _, v := range x {
		s0 += float64(v)
	}
	return (s0 + s2) + (s1 + s3)
}

// deviation returns Σ (x[i] − mean)².
func deviation(x []float32, mean float64) float64 {
	if avx2 {
		return float32Deviation(x, mean)
	}
	var s0, s1 float64
	for ; len(x) >= 2; x = x[2:] {
		d, e := float64(x[0])-mean, float64(x[1])-mean
		s0 += d * d
		s1 += e * e
	}
	for _, v := range x {
		d := float64(v) - mean
		s0 += d * d
	}
	return s0 + s1
}

// Normalize writes (x − mean)·factor·scale + bias to out, the last steps of
// LayerNormalization and, with a mean of 0, RMSNormalization. All slices have
// x's length, but bias may be nil, and scale too where bias is; out may be any
// of the others.
func Normalize(out, x, scale, bias []float32, mean, factor float32) {
	out = out[:len(x)]
	if scale != nil {
		scale = scale[:len(x)]
	}
	if bias != nil {
		bias = bias[:len(x)]
	}
	if avx2 {
		float32Normalize(out, x, scale, bias, mean, factor)
		return
	}
	switch {
	case scale == nil:
		for i, v := range x {
			out[i] = (v - mean) * factor
		}
	case bias == nil:
		for i, v := range x {
			out[i] = (v - mean) * factor * scale[i]
		}
	default:
		for i, v := range x {
			out[i] = (v-mean)*factor*scale[i] + bias[i]
		}
	}
}
