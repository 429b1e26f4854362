//go:build !purego

package simd

import (
	"fmt"
	"testing"
)

// portably runs f with the portable kernels.
func portably(f func()) {
	defer func(a, w, f bool) { avx2, avx512, f16c = a, w, f }(avx2, avx512, f16c)
	avx2, avx512, f16c = false, false, false
	f()
}

func needAVX2(t *testing.T) {
	if !avx2 {
		t.Skip("the processor has no AVX2")
	}
}

// TestAVX2Multiply compares products by the assembly and the portable tiles.
func TestAVX2Multiply(t *testing.T) {
	needAVX2(t)
	t.Run("float32", testAVX2Multiply[float32])
	t.Run("float64", testAVX2Multiply[float64])
}

func testAVX2Multiply[T Number](t *testing.T) {
	for m := 1; m <= 13; m++ {
		for _, n := range []int{1, 7, 8, 9, 15, 16, 17, 31, 33} {
			for _, k := range []int{1, 2, 3, 4, 5, 7, 8, 385} {
				a, b := RowMajor(random[T](m*k), m, k), RowMajor(random[T](k*n), k, n)
				product := func() []float64 {
					c := make([]T, m*n)
					MultiplyPacked(c, n, a, Pack(b), 0, n, nil, make([]T, WorkLenPacked[T](m, k)))
					wide := make([]float64, len(c))
					for i, x := range c {
						wide[i] = float64(x)
					}
					return wide
				}
				var want []float64
				portably(func() { want = product() })
				got := make([]T, m*n)
				for i, x := range product() {
					got[i] = T(x)
				}
				near(t, fmt.Sprintf("%d×%d×%d", m, k, n), got, want, k)
			}
		}
	}
}

// TestAVX2TilesStayInside: tiles write their rows and columns and nothing else,
// and read no row beyond them.
func TestAVX2TilesStayInside(t *testing.T) {
	needAVX2(t)
	const stride = 19
	for rows := 1; rows <= 12; rows++ {
		for _, add := range []bool{false, true} {
			c := dirty[float32](13 * stride)
			tilesAVX2(rows, 3, random[float32](2*3*6), random[float32](3*16), c[:(rows-1)*stride+16], stride, add)
			for i, x := range c {
				if outside := i/stride >= rows || i%stride >= 16; outside != (x == 77) {
					t.Fatalf("rows %d: element %d of row %d is %v", rows, i%stride, i/stride, x)
				}
			}
		}
	}
}

func TestAVX2Vectors(t *testing.T) {
	needAVX2(t)
	for n := range 150 {
		x, y := random[float32](n), random[float32](n + 1)[:n]
		var dot, sum float32
		want := append([]float32{}, y...)
		portably(func() {
			dot, sum = Dot(x, y), Sum(x)
			Axpy(-1.5, x, want)
		})
		near(t, "Sum", []float32{Sum(x)}, []float64{float64(sum)}, n)
		near(t, "Dot", []float32{Dot(x, y)}, []float64{float64(dot)}, n)
		Axpy(-1.5, x, y)
		wide := make([]float64, n)
		for i, v := range want {
			wide[i] = float64(v)
		}
		near(t, "Axpy", y, wide, n)
	}
}
