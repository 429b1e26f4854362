package simd

import (
	"fmt"
	"math"
	"testing"
)

// TestRows compares softmax and both normalizations with their definitions in
// float64.
func TestRows(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 100, 768, 4099} {
		x, scale, bias := random[float32](n), random[float32](n + 1)[:n], random[float32](n + 2)[:n]
		for i := range x {
			x[i] += 100 // far from 0, so that variances from squares would be wrong
		}
		var top, sum, mean, variance, square float64
		top = math.Inf(-1)
		for _, v := range x {
			top = max(top, float64(v))
			mean += float64(v) / float64(n)
			square += float64(v) * float64(v) / float64(n)
		}
		for _, v := range x {
			sum += math.Exp(float64(v) - top)
			variance += (float64(v) - mean) * (float64(v) - mean) / float64(n)
		}
		close := func(what string, got, want, tolerance float64) {
			t.Helper()
			if !(math.Abs(got-want) <= tolerance) {
				t.Errorf("%s of %d elements is %v, want %v", what, n, got, want)
			}
		}
		close("Max", float64(Max(x)), top, 0)
		gotMean, gotVariance := Moments(x)
		close("mean", gotMean, mean, 1e-12*mean)
		close("variance", gotVariance, variance, 1e-12*(variance+1))
		close("MeanSquare", MeanSquare(x), square, 1e-12*square)

		out := make([]float32, n)
		Softmax(out, x)
		for i, v := range x {
			close(fmt.Sprintf("Softmax[%d]", i), float64(out[i]), math.Exp(float64(v)-top)/sum, 1e-6*math.Exp(float64(v)-top)/sum+1e-37)
		}
		factor := 1 / math.Sqrt(variance+1e-5)
		Normalize(out, x, scale, bias, float32(gotMean), float32(factor))
		for i, v := range x {
			normal := (float64(v) - mean) * factor * float64(scale[i])
			close(fmt.Sprintf("LayerNorm[%d]", i), float64(out[i]), normal+float64(bias[i]), 1e-5*(math.Abs(normal)+factor*math.Abs(float64(scale[i])*mean)+1))
		}
		factor = 1 / math.Sqrt(square+1e-5)
		Normalize(out, x, scale, nil, 0, float32(factor))
		for i, v := range x {
			want := float64(v) * factor * float64(scale[i])
			close(fmt.Sprintf("RMSNorm[%d]", i), float64(out[i]), want, 1e-6*math.Abs(want))
		}
	}
}

// TestRowSpecialValues: Max does not see what is not a number; softmax cannot
// but return nothing else then, and gives masked elements nothing.
func TestRowSpecialValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for n := range 40 {
		for i := range n {
			x := make([]float32, n)
			for j := range x {
				x[j] = -inf
			}
			x[i] = -3
			if got := Max(x); got != -3 {
				t.Errorf("the greatest of −∞ and −3 is %g", got)
			}
			y := make([]float32, n)
			Softmax(y, x)
			for j := range y {
				if want := float32(0); i != j && y[j] != want || i == j && y[j] != 1 {
					t.Errorf("softmax[%d] is %g where all but element %d are −∞", j, y[j], i)
				}
			}
			x[i], x[(i+1)%n] = nan, -5
			if got := Max(x); n > 1 && got != -5 {
				t.Errorf("the greatest of −∞, NaN and −5 is %g", got)
			}
			x[i] = nan
			Softmax(x, x)
			for j := range x {
				if n > 1 && x[j] == x[j] {
					t.Errorf("softmax[%d] is %g where element %d is not a number", j, x[j], i)
				}
			}
		}
	}
}

func BenchmarkRows(b *testing.B) {
	const n = 768
	x, scale, bias := random[float32](n), random[float32](n), random[float32](n)
	out := make([]float32, n)
	for _, f := range []struct {
		name string
		run  func()
	}{
		{"Max", func() { Max(x) }},
		{"Sum", func() { Sum(x) }},
		{"Softmax", func() { Softmax(out, x) }},
		{"Moments", func() { Moments(x) }},
		{"MeanSquare", func() { MeanSquare(x) }},
		{"Normalize", func() { Normalize(out, x, scale, bias, 0.5, 2) }},
		{"Add", func() { Add(out, x, scale) }},
		{"Div", func() { Div(out, x, scale) }},
		{"Axpy", func() { Axpy(1e-9, x, out) }},
		{"Dot", func() { Dot(x, scale) }},
	} {
		b.Run(f.name, func(b *testing.B) { perElement(b, n, f.run) })
	}
}
