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

func BenchmarkMath(b *testing.B) {
	for _, f := range []struct {
		name   string
		vector func([]float32)
	}{
		{"Exp", Exp}, {"Sigmoid", Sigmoid}, {"Tanh", Tanh}, {"Erf", Erf}, {"ReLU", ReLU}, {"ReLUSquared", ReLUSquared},
		{"GELU", GELU}, {"GELUTanh", GELUTanh}, {"SiLU", SiLU}, {"Mish", Mish},
		{"SwiGLU", func(x []float32) { SwiGLU(x, x, x, 1) }},
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
