package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// reference is the product in float64, by its definition.
func reference[T Number](a, b Matrix[T]) []float64 {
	c := make([]float64, a.Rows*b.Cols)
	for i := range a.Rows {
		for j := range b.Cols {
			for l := range a.Cols {
				c[i*b.Cols+j] += float64(a.row(i)[l*a.ColStride]) * float64(b.Data[l*b.RowStride+j*b.ColStride])
			}
		}
	}
	return c
}

func random[T Number](n int) []T {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	x := make([]T, n)
	for i := range x {
		x[i] = T(8 * r.NormFloat64())
	}
	return x
}

func near[T Number](t *testing.T, what string, got []T, want []float64, depth int) {
	t.Helper()
	// Rounding grows at most with the depth; the terms are about 64.
	epsilon := 0.0
	switch any(got).(type) {
	case []float32:
		epsilon = float64(math.Nextafter32(1, 2) - 1)
	case []float64:
		epsilon = math.Nextafter(1, 2) - 1
	}
	tolerance := 256 * epsilon * float64(depth+1)
	for i := range want {
		if d := math.Abs(float64(got[i]) - want[i]); !(d <= tolerance) {
			t.Fatalf("%s: element %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}

// sizes reach over the edges of tiles and blocks.
var sizes = []struct{ m, n, k int }{
	{0, 3, 2}, {3, 0, 2}, {3, 4, 0}, {1, 1, 1}, {2, 4, 4}, {3, 5, 7}, {1, 37, 19}, {4, 16, 3}, {5, 17, 9},
	{6, 16, 33}, {7, 15, 130}, {13, 47, 385}, {12, 8, 40}, {150, 70, 21}, {97, 257, 20}, {99, 18, 769}, {2, 515, 769},
}

func TestMultiply(t *testing.T) {
	t.Run("float32", testMultiply[float32])
	t.Run("float64", testMultiply[float64])
	t.Run("int32", testMultiply[int32])
}

func testMultiply[T Number](t *testing.T) {
	for _, s := range sizes {
		work := make([]T, WorkLen[T](s.m, s.k, s.n))
		dataA, dataB := random[T](s.m*s.k), random[T](s.k*s.n)
		index := make([]int32, s.m)
		for i := range index {
			index[i] = int32((i*7 + 3) % s.m)
		}
		gathered := RowMajor(dataA, s.m, s.k)
		gathered.Index = index
		lefts := map[string]Matrix[T]{"": RowMajor(dataA, s.m, s.k), "ᵀ": Transposed(dataA, s.m, s.k), " gathered": gathered}
		rights := map[string]Matrix[T]{"": RowMajor(dataB, s.k, s.n), "ᵀ": Transposed(dataB, s.k, s.n)}
		for la, a := range lefts {
			for lb, b := range rights {
				name := fmt.Sprintf("%d×%d×%d A%s·B%s", s.m, s.k, s.n, la, lb)
				want := reference(a, b)
				got := dirty[T](s.m * s.n)
				Multiply(got, s.n, a, b, work)
				near(t, name, got, want, s.k)

				got = dirty[T](s.m * s.n)
				p := Pack(b)
				// Cut in two at a tile's edge.
				cut := min(s.n, TileCols[T]()*2)
				MultiplyPacked(got, s.n, a, p, 0, cut, nil, work)
				if cut < s.n {
					MultiplyPacked(got[cut:], s.n, a, p, cut, s.n, nil, work)
				}
				near(t, name+" packed", got, want, s.k)
				biased, bias := dirty[T](s.m*s.n), random[T](s.n)
				MultiplyPacked(biased, s.n, a, p, 0, s.n, bias, work)
				for i, x := range biased {
					if x != got[i]+bias[i%s.n] {
						t.Fatalf("%s: element %d is %v with a bias of %v and %v without", name, i, x, bias[i%s.n], got[i])
					}
				}
				if s.m < 2 || s.n == 0 || s.k == 0 {
					continue
				}
				packed, left := make([]T, RowsLen[T](s.m, s.k)), dirty[T](s.m*s.n)
				middle := min(s.m, TileRows[T]())
				PackLeft(packed, a, middle, s.m, DepthStep(s.k))
				PackLeft(packed, a, 0, middle, DepthStep(s.k))
				MultiplyLeft(left, s.n, packed, s.m, p, 0, s.n, DepthStep(s.k), false)
				if !slices.Equal(left, got) {
					t.Errorf("%s: other bits where both sides were packed", name)
				}
			}
		}
	}
}

// dirty is memory whose old content must not shine through.
func dirty[T Number](n int) []T {
	x := make([]T, n)
	for i := range x {
		x[i] = 77
	}
	return x
}

// TestRowsAreIndependent: a row of a product has the same bits whatever other
// rows are computed with it, so that batching changes nothing.
func TestRowsAreIndependent(t *testing.T) {
	const m, n, k = 23, 50, 777
	a, b := RowMajor(random[float32](m*k), m, k), Pack(RowMajor(random[float32](k*n), k, n))
	work := make([]float32, WorkLenPacked[float32](m, k))
	all, one := make([]float32, m*n), make([]float32, n)
	MultiplyPacked(all, n, a, b, 0, n, nil, work)
	for i := range m {
		MultiplyPacked(one, n, a.Block(i, 0, 1, k), b, 0, n, nil, work)
		for j, x := range one {
			if x != all[i*n+j] {
				t.Fatalf("row %d alone has %v at %d, with others %v", i, x, j, all[i*n+j])
			}
		}
	}
}

func TestMultiplyDoesNotAllocate(t *testing.T) {
	a, b := RowMajor(random[float32](9*30), 9, 30), RowMajor(random[float32](30*21), 30, 21)
	c, p, work := make([]float32, 9*21), Pack(b), make([]float32, WorkLen[float32](9, 30, 21))
	if n := testing.AllocsPerRun(5, func() {
		Multiply(c, 21, a, b, work)
		MultiplyPacked(c, 21, a, p, 0, 21, nil, work)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestVectors(t *testing.T) {
	for n := range 19 {
		x, y := random[float32](n), random[float32](n + 1)[:n]
		var dot, sum float64
		want := make([]float64, n)
		for i := range x {
			dot += float64(x[i]) * float64(y[i])
			sum += float64(x[i])
			want[i] = float64(y[i]) + 2.5*float64(x[i])
		}
		near(t, "Dot", []float32{Dot(x, y)}, []float64{dot}, n)
		near(t, "Sum", []float32{Sum(x)}, []float64{sum}, n)
		Axpy(2.5, x, y)
		near(t, "Axpy", y, want, n)
	}
}

func BenchmarkMultiplyPacked(b *testing.B) {
	for _, s := range []struct{ m, n, k int }{{144, 8, 768}, {144, 64, 128}, {1, 4096, 1024}, {4, 4096, 1024}, {32, 4096, 1024}, {512, 4096, 1024}, {1024, 1024, 1024}} {
		b.Run(fmt.Sprintf("float32/%dx%dx%d", s.m, s.k, s.n), benchmarkMultiply[float32](s.m, s.n, s.k, true))
	}
	b.Run("float64/256x1024x1024", benchmarkMultiply[float64](256, 1024, 1024, true))
}

func BenchmarkMultiply(b *testing.B) {
	for _, s := range []struct{ m, n, k int }{{1, 4096, 1024}, {4, 4096, 1024}, {32, 4096, 1024}, {512, 4096, 1024}, {64, 64, 64}} {
		b.Run(fmt.Sprintf("float32/%dx%dx%d", s.m, s.k, s.n), benchmarkMultiply[float32](s.m, s.n, s.k, false))
	}
}

func benchmarkMultiply[T Number](m, n, k int, packed bool) func(*testing.B) {
	return func(b *testing.B) {
		x, y := RowMajor(random[T](m*k), m, k), RowMajor(random[T](k*n), k, n)
		c, work := make([]T, m*n), make([]T, WorkLen[T](m, k, n))
		p := Pack(y)
		for b.Loop() {
			if packed {
				MultiplyPacked(c, n, x, p, 0, n, nil, work)
			} else {
				Multiply(c, n, x, y, work)
			}
		}
		b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
	}
}

func BenchmarkPack(b *testing.B) {
	x := random[float32](384 * 256)
	work := make([]float32, 384*(256+16))
	for name, f := range map[string]func(){
		"rows":                   func() { packRows(work, RowMajor(x, 96, 384)) },
		"rows of a transpose":    func() { packRows(work, Transposed(x, 96, 384)) },
		"columns":                func() { packCols(work, RowMajor(x, 384, 96)) },
		"columns of a transpose": func() { packCols(work, Transposed(x, 384, 96)) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(96 * 384 * 4)
			for b.Loop() {
				f()
			}
		})
	}
}
