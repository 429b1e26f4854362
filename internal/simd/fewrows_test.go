package simd

import (
	"fmt"
	"testing"
)

// TestFewRows compares products of few rows with those by definition, for
// operands whose rows or columns lie apart.
func TestFewRows(t *testing.T) {
	t.Run("float32", testFewRows[float32])
	t.Run("float64", testFewRows[float64])
}

func testFewRows[T Number](t *testing.T) {
	for _, m := range []int{1, 2, 4} {
		for _, n := range []int{1, 3, 4, 15, 16, 37} {
			for _, size := range []int{0, 1, 7, 8, 24, 64, 72, 100} {
				apart := size + 3
				name := fmt.Sprintf("%d × %d, size %d", m, n, size)
				a := Matrix[T]{Data: random[T](m * apart), Rows: m, Cols: size, RowStride: apart, ColStride: 1}
				b := Matrix[T]{Data: random[T](n*apart + size), Rows: size, Cols: n, RowStride: 1, ColStride: apart}
				c := dirty[T](m * (n + 1))
				DotRows(c, n+1, a, b)
				near(t, name+" DotRows", lines(c, m, n), reference(a, b), size)

				weights := Matrix[T]{Data: random[T](m * (n + 2)), Rows: m, Cols: n, RowStride: n + 2, ColStride: 1}
				rows := Matrix[T]{Data: b.Data, Rows: n, Cols: size, RowStride: apart, ColStride: 1}
				c = make([]T, m*(size+1))
				AddRows(c, size+1, weights, rows)
				near(t, name+" AddRows", lines(c, m, size), reference(weights, rows), n)
				AddRows(c, size+1, weights, rows)
				want := reference(weights, rows)
				for i := range want {
					want[i] *= 2
				}
				near(t, name+" AddRows twice", lines(c, m, size), want, 2*n)
			}
		}
	}
}

// lines removes the element behind each of m lines of n elements.
func lines[T Number](c []T, m, n int) []T {
	var out []T
	for i := range m {
		out = append(out, c[i*(n+1):][:n]...)
	}
	return out
}

// TestMultiplyPanels: products of operands that the caller packed, of all of
// them and from a later panel or row on.
func TestMultiplyPanels(t *testing.T) {
	for _, s := range sizes {
		if min(s.m, s.n, s.k) == 0 {
			continue
		}
		a := RowMajor(random[float32](s.m*s.k), s.m, s.k)
		for _, b := range []Matrix[float32]{RowMajor(random[float32](s.k*s.n), s.k, s.n), Transposed(random[float32](s.k*s.n), s.k, s.n)} {
			unit := TileCols[float32]()
			cols := make([]float32, ColsLen[float32](s.k, s.n))
			PackCols(cols, b)
			for _, skip := range []struct{ row, col int }{{0, 0}, {s.k / 2, 0}, {0, s.n / 2 / unit * unit}} {
				left, right := a.Block(0, skip.row, s.m, s.k-skip.row), b.Block(skip.row, skip.col, s.k-skip.row, s.n-skip.col)
				rows := make([]float32, RowsLen[float32](left.Rows, left.Cols))
				PackRows(rows, left)
				c := dirty[float32](left.Rows * right.Cols)
				panels := cols[skip.col*s.k+skip.row*unit:]
				MultiplyPanels(c, right.Cols, rows, panels, left.Rows, right.Cols, left.Cols, s.k, false)
				want := reference(left, right)
				near(t, fmt.Sprintf("%v from %v", s, skip), c, want, s.k)
				MultiplyPanels(c, right.Cols, rows, panels, left.Rows, right.Cols, left.Cols, s.k, true)
				for i := range want {
					want[i] *= 2
				}
				near(t, fmt.Sprintf("%v twice from %v", s, skip), c, want, 2*s.k)
			}
		}
	}
}
