// Package simd holds the inner loops of the CPU device: matrix products and
// functions over slices. Everything here is serial; runtime/cpu splits work
// over threads.
//
// Most of it exists twice: in portable Go, which says what is computed, and in
// assembly for processors with AVX2, which are told apart at run time. Where a
// function works element by element, the bits of an element of the result
// depend on those of the operands alone, wherever it lies in a slice; those of
// a sum depend on the slice's length too. Assembly and portable Go agree in
// every bit where IEEE 754 prescribes the result, and within five units in the
// last place in functions made of e^x; if e^x is subnormal, in its last place.
// Where the last operation adds a product, as in [Axpy], assembly rounds once
// and portable Go twice.
package simd

// Float is an element type of functions that need fractions.
type Float interface{ float32 | float64 }

// Number is an element type of matrix products.
type Number interface {
	Float | int32 | int64 | uint32 | uint64
}

// Matrix is a view of Rows × Cols elements of Data: element (i, j) lies at
// i·RowStride + j·ColStride, or where Index is set at Index[i]·RowStride +
// j·ColStride.
type Matrix[T Number] struct {
	Data                 []T
	Rows, Cols           int
	RowStride, ColStride int

	// Index picks rows; nil takes them in order. The rows of a right-hand
	// operand that has one are contiguous.
	Index []int32
}

// RowMajor views data as a dense matrix.
func RowMajor[T Number](data []T, rows, cols int) Matrix[T] {
	return Matrix[T]{Data: data, Rows: rows, Cols: cols, RowStride: cols, ColStride: 1}
}

// Transposed views data, a dense matrix of cols × rows, as its transpose of
// rows × cols.
func Transposed[T Number](data []T, rows, cols int) Matrix[T] {
	return Matrix[T]{Data: data, Rows: rows, Cols: cols, RowStride: 1, ColStride: rows}
}

// Block returns the rows × cols elements that begin at (i, j).
func (m Matrix[T]) Block(i, j, rows, cols int) Matrix[T] {
	b := m
	b.Rows, b.Cols = rows, cols
	skip := j * m.ColStride
	if m.Index != nil {
		b.Index = m.Index[i:]
	} else {
		skip += i * m.RowStride
	}
	b.Data = m.Data[min(skip, len(m.Data)):]
	return b
}

// row returns the elements of Data from the beginning of row i.
func (m *Matrix[T]) row(i int) []T {
	if m.Index != nil {
		i = int(m.Index[i])
	}
	return m.Data[i*m.RowStride:]
}
