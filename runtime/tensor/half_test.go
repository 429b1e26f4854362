package tensor

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestFloat32ToFloat16(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, c := range []struct {
		x    float64
		want uint16
	}{
		{0, 0}, {math.Copysign(0, -1), 0x8000}, {1, 0x3c00}, {-2, 0xc000}, {65504, 0x7bff},
		{65519.99, 0x7bff}, {65520, 0x7c00}, {1e30, 0x7c00}, {inf, 0x7c00}, {-inf, 0xfc00}, {nan, 0x7e00},
		{1 + 0x1p-11, 0x3c00},           // a tie, to even
		{1 + 0x3p-11, 0x3c02},           // a tie, to even
		{1 + 0x1p-11 + 0x1p-40, 0x3c01}, // just above a tie, which float32 cannot tell
		{0x1p-14, 0x0400}, {0x1p-24, 1}, {0x1p-25, 0}, {0x1.1p-25, 1}, {0x3p-25, 2}, {1e-30, 0},
	} {
		src, dst := Scalar(c.x), New(onnx.Float16)
		ConvertFloat(dst, src)
		if got := Of[uint16](dst)[0]; got != c.want {
			t.Errorf("float16 of %v is %#x, want %#x", c.x, got, c.want)
		}
	}
}

func TestFloat32ToBFloat16(t *testing.T) {
	for _, c := range []struct {
		x    float64
		want uint16
	}{
		{1, 0x3f80}, {-1, 0xbf80}, {1 + 0x1p-8, 0x3f80}, {1 + 0x3p-8, 0x3f82}, {1 + 0x1p-8 + 0x1p-40, 0x3f81},
		{math.MaxFloat32, 0x7f80}, {math.Inf(-1), 0xff80}, {math.NaN(), 0x7fc0}, {0x1p-133, 1}, {1e-45, 0},
	} {
		src, dst := Scalar(c.x), New(onnx.BFloat16)
		ConvertFloat(dst, src)
		if got := Of[uint16](dst)[0]; got != c.want {
			t.Errorf("bfloat16 of %v is %#x, want %#x", c.x, got, c.want)
		}
	}
}

// TestHalfRoundTrip converts every 16-bit code to float32 and float64 and
// back.
func TestHalfRoundTrip(t *testing.T) {
	for _, half := range []onnx.DataType{onnx.Float16, onnx.BFloat16} {
		codes := New(half, 1<<16)
		for i := range Of[uint16](codes) {
			Of[uint16](codes)[i] = uint16(i)
		}
		for _, wide := range []onnx.DataType{onnx.Float32, onnx.Float64} {
			x, back := New(wide, 1<<16), New(half, 1<<16)
			ConvertFloat(x, codes)
			ConvertFloat(back, x)
			values, err := Float64s(x)
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range Of[uint16](back) {
				if int(got) != i && !math.IsNaN(values[i]) {
					t.Fatalf("%s %#x became %v in %s and %#x again", half, i, values[i], wide, got)
				}
			}
		}
	}
}

// TestNarrowFloats compares the rounding to each float8 and float4 type with
// a search for the nearest of all its values.
func TestNarrowFloats(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for dataType, format := range miniFloats {
		t.Run(dataType.String(), func(t *testing.T) {
			largest := format.decode(format.largest)
			for range 4000 {
				x := float32(math.Ldexp(random.Float64()*2-1, random.IntN(20)-14)) * largest / 16
				if i := random.IntN(1 << dataType.Bits()); random.IntN(2) == 0 { // a tie, or nearly
					x = (format.decode(uint8(i)) + format.decode(uint8(i)^1)) / 2
				}
				if !(math.Abs(float64(x)) < float64(largest)) {
					continue
				}
				code := format.encode(x, true)
				got := format.decode(code)
				for other := range 1 << dataType.Bits() {
					y := format.decode(uint8(other))
					mine, its := math.Abs(float64(got-x)), math.Abs(float64(y-x))
					if its < mine || its == mine && y != got && code&1 != 0 {
						t.Fatalf("%g became %g, but %g is nearer or even", x, got, y)
					}
				}
			}
		})
	}
}

// TestNarrowSpecialValues has the tables of the ONNX operator Cast.
func TestNarrowSpecialValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	negativeZero := float32(math.Copysign(0, -1))
	for _, c := range []struct {
		to                    onnx.DataType
		x                     float32
		saturated, overflowed uint8
	}{
		{onnx.Float8E4M3FN, inf, 0x7e, 0x7f}, {onnx.Float8E4M3FN, -inf, 0xfe, 0xff}, {onnx.Float8E4M3FN, 1e6, 0x7e, 0x7f},
		{onnx.Float8E4M3FN, nan, 0x7f, 0x7f}, {onnx.Float8E4M3FN, negativeZero, 0x80, 0x80},
		{onnx.Float8E4M3FNUZ, inf, 0x7f, 0x80}, {onnx.Float8E4M3FNUZ, -inf, 0xff, 0x80}, {onnx.Float8E4M3FNUZ, 1e6, 0x7f, 0x80},
		{onnx.Float8E4M3FNUZ, nan, 0x80, 0x80}, {onnx.Float8E4M3FNUZ, negativeZero, 0, 0}, {onnx.Float8E4M3FNUZ, -1e-9, 0, 0},
		{onnx.Float8E5M2, inf, 0x7b, 0x7c}, {onnx.Float8E5M2, -inf, 0xfb, 0xfc}, {onnx.Float8E5M2, -1e6, 0xfb, 0xfc},
		{onnx.Float8E5M2, nan, 0x7e, 0x7e}, {onnx.Float8E5M2, negativeZero, 0x80, 0x80},
		{onnx.Float8E5M2FNUZ, inf, 0x7f, 0x80}, {onnx.Float8E5M2FNUZ, -inf, 0xff, 0x80}, {onnx.Float8E5M2FNUZ, nan, 0x80, 0x80},
		{onnx.Float8E8M0, inf, 254, 255}, {onnx.Float8E8M0, nan, 255, 255}, {onnx.Float8E8M0, 0, 0, 255}, {onnx.Float8E8M0, 1, 127, 127},
	} {
		for _, saturate := range []bool{true, false} {
			want := c.overflowed
			if saturate {
				want = c.saturated
			}
			dst := New(c.to, 1)
			WriteNarrow(dst, 0, []float32{c.x}, Rounding{Saturate: saturate})
			if dst.Data[0] != want {
				t.Errorf("%s of %g with saturate=%v is %#x, want %#x", c.to, c.x, saturate, dst.Data[0], want)
			}
		}
	}
}

func TestPowersOfTwo(t *testing.T) {
	for _, c := range []struct {
		x                 float32
		up, down, nearest uint8
	}{
		{1, 127, 127, 127}, {1.1, 128, 127, 127}, {1.5, 128, 127, 128}, {1.9, 128, 127, 128}, {0.24, 125, 124, 125},
	} {
		dst := New(onnx.Float8E8M0, 1)
		for mode, want := range map[PowerRounding]uint8{PowerUp: c.up, PowerDown: c.down, PowerNearest: c.nearest} {
			WriteNarrow(dst, 0, []float32{c.x}, Rounding{Powers: mode})
			if dst.Data[0] != want {
				t.Errorf("mode %d of %g gives 2^%d, want 2^%d", mode, c.x, int(dst.Data[0])-127, int(want)-127)
			}
		}
	}
}

// TestPackedIntegers writes and reads elements that share bytes.
func TestPackedIntegers(t *testing.T) {
	for _, c := range []struct {
		to     onnx.DataType
		x      []float32
		want   []float32
		packed []byte
	}{
		{onnx.Uint4, []float32{1, 15, 16, -1, 7}, []float32{1, 15, 0, 15, 7}, []byte{0xf1, 0xf0, 0x07}},
		{onnx.Int4, []float32{1, -1, -8, 8}, []float32{1, -1, -8, -8}, []byte{0xf1, 0x88}},
		{onnx.Uint2, []float32{0, 1, 2, 3, 3}, []float32{0, 1, 2, 3, 3}, []byte{0xe4, 0x03}},
		{onnx.Int2, []float32{0, 1, -2, -1, 1.9}, []float32{0, 1, -2, -1, 1}, []byte{0xe4, 0x01}},
		{onnx.Float4E2M1, []float32{0.5, -6, 100}, []float32{0.5, -6, 6}, []byte{0xf1, 0x07}},
	} {
		dst := New(c.to, len(c.x))
		for i := range dst.Data {
			dst.Data[i] = 0xaa // what a reused memory may hold
		}
		WriteNarrow(dst, 0, c.x, Rounding{Saturate: true})
		if string(dst.Data) != string(c.packed) {
			t.Errorf("%s of %v is % x, want % x", c.to, c.x, dst.Data, c.packed)
		}
		for lo := range c.x {
			got := make([]float32, len(c.x)-lo)
			ReadNarrow(got, dst, lo)
			for i := range got {
				if got[i] != c.want[lo+i] {
					t.Errorf("%s of %v reads as %v from %d", c.to, c.x, got, lo)
				}
			}
		}
	}
}
