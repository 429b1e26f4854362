package simd

// Products go block by block, after Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (2008): up to depthBlock·TileCols
// elements of B stay in the nearest caches while up to rowBlock·depthBlock
// elements of A, in the second, pass by them. The order of the sum behind an element depends on the
// depth alone, so it is the same however a product is cut into pieces.
const (
	depthBlock = 512
	rowBlock   = 144 // a multiple of every tile's rows
	colBlock   = 256

	// wholeBlock bounds the elements of A that are packed over their whole
	// depth.
	wholeBlock = 1 << 16

	// few is up to how many rows or columns packing costs more than it saves.
	few = 4

	// narrow is up to how many columns packing the rows costs more than
	// reading them where they lie.
	narrow = 256
)

// DepthStep returns how deep the blocks of a product of depth k are: about
// equal, and a number of whole blocks of a [Compressed] operand.
func DepthStep(k int) int {
	blocks := max(1, (k+depthBlock-1)/depthBlock)
	return roundUp((k+blocks-1)/blocks, maxBlock)
}

// RowBlock returns how many of m rows of a left-hand operand are packed and
// multiplied at a time: blocks are about equal, and of whole tiles.
func RowBlock(m int) int {
	const tiles = 12 // rows of the tallest tile, a multiple of every other's
	blocks := max(1, (m+rowBlock-1)/rowBlock)
	return roundUp(max(1, (m+blocks-1)/blocks), tiles)
}

// WorkLen returns the number of elements of working memory that Multiply
// needs for a product of m × k by k × n.
func WorkLen[T Number](m, k, n int) int {
	return workLenRows[T](m, k) + min(DepthStep(k), k)*min(colBlock, roundUp(n, TileCols[T]()))
}

// WorkLenPacked returns the number of elements of working memory that
// MultiplyPacked needs for a left-hand operand of m × k.
func WorkLenPacked[T Number](m, k int) int {
	return max(workLenRows[T](m, k), min(roundUp(m, TileRows[T]())*k, wholeBlock))
}

// workLenRows is the number of elements of a packed block of rows.
func workLenRows[T Number](m, k int) int {
	return min(DepthStep(k), k) * min(rowBlock, roundUp(m, TileRows[T]()))
}

// Multiply computes c = a·b, where element (i, j) of c lies at i·stride + j.
// work has at least WorkLen elements.
func Multiply[T Number](c []T, stride int, a, b Matrix[T], work []T) {
	switch {
	case a.Rows == 0 || b.Cols == 0:
	case a.Cols == 0:
		zero(c, stride, a.Rows, b.Cols)
	case min(a.Rows, b.Cols) <= few && b.RowStride == 1 && a.ColStride == 1:
		multiplyDots(c, stride, a, b)
	case a.Rows <= few && b.ColStride == 1:
		multiplyRows(c, stride, a, b)
	default:
		multiplyTiles(c, stride, a, b, work)
	}
}

// MultiplyPart is Multiply for a part of a product of m rows and n columns,
// whose bits do not depend on what the other parts are.
func MultiplyPart[T Number](c []T, stride int, a, b Matrix[T], m, n int, work []T) {
	if min(m, n) > few && a.Rows > 0 && b.Cols > 0 && a.Cols > 0 {
		multiplyTiles(c, stride, a, b, work)
		return
	}
	Multiply(c, stride, a, b, work)
}

// multiplyTiles is Multiply for operands that are worth packing.
func multiplyTiles[T Number](c []T, stride int, a, b Matrix[T], work []T) {
	step, height := DepthStep(a.Cols), RowBlock(a.Rows)
	at := workLenRows[T](a.Rows, a.Cols)
	rows, cols := work[:at], work[at:]
	for j := 0; j < b.Cols; j += colBlock {
		nj := min(colBlock, b.Cols-j)
		for l := 0; l < a.Cols; l += step {
			nl := min(step, a.Cols-l)
			packCols(cols, b.Block(l, j, nl, nj))
			for i := 0; i < a.Rows; i += height {
				ni := min(height, a.Rows-i)
				packRows(rows, a.Block(i, l, ni, nl))
				block(c[i*stride+j:], stride, rows, cols, nl, ni, nj, nl, l > 0)
			}
		}
	}
}

// MultiplyPacked computes the columns from … to−1 of a·b, plus bias, unless it
// is nil, which has an element for each of these columns; c begins with element
// (0, from). from must be a multiple of TileCols. work has at least
// WorkLenPacked elements.
func MultiplyPacked[T Number](c []T, stride int, a Matrix[T], b *Packed[T], from, to int, bias, work []T) {
	if a.Rows == 0 || to <= from {
		return
	}
	if to-from <= narrow {
		done := multiplyInPlaceAVX512(c, stride, a, b, from, to, bias)
		if done == a.Rows {
			return
		}
		a, c = a.Block(done, 0, a.Rows-done, a.Cols), c[done*stride:]
	}
	multiplyPacked(c, stride, a, b, from, to, work)
	if bias != nil {
		AddBias(c, stride, a.Rows, bias[:to-from])
	}
}

// multiplyPacked is MultiplyPacked without a bias, from rows that it packs.
func multiplyPacked[T Number](c []T, stride int, a Matrix[T], b *Packed[T], from, to int, work []T) {
	if a.Cols == 0 {
		zero(c, stride, a.Rows, to-from)
		return
	}
	if a.Rows == 1 && a.ColStride == 1 && multiplyRowAVX2(c, a.row(0), b, from, to) {
		return
	}
	if a.Rows <= rowBlock && roundUp(a.Rows, TileRows[T]())*a.Cols <= wholeBlock {
		multiplyStreaming(c, stride, a, b, from, to, work)
		return
	}
	step, height := DepthStep(a.Cols), RowBlock(a.Rows)
	for i := 0; i < a.Rows; i += height {
		ni := min(height, a.Rows-i)
		for l := 0; l < a.Cols; l += step {
			nl := min(step, a.Cols-l)
			packRows(work, a.Block(i, l, ni, nl))
			panels := b.data[from*b.Rows+l*TileCols[T]():]
			block(c[i*stride:], stride, work, panels, b.Rows, ni, to-from, nl, l > 0)
		}
	}
}

// AddBias adds a bias to each of a number of rows of c, which lie stride apart.
func AddBias[T Number](c []T, stride, rows int, bias []T) {
	for i := range rows {
		Axpy(1, bias, c[i*stride:]) // exact: a factor of 1 rounds nothing
	}
}

// multiplyStreaming is multiplyPacked for rows that fit into a cache over their
// whole depth. It reads b from its beginning to its end, as few rows, which
// wait for b, want it.
func multiplyStreaming[T Number](c []T, stride int, a Matrix[T], b *Packed[T], from, to int, work []T) {
	PackLeft(work, a, 0, a.Rows, DepthStep(a.Cols))
	width, step, rows := TileCols[T](), DepthStep(a.Cols), roundUp(a.Rows, TileRows[T]())
	for j := from; j < to; j += 2 * width { // as many as the widest tiles have
		for l := 0; l < a.Cols; l += step {
			block(c[j-from:], stride, work[l*rows:], b.data[j*b.Rows+l*width:], b.Rows, a.Rows, min(2*width, to-j),
				min(step, a.Cols-l), l > 0)
		}
	}
}

// PackLeft packs the rows first … last−1 of a for MultiplyLeft, to RowsLen
// elements for all of a, which has not more than RowBlock rows. first must be a
// multiple of TileRows. Calls for different rows may run at the same time. The
// product that a belongs to has blocks of the given depth, its DepthStep.
func PackLeft[T Number](packed []T, a Matrix[T], first, last, step int) {
	rows := roundUp(a.Rows, TileRows[T]())
	for l := 0; l < a.Cols; l += step {
		nl := min(step, a.Cols-l)
		packRows(packed[l*rows+first*nl:], a.Block(first, l, last-first, nl))
	}
}

// MultiplyLeft is MultiplyPacked for m rows that PackLeft packed, and gives the
// same bits where m is above 1. With add, it adds to c the product of a later
// part of a deeper product's operands, which begins at a multiple of step.
func MultiplyLeft[T Number](c []T, stride int, packed []T, m int, b *Packed[T], from, to, step int, add bool) {
	width, rows := TileCols[T](), roundUp(m, TileRows[T]())
	for l := 0; l < b.Rows; l += step {
		block(c, stride, packed[l*rows:], b.data[from*b.Rows+l*width:], b.Rows, m, to-from, min(step, b.Rows-l), add || l > 0)
	}
}

// block multiplies packed rows by packed columns. Panels of rows have the
// given depth; those of columns lie panelDepth deep apart.
func block[T Number](c []T, stride int, rows, cols []T, panelDepth, m, n, depth int, add bool) {
	width := TileCols[T]()
	done := blockAVX512(c, stride, rows, cols, panelDepth, m, n, depth, add)
	for j := done; j < n; j += width {
		b := cols[j*panelDepth:]
		if n-j >= width {
			tiles(m, depth, rows, b, c[j:], stride, add)
		} else {
			edge(m, n-j, depth, rows, b, c[j:], stride, add)
		}
	}
}

// edge computes tiles of which only some columns exist.
func edge[T Number](rows, cols, depth int, a, b, c []T, stride int, add bool) {
	var whole [maxTile]T
	height, width := TileRows[T](), TileCols[T]()
	for first := 0; first < rows; first += height {
		live := min(height, rows-first)
		tiles(live, depth, a[first*depth:], b, whole[:], width, false)
		for i := range live {
			from, to := whole[i*width:][:cols], c[(first+i)*stride:][:cols]
			if add {
				for j, x := range from {
					to[j] += x
				}
			} else {
				copy(to, from)
			}
		}
	}
}

// multiplyRows is Multiply where the rows of b are contiguous: each is read
// once and added, scaled, to every row of c.
func multiplyRows[T Number](c []T, stride int, a, b Matrix[T]) {
	zero(c, stride, a.Rows, b.Cols)
	for l := range b.Rows {
		from := b.Data[l*b.RowStride:][:b.Cols]
		for i := range a.Rows {
			Axpy(a.row(i)[l*a.ColStride], from, c[i*stride:][:b.Cols])
		}
	}
}

// multiplyDots is Multiply where the columns of b and the rows of a are
// contiguous: each column is read once and multiplied with every row.
func multiplyDots[T Number](c []T, stride int, a, b Matrix[T]) {
	for j := range b.Cols {
		column := b.Data[j*b.ColStride:][:b.Rows]
		for i := range a.Rows {
			c[i*stride+j] = Dot(a.row(i)[:a.Cols], column)
		}
	}
}

func zero[T Number](c []T, stride, rows, cols int) {
	for i := range rows {
		clear(c[i*stride:][:cols])
	}
}
