package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// compressedOperand returns a random operand and the elements it stands for.
func compressedOperand(r *rand.Rand, f Format, rows, cols, block int, zeros bool) (*Compressed, Matrix[float32]) {
	b := NewCompressed(f, rows, cols, block, zeros)
	dense := RowMajor(make([]float32, rows*cols), rows, cols)
	if block == 0 {
		block = max(rows, 1)
	}
	for j := range cols {
		integers, halves, row := make([]byte, rows), make([]uint16, rows), make([]float32, rows)
		scale, zero := make([]float32, (rows+block-1)/block), make([]float32, (rows+block-1)/block)
		for i := range scale {
			scale[i], zero[i] = r.Float32()+0.1, float32(int(1)<<(f.bits()-1))
			if zeros {
				zero[i] += float32(r.IntN(9) - 4)
			}
		}
		for l := range rows {
			integers[l] = byte(r.IntN(256) >> (8 - min(f.bits(), 8)))
			halves[l] = narrowFloat16(r.Float32() - 0.5)
			row[l] = (float32(integers[l]) - zero[l/block]) * scale[l/block]
		}
		switch f {
		case Float16:
			Float16ToFloat32(row, halves)
			b.SetHalf(j, halves, 1)
		case BFloat16:
			BFloat16ToFloat32(row, halves)
			b.SetHalf(j, halves, 1)
		default:
			b.SetIntegers(j, integers, scale, zero, block)
		}
		for l, x := range row {
			dense.Data[l*cols+j] = x
		}
	}
	return b, dense
}

// TestMultiplyCompressed: products are those with the elements that a
// compressed operand stands for, bit by bit but for few rows of integers.
func TestMultiplyCompressed(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, f := range []Format{Int8, Int4, Float16, BFloat16} {
		for _, c := range []struct {
			m, k, n, block int
			zeros          bool
		}{
			{1, 1, 1, 16, false}, {1, 16, 16, 16, false}, {1, 37, 50, 16, false}, {1, 384, 64, 32, false}, {1, 1000, 33, 32, false},
			{1, 777, 48, 128, true}, {1, 800, 17, 512, true}, {1, 130, 47, 0, false}, {1, 5, 31, 8, true},
			{2, 100, 20, 32, false}, {3, 500, 40, 64, true}, {4, 1000, 33, 32, true}, {2, 9, 16, 16, false}, {7, 77, 18, 0, true}, {100, 400, 35, 32, false},
			{0, 5, 5, 16, false}, {3, 0, 5, 16, false}, {1, 0, 20, 16, true},
		} {
			t.Run(fmt.Sprintf("format %d, %+v", f, c), func(t *testing.T) {
				b, dense := compressedOperand(r, f, c.k, c.n, c.block, c.zeros && f.integers())
				a := RowMajor(make([]float32, c.m*c.k), c.m, c.k)
				for i := range a.Data {
					a.Data[i] = r.Float32() - 0.5
				}
				tolerance := 0.0
				if f.integers() && c.m <= few {
					tolerance = 3e-7 * float64(int(1)<<f.bits()) * math.Sqrt(float64(c.k))
				}
				want, got := make([]float32, c.m*c.n), make([]float32, c.m*c.n)
				MultiplyPacked(want, c.n, a, Pack(dense), 0, c.n, nil, make([]float32, WorkLenPacked[float32](c.m, c.k)))
				work := make([]float32, WorkLenCompressed[float32](c.m, c.k))
				half := min(TileCols[float32](), c.n) // two pieces give what one would
				MultiplyCompressed(got, c.n, a, c.m, b, 0, half, work)
				MultiplyCompressed(got[min(half, len(got)):], c.n, a, c.m, b, half, c.n, work)
				for i, x := range want {
					if d := math.Abs(float64(x - got[i])); !(d <= tolerance) {
						t.Fatalf("element %d is %v, want %v", i, got[i], x)
					}
				}
				whole := make([]float32, c.m*c.n)
				MultiplyCompressed(whole, c.n, a, c.m, b, 0, c.n, work)
				if !slices.Equal(whole, got) {
					t.Error("two pieces give other bits than one")
				}
			})
		}
	}
}

// TestExpand: assembly and portable Go expand to the same bits.
func TestExpand(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	width := TileCols[float32]()
	for _, f := range []Format{Int8, Int4, Float16, BFloat16} {
		for _, zeros := range []bool{false, true} {
			const k, n = 400, 50
			b, _ := compressedOperand(r, f, k, n, 32, zeros && f.integers())
			for first := 0; first < k; first += 64 {
				depth := min(k-first, 40)
				got, want := make([]float32, depth*width), make([]float32, depth*width)
				for panel := range (n + width - 1) / width {
					expand(b, panel, first, depth, got)
					expandPortable(b, panel, first, depth, want)
					if !slices.Equal(got, want) {
						t.Fatalf("format %d, panel %d: the rows from %d on differ", f, panel, first)
					}
				}
			}
		}
	}
}

// BenchmarkMultiplyCompressed reads more than caches hold.
func BenchmarkMultiplyCompressed(b *testing.B) {
	const k, n = 3072, 24576
	r := rand.New(rand.NewPCG(1, 2))
	for _, m := range []int{1, 2, 4} {
		a := RowMajor(make([]float32, m*k), m, k)
		for i := range a.Data {
			a.Data[i] = r.Float32()
		}
		c := make([]float32, m*n)
		report := func(b *testing.B) {
			b.ReportMetric(k*n*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
		}
		b.Run(fmt.Sprintf("%d/float32", m), func(b *testing.B) {
			packed := NewPacked[float32](k, n)
			for i := range packed.data {
				packed.data[i] = float32(i & 7)
			}
			work := make([]float32, WorkLenPacked[float32](m, k))
			for b.Loop() {
				MultiplyPacked(c, n, a, packed, 0, n, nil, work)
			}
			report(b)
		})
		for name, f := range map[string]Format{"int8": Int8, "int4": Int4, "bfloat16": BFloat16, "float16": Float16} {
			b.Run(fmt.Sprintf("%d/%s", m, name), func(b *testing.B) {
				packed := NewCompressed(f, k, n, 32, false)
				for i := range packed.data {
					packed.data[i] = byte(r.Uint32()) & 0x3f
				}
				for i := range packed.scales {
					packed.scales[i] = 1
				}
				work := make([]float32, WorkLenCompressed[float32](m, k))
				for b.Loop() {
					MultiplyCompressed(c, n, a, m, packed, 0, n, work)
				}
				report(b)
			})
		}
	}
}
