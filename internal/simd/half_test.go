package simd

import (
	"math"
	"testing"
)

// halfFormats are the formats of 16-bit floats.
var halfFormats = []struct {
	name     string
	fraction int // bits
	smallest int // exponent of the smallest normal number
	widen    func([]float32, []uint16)
	narrow   func([]uint16, []float32)
}{
	{"float16", 10, -14, Float16ToFloat32, Float32ToFloat16},
	{"bfloat16", 7, -126, BFloat16ToFloat32, Float32ToBFloat16},
}

// TestHalf goes through all 16-bit floats: each has the value that its bits
// stand for, becomes itself again, and attracts the numbers up to half the way
// to its neighbours; the middle goes to the even one.
func TestHalf(t *testing.T) {
	for _, f := range halfFormats {
		t.Run(f.name, func(t *testing.T) {
			value := func(h int) float64 {
				exponent, fraction := h>>f.fraction, h&(1<<f.fraction-1)
				if exponent == 0 {
					return math.Ldexp(float64(fraction), f.smallest-f.fraction)
				}
				return math.Ldexp(float64(fraction+1<<f.fraction), exponent-1+f.smallest-f.fraction)
			}
			narrow := func(x float32) int {
				var h [9]uint16 // one in a register, one beyond
				f.narrow(h[:], []float32{x, 0, 0, 0, 0, 0, 0, 0, x})
				if h[0] != h[8] {
					t.Fatalf("%g becomes %#04x and %#04x", x, h[0], h[8])
				}
				return int(h[0])
			}
			infinity := 0x7fff &^ (1<<f.fraction - 1)
			all, wide := make([]uint16, 1<<16-1), make([]float32, 1<<16-1)
			for h := range all {
				all[h] = uint16(h)
			}
			f.widen(wide, all)
			for h := range infinity {
				if float64(wide[h]) != value(h) || wide[h|0x8000] != -wide[h] {
					t.Fatalf("%#04x is %g, not %g", h, wide[h], value(h))
				}
				next := float32(value(h + 1)) // 2^128 in bfloat16 is ∞
				middle := float32((value(h) + value(h+1)) / 2)
				cases := []struct {
					x    float32
					want int
				}{
					{wide[h], h}, {-wide[h], h | 0x8000}, {next, h + 1}, {middle, h + h&1},
					{math.Nextafter32(middle, 0), h}, {math.Nextafter32(middle, next), h + 1},
				}
				for _, c := range cases {
					if got := narrow(c.x); got != c.want {
						t.Fatalf("%g becomes %#04x, not %#04x", c.x, got, c.want)
					}
				}
			}
			if !math.IsInf(float64(wide[infinity]), 1) || narrow(float32(math.Inf(1))) != infinity || narrow(float32(math.Inf(-1))) != infinity|0x8000 {
				t.Error("infinity")
			}
			for h := infinity + 1; h < 1<<15; h++ {
				if wide[h] == wide[h] || narrow(wide[h]) != h|1<<(f.fraction-1) {
					t.Fatalf("%#04x, not a number, becomes %g and %#04x", h, wide[h], narrow(wide[h]))
				}
			}
			if lowest := narrow(math.Float32frombits(0x7f800001)); lowest <= infinity {
				t.Errorf("the NaN with the last bit set becomes %#04x", lowest)
			}
		})
	}
}

func BenchmarkHalf(b *testing.B) {
	half, wide := make([]uint16, 4096), make([]float32, 4096)
	for i := range wide {
		wide[i] = float32(i-2048) / 512
	}
	for _, f := range halfFormats {
		b.Run(f.name+" from float32", func(b *testing.B) {
			perElement(b, len(wide), func() { f.narrow(half, wide) })
		})
		b.Run(f.name+" to float32", func(b *testing.B) {
			perElement(b, len(wide), func() { f.widen(wide, half) })
		})
	}
}
