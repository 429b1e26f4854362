package simd

// DotRows computes c = a·b for few rows of a and contiguous rows of a and
// columns of b: each column of b is read once. Element (i, j) of c lies at
// i·stride + j.
func DotRows[T Number](c []T, stride int, a, b Matrix[T]) {
	for j := range b.Cols {
		if b.Rows == 0 {
			zero(c[j:], stride, a.Rows, 1)
			continue
		}
		column := b.Data[j*b.ColStride:][:b.Rows]
		for i := range a.Rows {
			c[i*stride+j] = Dot(a.row(i)[:a.Cols], column)
		}
	}
}

// AddRows adds a·b to c for few rows of a and contiguous rows of b: each row
// of b is read once. Element (i, j) of c lies at i·stride + j.
func AddRows[T Number](c []T, stride int, a, b Matrix[T]) {
	for l := range b.Rows {
		row := b.Data[l*b.RowStride:][:b.Cols]
		for i := range a.Rows {
			Axpy(a.row(i)[l*a.ColStride], row, c[i*stride:])
		}
	}
}
