package simd

// Products of operands that the caller keeps packed in memory of its own, for
// as long as it needs them. There is no blocking: operands are to be small.

// RowsLen returns the number of elements of a left-hand operand of m × k that
// PackRows has packed.
func RowsLen[T Number](m, k int) int { return roundUp(m, TileRows[T]()) * k }

// PackRows packs a left-hand operand. dst has at least RowsLen elements.
func PackRows[T Number](dst []T, a Matrix[T]) {
	if a.Rows > 0 && a.Cols > 0 {
		packRows(dst, a)
	}
}

// PackColumns is PackRows for the transpose of a, whose rows are contiguous.
func PackColumns[T Number](dst []T, a Matrix[T]) {
	if a.Rows > 0 && a.Cols > 0 {
		packRuns(dst, a, TileRows[T]())
	}
}

// ColsLen returns the number of elements of a right-hand operand of k × n that
// PackCols has packed: panels of TileCols columns, of TileCols·k elements each.
func ColsLen[T Number](k, n int) int { return roundUp(n, TileCols[T]()) * k }

// PackCols packs a right-hand operand. dst has at least ColsLen elements.
func PackCols[T Number](dst []T, b Matrix[T]) {
	if b.Rows > 0 && b.Cols > 0 {
		packCols(dst, b)
	}
}

// MultiplyPanels adds a·b to c, or writes it there, for packed operands of
// m × k and k × n, where element (i, j) of c lies at i·stride + j. The depth
// with which b was packed is at least k: b may begin at a later panel, or at a
// later row of TileCols elements.
func MultiplyPanels[T Number](c []T, stride int, a, b []T, m, n, k, depth int, add bool) {
	switch {
	case m == 0 || n == 0:
	case k > 0:
		block(c, stride, a, b, depth, m, n, k, add)
	case !add:
		zero(c, stride, m, n)
	}
}
