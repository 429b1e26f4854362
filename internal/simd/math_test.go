package simd

import (
	"math"
	"testing"
)

// TestMathAgainstFloat64 walks over the float32 numbers of both signs and
// compares every function with its definition in float64.
func TestMathAgainstFloat64(t *testing.T) {
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	for _, f := range []struct {
		name      string
		vector    func([]float32)
		reference func(float64) float64
		relative  float64
	}{
		{"Exp", Exp, math.Exp, 2e-7},
		{"Sigmoid", Sigmoid, sigmoid, 3e-7},
		{"Tanh", Tanh, math.Tanh, 3e-7},
		{"Erf", Erf, math.Erf, 3e-7},
		{"ReLU", ReLU, func(x float64) float64 { return math.Max(x, 0) }, 0},
		{"ReLUSquared", ReLUSquared, func(x float64) float64 { return math.Max(x, 0) * math.Max(x, 0) }, 1e-7},
		{"GELU", GELU, func(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) }, 2e-5},
		{"GELUTanh", GELUTanh, func(x float64) float64 {
			return x * sigmoid(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))
		}, 2e-5},
		{"SiLU", SiLU, func(x float64) float64 { return x * sigmoid(x) }, 5e-7},
		{"QuickGELU", QuickGELU, func(x float64) float64 { return x * sigmoid(1.702*x) }, 1e-5},
		{"Mish", Mish, func(x float64) float64 { return x * math.Tanh(math.Log1p(math.Exp(x))) }, 1e-6},
		{"GELUSlope", func(x []float32) { GELUSlope(x, make([]float32, len(x)), x) }, func(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) }, 2e-5},
		{"SwishSlope", func(x []float32) { SwishSlope(x, make([]float32, len(x)), x, 1) }, func(x float64) float64 { return x * sigmoid(x) }, 5e-7},
	} {
		t.Run(f.name, func(t *testing.T) {
			worst, at := 0.0, float32(0)
			for magnitude := uint32(0); magnitude < 0x7f800000; magnitude += 4801 {
				for _, sign := range []uint32{0, 1 << 31} {
					x := math.Float32frombits(magnitude | sign)
					got := []float32{x}
					f.vector(got)
					want := f.reference(float64(x))
					if want32 := float32(want); got[0] == want32 || math.Abs(want) < 1e-35 && math.Abs(float64(got[0])) < 1e-35 {
						continue
					}
					if e := math.Abs(float64(got[0])-want) / math.Abs(want); !(e <= worst) {
						worst, at = e, x
					}
				}
			}
			t.Logf("largest relative error %.2g at %g", worst, at)
			if !(worst <= f.relative) {
				t.Errorf("relative error %.3g at %g exceeds %g", worst, at, f.relative)
			}
		})
	}
}

func TestMathSpecialValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		name    string
		vector  func([]float32)
		x, want float32
	}{
		{"Exp", Exp, inf, inf}, {"Exp", Exp, -inf, 0}, {"Exp", Exp, nan, nan}, {"Exp", Exp, 0, 1},
		{"Exp", Exp, 88.8, inf}, {"Exp", Exp, -104, 0}, {"Exp", Exp, -103.5, math.Float32frombits(1)},
		{"Sigmoid", Sigmoid, inf, 1}, {"Sigmoid", Sigmoid, -inf, 0}, {"Sigmoid", Sigmoid, nan, nan},
		{"Tanh", Tanh, inf, 1}, {"Tanh", Tanh, -inf, -1}, {"Tanh", Tanh, nan, nan},
		{"Erf", Erf, inf, 1}, {"Erf", Erf, -inf, -1}, {"Erf", Erf, nan, nan},
		{"ReLU", ReLU, inf, inf}, {"ReLU", ReLU, -inf, 0}, {"ReLU", ReLU, nan, nan},
		{"GELU", GELU, inf, inf}, {"GELU", GELU, nan, nan}, {"GELU", GELU, 0, 0},
		{"SiLU", SiLU, inf, inf}, {"SiLU", SiLU, -1e30, 0}, {"SiLU", SiLU, nan, nan},
		{"Mish", Mish, inf, inf}, {"Mish", Mish, nan, nan},
	} {
		got := []float32{c.x}
		c.vector(got)
		if got[0] != c.want && !(c.want != c.want && got[0] != got[0]) {
			t.Errorf("%s(%g) = %g, want %g", c.name, c.x, got[0], c.want)
		}
	}
}

// TestSlopesAgainstFloat64 compares the derivatives of activations with
// central differences of their definitions in float64, and where they are flat.
func TestSlopesAgainstFloat64(t *testing.T) {
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	for _, f := range []struct {
		name     string
		gradient func(out, gradient, x []float32)
		function func(float64) float64
	}{
		{"GELU", GELUGradient, func(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) }},
		{"GELUTanh", GELUTanhGradient, func(x float64) float64 { return x * sigmoid(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)) }},
		{"GELUSlope", func(out, _, x []float32) { GELUSlope(make([]float32, len(x)), out, x) }, func(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) }},
		{"SwishSlope", func(out, _, x []float32) { SwishSlope(make([]float32, len(x)), out, x, 1) }, func(x float64) float64 { return x * sigmoid(x) }},
		{"SiLU", func(out, gradient, x []float32) { SwishGradient(out, gradient, x, 1) }, func(x float64) float64 { return x * sigmoid(x) }},
		{"QuickGELU", func(out, gradient, x []float32) { SwishGradient(out, gradient, x, 1.702) }, func(x float64) float64 { return x * sigmoid(1.702*x) }},
	} {
		worst := 0.0
		slope := func(x float32) float64 {
			out := make([]float32, 1)
			f.gradient(out, []float32{1}, []float32{x})
			return float64(out[0])
		}
		for x := float32(-20); x < 20; x += 0x1p-9 {
			const step = 1e-5
			want := (f.function(float64(x)+step) - f.function(float64(x)-step)) / (2 * step)
			worst = max(worst, math.Abs(slope(x)-want))
		}
		t.Logf("%s: largest error %.2g", f.name, worst)
		if !(worst < 5e-7) {
			t.Errorf("%s: the largest error of the derivative is %.3g", f.name, worst)
		}
		for _, x := range []float64{1e30, math.Inf(1), math.NaN()} {
			if up, down := slope(float32(x)), slope(float32(-x)); x > 0 && (up != 1 || math.Abs(down) > 1e-30) || x != x && up == up {
				t.Errorf("%s: the derivative is %g at %g and %g at %g", f.name, up, x, down, -x)
			}
		}
	}
}

func BenchmarkMath(b *testing.B) {
	for _, f := range []struct {
		name   string
		vector func([]float32)
	}{
		{"Exp", Exp}, {"Sigmoid", Sigmoid}, {"Tanh", Tanh}, {"Erf", Erf}, {"ReLU", ReLU}, {"ReLUSquared", ReLUSquared},
		{"GELU", GELU}, {"GELUTanh", GELUTanh}, {"SiLU", SiLU}, {"Mish", Mish},
		{"SwiGLU", func(x []float32) { SwiGLU(x, x, x, 1) }},
		{"GELUGradient", func(x []float32) { GELUGradient(x, x, x) }}, {"SwishGradient", func(x []float32) { SwishGradient(x, x, x, 1) }},
	} {
		b.Run(f.name, func(b *testing.B) {
			source, x := make([]float32, 4096), make([]float32, 4096)
			for i := range source {
				source[i] = float32(i-2048) / 512
			}
			perElement(b, len(x), func() {
				copy(x, source)
				f.vector(x)
			})
		})
	}
}

// perElement measures f, which computes n elements, in elements per
// nanosecond.
func perElement(b *testing.B, n int, f func()) {
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(n)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "elements/ns")
}
