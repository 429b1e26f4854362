package moe

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestQuantize: a number is off by at most half a step of its block, but for
// the largest positive one, which may be a whole step off; zeros stay zeros,
// and what was read is stored as it was.
func TestQuantize(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, q := range []Quantization{{8, 16}, {8, 32}, {4, 16}, {4, 128}} {
		for _, n := range []int{1, 15, 16, 33, 200} {
			row := make([]float32, n)
			for i := range row {
				row[i] = float32(r.NormFloat64()) * float32(math.Exp(3*r.NormFloat64()))
			}
			row[0] = 0
			packed, scales := make([]byte, q.Blocks(n)*q.BlockBytes()), make([]float32, q.Blocks(n))
			q.Quantize(row, packed, scales)
			got := make([]float32, n)
			q.Dequantize(got, packed, scales)
			for i, x := range row {
				if d := math.Abs(float64(x - got[i])); d > 1.001*math.Abs(float64(scales[i/q.Block])) || x == 0 && got[i] != 0 {
					t.Fatalf("%+v: %v became %v, with scale %v", q, x, got[i], scales[i/q.Block])
				}
			}
			again, sameScales := make([]byte, len(packed)), make([]float32, len(scales))
			q.Quantize(got, again, sameScales)
			back := make([]float32, n)
			q.Dequantize(back, again, sameScales)
			if !slices.Equal(back, got) {
				t.Errorf("%+v: %v became %v", q, got, back)
			}
		}
	}
}

// TestQuantizedLayout is MatMulNBits': lowest bits first, half of the range
// for zero, the last block filled up with it.
func TestQuantizedLayout(t *testing.T) {
	row := make([]float32, 17)
	row[0], row[1], row[2], row[16] = -8, 7, 1, 3
	packed, scales := make([]byte, 16), make([]float32, 2)
	Quantization{4, 16}.Quantize(row, packed, scales)
	want := []byte{0xf0, 0x89, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x80, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88}
	if !bytes.Equal(packed, want) || scales[0] != 1 || scales[1] != -3./8 {
		t.Errorf("packed %x, scales %v", packed, scales)
	}
	packed = make([]byte, 32)
	Quantization{8, 16}.Quantize(row, packed, scales)
	if packed[0] != 0 || packed[1] != 128+112 || packed[3] != 128 || packed[31] != 128 || scales[0] != 1./16 {
		t.Errorf("packed %x, scales %v", packed, scales)
	}
}

// TestQuantizeHostile: what is no number ends in some integer.
func TestQuantizeHostile(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, x := range []float32{inf, -inf, inf - inf, math.MaxFloat32, math.SmallestNonzeroFloat32} {
		row := []float32{x, 1, -1}
		for _, bits := range []int{4, 8} {
			q := Quantization{bits, 16}
			packed, scales := make([]byte, q.BlockBytes()), make([]float32, 1)
			q.Quantize(row, packed, scales)
			q.Dequantize(row, packed, scales)
		}
	}
}
