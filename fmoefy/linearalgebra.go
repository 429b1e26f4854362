package fmoefy

import (
	"errors"
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
)

// multiply computes c = a·b on all processors, with the rows of c dense.
func multiply[T simd.Float](c []T, a, b simd.Matrix[T]) {
	const share = 256
	eachOf((a.Rows+share-1)/share, func(i int) {
		rows := min(share, a.Rows-i*share)
		simd.Multiply(c[i*share*b.Cols:], b.Cols, a.Block(i*share, 0, rows, a.Cols), b, make([]T, simd.WorkLen[T](rows, a.Cols, b.Cols)))
	})
}

// depthOfSums is over how many terms sums in float32 go before they are added
// to one in float64.
const depthOfSums = 4096

// addProduct adds aᵀ·b to sum [aCols, bCols], where a is [n, aCols] and b is
// [n, bCols].
func addProduct(sum []float64, a []float32, aCols int, b []float32, bCols int) {
	part := make([]float32, aCols*bCols)
	for n := len(a) / aCols; n > 0; n = len(a) / aCols {
		rows := min(n, depthOfSums)
		simd.Multiply(part, bCols, simd.Transposed(a[:rows*aCols], aCols, rows), simd.RowMajor(b[:rows*bCols], rows, bCols), make([]float32, simd.WorkLen[float32](aCols, rows, bCols)))
		for i, x := range part {
			sum[i] += float64(x)
		}
		a, b = a[rows*aCols:], b[rows*bCols:]
	}
}

// cholesky replaces the lower triangle of a symmetric positive definite matrix
// [n, n] by its factor L, m = L·Lᵀ. It goes by blocks of columns, so that most
// of the work is products.
func cholesky(m []float64, n int) error {
	const width = 128
	for k := 0; k < n; k += width {
		end := min(k+width, n)
		for j := k; j < end; j++ {
			row := m[j*n+k : j*n+j]
			pivot := m[j*n+j] - simd.Dot(row, row)
			if !(pivot > 0) || math.IsInf(pivot, 0) {
				return errors.New("a system of equations has no unique solution")
			}
			m[j*n+j] = math.Sqrt(pivot)
			for i := j + 1; i < end; i++ {
				m[i*n+j] = (m[i*n+j] - simd.Dot(m[i*n+k:i*n+j], row)) / m[j*n+j]
			}
		}
		eachShare(n-end, 64, func(lo, hi int) {
			for i := end + lo; i < end+hi; i++ {
				for j := k; j < end; j++ {
					m[i*n+j] = (m[i*n+j] - simd.Dot(m[i*n+k:i*n+j], m[j*n+k:j*n+j])) / m[j*n+j]
				}
			}
		})
		blocks := (n - end + width - 1) / width
		eachOf(blocks, func(i int) {
			lo := end + i*width
			rows, cols := min(width, n-lo), min(lo+width, n)-end
			left := simd.Matrix[float64]{Data: m[lo*n+k:], Rows: rows, Cols: end - k, RowStride: n, ColStride: 1}
			right := simd.Matrix[float64]{Data: m[end*n+k:], Rows: end - k, Cols: cols, RowStride: 1, ColStride: n}
			part := make([]float64, rows*cols)
			simd.Multiply(part, cols, left, right, make([]float64, simd.WorkLen[float64](rows, end-k, cols)))
			for r := range rows {
				to := m[(lo+r)*n+end:]
				for c, x := range part[r*cols:][:cols] {
					to[c] -= x
				}
			}
		})
	}
	return nil
}

// solve replaces b [n, cols] by the solution x of L·Lᵀ·x = b.
func solve(l []float64, n int, b []float64, cols int) {
	const width = 128
	// Columns are independent of one another.
	const share = 64
	eachOf((cols+share-1)/share, func(s int) {
		at, some := s*share, min(share, cols-s*share)
		row := func(i int) []float64 { return b[i*cols+at:][:some] }
		part := make([]float64, width*some)
		// subtract takes off what rows from … to contribute to rows i … i+rows.
		subtract := func(i, rows, from, to int, factor simd.Matrix[float64]) {
			if from == to {
				return
			}
			x := simd.Matrix[float64]{Data: b[from*cols+at:], Rows: to - from, Cols: some, RowStride: cols, ColStride: 1}
			simd.Multiply(part, some, factor, x, make([]float64, simd.WorkLen[float64](rows, to-from, some)))
			for r := range rows {
				for c, x := range part[r*some:][:some] {
					row(i + r)[c] -= x
				}
			}
		}
		scale := func(i int) {
			for c := range row(i) {
				row(i)[c] /= l[i*n+i]
			}
		}
		for k := 0; k < n; k += width {
			end := min(k+width, n)
			subtract(k, end-k, 0, k, simd.Matrix[float64]{Data: l[k*n:], Rows: end - k, Cols: k, RowStride: n, ColStride: 1})
			for i := k; i < end; i++ {
				for j := k; j < i; j++ {
					simd.Axpy(-l[i*n+j], row(j), row(i))
				}
				scale(i)
			}
		}
		for k := (n - 1) / width * width; k >= 0; k -= width {
			end := min(k+width, n)
			if end < n {
				subtract(k, end-k, end, n, simd.Matrix[float64]{Data: l[end*n+k:], Rows: end - k, Cols: n - end, RowStride: 1, ColStride: n})
			}
			for i := end - 1; i >= k; i-- {
				for j := i + 1; j < end; j++ {
					simd.Axpy(-l[j*n+i], row(j), row(i))
				}
				scale(i)
			}
		}
	})
}
