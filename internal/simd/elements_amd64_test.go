//go:build !purego

package simd

import (
	"math"
	"slices"
	"testing"
)

// TestAVX2Elementwise compares assembly and portable Go on numbers from all
// over float32.
func TestAVX2Elementwise(t *testing.T) {
	needAVX2(t)
	a := allOver(2039)
	b, c := slices.Clone(a), slices.Clone(a)
	for i := range b {
		b[i] = a[i*7919%len(a)]
		c[i] = a[i*104729%len(a)]
	}
	for _, f := range elementwise {
		got, want := make([]float32, len(a)), make([]float32, len(a))
		f.apply(got, a, b, c)
		portably(func() { f.apply(want, a, b, c) })
		worst, at := int64(-1), 0
		for i := range got {
			d := ulps(got[i], want[i])
			if f.ulps > 0 && math.Abs(float64(got[i]-want[i])) <= float64(f.ulps)*0x1p-149*math.Abs(float64(a[i])) {
				d = 0 // a subnormal e^x may have been off by one
			}
			if d > worst {
				worst, at = d, i
			}
		}
		t.Logf("%s: up to %d ulps apart, at %g, %g", f.name, worst, a[at], b[at])
		if worst > f.ulps {
			t.Errorf("%s of %g, %g is %g, portably %g: %d ulps apart, not %d", f.name, a[at], b[at], got[at], want[at], worst, f.ulps)
		}
	}
}

// TestAVX2Fused compares where only the size of the terms bounds the error.
func TestAVX2Fused(t *testing.T) {
	needAVX2(t)
	const n = 1000
	a, b, c := random[float32](n), random[float32](n + 1)[:n], random[float32](n + 2)[:n]
	for name, apply := range fused {
		got, want := make([]float32, n), make([]float32, n)
		apply(got, a, b, c)
		portably(func() { apply(want, a, b, c) })
		wide := make([]float64, n)
		for i, x := range want {
			wide[i] = float64(x)
		}
		near(t, name, got, wide, 1)
	}
}

// TestHalfAVX2 compares all conversions to 16-bit floats bit by bit on numbers
// around every representable one.
func TestHalfAVX2(t *testing.T) {
	needAVX2(t)
	var x []float32
	for upper := range uint32(1 << 20) {
		for _, lower := range []uint32{0, 1, 0x7ff, 0x800, 0x801, 0xfff} {
			x = append(x, math.Float32frombits(upper<<12|lower))
		}
	}
	for name, convert := range map[string]func([]uint16, []float32){"Float32ToFloat16": Float32ToFloat16, "Float32ToBFloat16": Float32ToBFloat16} {
		got, want := make([]uint16, len(x)), make([]uint16, len(x))
		convert(got, x)
		portably(func() { convert(want, x) })
		for i := range x {
			if got[i] != want[i] {
				t.Fatalf("%s(%#08x) is %#04x, portably %#04x", name, math.Float32bits(x[i]), got[i], want[i])
			}
		}
	}
	all := make([]uint16, 1<<16)
	for i := range all {
		all[i] = uint16(i)
	}
	for name, convert := range map[string]func([]float32, []uint16){"Float16ToFloat32": Float16ToFloat32, "BFloat16ToFloat32": BFloat16ToFloat32} {
		got, want := make([]float32, len(all)), make([]float32, len(all))
		convert(got, all)
		portably(func() { convert(want, all) })
		for i := range all {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				t.Fatalf("%s(%#04x) is %#08x, portably %#08x", name, i, math.Float32bits(got[i]), math.Float32bits(want[i]))
			}
		}
	}
}

// TestAVX2Reductions compares reductions of every length; [TestAVX2Vectors]
// does so for those in float32.
func TestAVX2Reductions(t *testing.T) {
	needAVX2(t)
	for n := range 150 {
		x := random[float32](n + 3)[3:]
		reduce := func() map[string]float64 {
			mean, variance := Moments(x)
			return map[string]float64{
				"mean": mean, "variance": variance, "MeanSquare": MeanSquare(x),
				"Max": float64(Max(x)), "ExpSum": ExpSum(make([]float32, n), x, Max(x)),
			}
		}
		var want map[string]float64
		portably(func() { want = reduce() })
		for name, got := range reduce() {
			if d := math.Abs(got - want[name]); d > 1e-7*math.Abs(want[name]) {
				t.Errorf("%s of %d elements is %v, portably %v", name, n, got, want[name])
			}
		}
	}
}
