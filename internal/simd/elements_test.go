package simd

import (
	"math"
	"testing"
)

// transcendental is how far results of exp and what is made of it may lie
// apart, as the package's documentation says.
const transcendental = 5

// elementwise are the functions of which each element of the result depends on
// the same elements of the operands alone. apply writes that of a, b and c to
// out, which may be a.
var elementwise = []struct {
	name  string
	apply func(out, a, b, c []float32)

	// ulps is how far the assembly and the portable result may lie apart.
	ulps int64
}{
	{"Exp", inPlace(Exp), transcendental},
	{"Sigmoid", inPlace(Sigmoid), transcendental},
	{"Tanh", inPlace(Tanh), transcendental},
	{"Erf", inPlace(Erf), transcendental},
	{"ReLU", inPlace(ReLU), 0},
	{"ReLUSquared", inPlace(ReLUSquared), 0},
	{"GELU", inPlace(GELU), transcendental},
	{"GELUTanh", inPlace(GELUTanh), transcendental},
	{"SiLU", inPlace(SiLU), transcendental},
	{"QuickGELU", inPlace(QuickGELU), transcendental},
	{"Swish", inPlace(func(x []float32) { Swish(x, -0.3) }), transcendental},
	{"Mish", inPlace(Mish), transcendental},
	{"GELUSlope", func(out, a, _, _ []float32) { GELUSlope(out, make([]float32, len(a)), a) }, transcendental},
	{"SwishSlope", func(out, a, _, _ []float32) { SwishSlope(out, make([]float32, len(a)), a, 1.3) }, transcendental},
	{"SwiGLU", func(out, a, b, _ []float32) { SwiGLU(out, a, b, 1.3) }, transcendental},
	{"ReLUGradient", func(out, a, b, _ []float32) { ReLUGradient(out, a, b) }, 0},
	{"Add", func(out, a, b, _ []float32) { Add(out, a, b) }, 0},
	{"Sub", func(out, a, b, _ []float32) { Sub(out, a, b) }, 0},
	{"Mul", func(out, a, b, _ []float32) { Mul(out, a, b) }, 0},
	{"Div", func(out, a, b, _ []float32) { Div(out, a, b) }, 0},
	{"Scale", inPlace(func(x []float32) { Scale(x, 1.7) }), 0},
	{"Normalize", func(out, a, _, _ []float32) { Normalize(out, a, nil, nil, 1.1, 0.3) }, 0},
	{"Normalize with scale", func(out, a, b, _ []float32) { Normalize(out, a, b, nil, 1.1, 0.3) }, 0},
	{"ExpSum", func(out, a, _, _ []float32) { ExpSum(out, a, 0.7) }, transcendental},
}

// fused are those functions whose assembly rounds once where the portable
// code rounds twice, so that they differ where a sum cancels.
var fused = map[string]func(out, a, b, c []float32){
	"Axpy":                func(out, a, b, _ []float32) { copy(out, a); Axpy(-1.5, b, out) },
	"GELUGradient":        func(out, a, b, _ []float32) { GELUGradient(out, a, b) },
	"GELUTanhGradient":    func(out, a, b, _ []float32) { GELUTanhGradient(out, a, b) },
	"SwishGradient":       func(out, a, b, _ []float32) { SwishGradient(out, a, b, 1.3) },
	"slope of GELUSlope":  func(out, a, _, _ []float32) { GELUSlope(make([]float32, len(a)), out, a) },
	"slope of SwishSlope": func(out, a, _, _ []float32) { SwishSlope(make([]float32, len(a)), out, a, 1.3) },
	"Normalize with bias": func(out, a, b, c []float32) { Normalize(out, a, b, c, 1.1, 0.3) },
}

func inPlace(f func([]float32)) func(out, a, b, c []float32) {
	return func(out, a, _, _ []float32) {
		copy(out, a)
		f(out)
	}
}

// allOver returns numbers of both signs from all over float32, and every kind
// of special one.
func allOver(step uint32) []float32 {
	inf := float32(math.Inf(1))
	list := []float32{0, 1, 20, 20.000002, 0.6, 0.59999996, 9.5, 88.722839, 88.72284, 88.8, 89, 103.97208, 103.972084, 104, 150,
		math.MaxFloat32, math.SmallestNonzeroFloat32, 0x1p-126, 0x1p-126 - 0x1p-149, inf, float32(math.NaN())}
	for magnitude := uint32(0); magnitude < 0x7f800000; magnitude += step {
		list = append(list, math.Float32frombits(magnitude))
	}
	for _, x := range list {
		list = append(list, -x)
	}
	return list
}

// order maps float32 numbers to integers, neighbours to neighbours.
func order(x float32) int64 {
	bits := int64(math.Float32bits(x))
	if bits >= 1<<31 {
		return 1<<31 - bits
	}
	return bits
}

// ulps returns how far apart x and y are, 0 for two that are not numbers.
func ulps(x, y float32) int64 {
	switch {
	case x != x && y != y:
		return 0
	case x != x || y != y:
		return math.MaxInt64
	}
	return max(order(x)-order(y), order(y)-order(x))
}

// TestElementsAreIndependent: an element has the same bits wherever it lies,
// whatever its neighbours, and nothing beyond the slices is touched.
func TestElementsAreIndependent(t *testing.T) {
	all := map[string]func(out, a, b, c []float32){}
	for _, f := range elementwise {
		all[f.name] = f.apply
	}
	for name, f := range fused {
		all[name] = f
	}
	const most = 70
	special := allOver(1 << 26)
	for name, apply := range all {
		for n := range most + 1 {
			offset := n % 9
			operand := func(seed int) []float32 {
				x := random[float32](most + 20 + seed)[offset:][:n]
				for i := seed; i < n; i += 5 {
					x[i] = special[(i+n)*31%len(special)]
				}
				return x
			}
			a, b, c := operand(0), operand(1), operand(2)
			memory := dirty[float32](n + 32)
			out := memory[16+offset/2:][:n:n]
			apply(out, a, b, c)
			for i := range memory {
				if inside := i >= 16+offset/2 && i < 16+offset/2+n; !inside && memory[i] != 77 {
					t.Fatalf("%s of %d elements overwrites %d", name, n, i-16-offset/2)
				}
			}
			for i := range out {
				var alone [1]float32
				apply(alone[:], a[i:i+1], b[i:i+1], c[i:i+1])
				if math.Float32bits(alone[0]) != math.Float32bits(out[i]) && (alone[0] == alone[0] || out[i] == out[i]) {
					t.Fatalf("%s of %g, %g, %g is %g alone and %g as element %d of %d", name, a[i], b[i], c[i], alone[0], out[i], i, n)
				}
			}
			apply(a, a, b, c)
			for i := range out {
				if ulps(a[i], out[i]) != 0 {
					t.Fatalf("%s in place: element %d of %d is %g, not %g", name, i, n, a[i], out[i])
				}
			}
		}
	}
}
