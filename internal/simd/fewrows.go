package simd

// rowsInCache is how many rows of an operand that is read once stay in the
// first cache while several rows of the other one go through them.
const rowsInCache = 16

// DotRows computes c = a·b for few rows, where the rows of a and the columns of
// b are contiguous. Each column of b is read once from memory. Element (i, j)
// of c lies at i·stride + j.
func DotRows[T Number](c []T, stride int, a, b Matrix[T]) {
	if b.Rows == 0 {
		zero(c, stride, a.Rows, b.Cols)
		return
	}
	for j := 0; j < b.Cols; j += rowsInCache {
		columns := b.Block(0, j, b.Rows, min(rowsInCache, b.Cols-j))
		for i := range a.Rows {
			dotRow(c[i*stride+j:][:columns.Cols], a.row(i)[:a.Cols], columns)
		}
	}
}

// dotRow is DotRows for one row.
func dotRow[T Number](c, row []T, b Matrix[T]) {
	if dotRowAVX2(c, row, b) {
		return
	}
	for j := range c {
		c[j] = Dot(row, b.Data[j*b.ColStride:])
	}
}

// AddRows adds a·b to c for few rows, where those of b are contiguous. Each row
// of b is read once from memory. Element (i, j) of c lies at i·stride + j.
func AddRows[T Number](c []T, stride int, a, b Matrix[T]) {
	if b.Cols == 0 {
		return
	}
	for l := 0; l < b.Rows; l += rowsInCache {
		rows := b.Block(l, 0, min(rowsInCache, b.Rows-l), b.Cols)
		for i := range a.Rows {
			addRow(c[i*stride:][:b.Cols], a.row(i)[l:][:rows.Rows], rows)
		}
	}
}

// addRow is AddRows for one row.
func addRow[T Number](c, row []T, b Matrix[T]) {
	if addRowAVX2(c, row, b) {
		return
	}
	for l, factor := range row {
		Axpy(factor, b.Data[l*b.RowStride:][:b.Cols], c)
	}
}
