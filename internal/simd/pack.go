package simd

import (
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/memory"
)

// Packed is a right-hand operand in the order in which products read it:
// panels of as many columns as a tile has, each panel row by row, the last one
// filled up with zeros. Packing costs about as much as a product with a few
// rows, so weights are packed once.
type Packed[T Number] struct {
	data       []T
	Rows, Cols int
}

// Pack packs all of b.
func Pack[T Number](b Matrix[T]) *Packed[T] {
	p := NewPacked[T](b.Rows, b.Cols)
	p.Fill(b, 0, b.Cols)
	return p
}

// NewPacked makes room for an operand of rows × cols, to be filled by Fill.
func NewPacked[T Number](rows, cols int) *Packed[T] {
	n := roundUp(cols, TileCols[T]()) * rows
	var zero T
	bytes := memory.Aligned(n * int(unsafe.Sizeof(zero)))
	return &Packed[T]{data: unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bytes))), n), Rows: rows, Cols: cols}
}

// PackedIn is NewPacked in memory of ColsLen elements.
func PackedIn[T Number](memory []T, rows, cols int) Packed[T] {
	return Packed[T]{data: memory[:ColsLen[T](rows, cols)], Rows: rows, Cols: cols}
}

// Size returns the bytes that the operand takes.
func (p *Packed[T]) Size() int {
	var zero T
	return len(p.data) * int(unsafe.Sizeof(zero))
}

// Fill packs the columns from … to−1 of b. from must be a multiple of
// TileCols, and so must to unless it is the last column's end. Calls for
// different columns may run at the same time.
func (p *Packed[T]) Fill(b Matrix[T], from, to int) { p.FillRows(b, 0, p.Rows, from, to) }

// FillRows is Fill for the rows first … last−1 alone.
func (p *Packed[T]) FillRows(b Matrix[T], first, last, from, to int) {
	if first == last {
		return
	}
	width := TileCols[T]()
	for j := from; j < to; j += width {
		packCols(p.data[j*p.Rows+first*width:][:(last-first)*width], b.Block(first, j, last-first, min(width, to-j)))
	}
}

// packRows packs a left-hand operand as panels of TileRows rows.
func packRows[T Number](dst []T, a Matrix[T]) {
	width := TileRows[T]()
	if a.RowStride == 1 && a.Index == nil {
		packRuns(dst, Matrix[T]{Data: a.Data, Rows: a.Cols, Cols: a.Rows, RowStride: a.ColStride}, width)
		return
	}
	for i := 0; i < a.Rows; i += width {
		live := min(width, a.Rows-i)
		panel := dst[i*a.Cols : (i+width)*a.Cols]
		var rows [maxRows][]T
		for r := range rows { // what a tile does not use may have any value
			rows[r] = a.row(i + min(r, live-1))
		}
		interleaveRows(panel, &rows, width, a.Cols, a.ColStride)
	}
}

// maxRows bounds the rows of a tile.
const maxRows = 6

// interleaveRows packs a panel of width rows, whose elements lie stride apart.
func interleaveRows[T Number](dst []T, rows *[maxRows][]T, width, depth, stride int) {
	from := 0
	if stride == 1 && width == maxRows {
		from = interleaveRowsAVX2(dst, rows, depth)
	}
	if from == depth {
		return
	}
	dst = dst[from*width:]
	for r, row := range rows[:width] {
		scatter(dst[r:], row[from*stride:], width, depth-from, stride)
	}
}

// packCols packs a right-hand operand as panels of TileCols columns.
func packCols[T Number](dst []T, b Matrix[T]) {
	width := TileCols[T]()
	if b.ColStride == 1 {
		packRuns(dst, b, width)
		return
	}
	for j := 0; j < b.Cols; j += width {
		live := min(width, b.Cols-j)
		panel := dst[j*b.Rows : (j+width)*b.Rows]
		if live < width {
			clear(panel)
		}
		if live == width && b.RowStride == 1 && columnsAVX2(panel, b.Data[j*b.ColStride:], b.Rows, b.ColStride) {
			continue
		}
		c := 0
		for ; c+1 < live && b.RowStride == 1; c += 2 {
			scatter2(panel[c:], b.Data[(j+c)*b.ColStride:], b.Data[(j+c+1)*b.ColStride:], width, b.Rows)
		}
		for ; c < live; c++ {
			scatter(panel[c:], b.Data[(j+c)*b.ColStride:], width, b.Rows, b.RowStride)
		}
	}
}

// packRuns packs rows, whose elements lie one behind the other, as panels of
// width elements of each row. It takes few rows at a time, which stay in the
// first cache until all panels have their part of them.
func packRuns[T Number](dst []T, src Matrix[T], width int) {
	few := 8
	if src.Index != nil {
		few = 1
	}
	n, depth := src.Cols, src.Rows
	if n == 0 {
		return
	}
	if n%width != 0 {
		clear(dst[n/width*width*depth:][:width*depth])
	}
	for l := 0; l < depth; l += few {
		rows, runs := src.row(l), min(few, depth-l)
		for j := packRunsAVX2(dst[l*width:], rows, width, n, runs, depth, src.RowStride); j < n; j += width {
			interleave(dst[j*depth+l*width:], rows[j:], width, min(width, n-j), runs, src.RowStride)
		}
	}
}

// interleave copies depth runs of live elements that lie stride apart to runs
// that lie width apart.
func interleave[T Number](dst, src []T, width, live, depth, stride int) {
	for l := range depth {
		d, s := dst[l*width:], src[l*stride:]
		// Runs of a constant length spare a call for each.
		switch live {
		case 16:
			*(*[16]T)(d) = *(*[16]T)(s)
		case 8:
			*(*[8]T)(d) = *(*[8]T)(s)
		case 6:
			*(*[6]T)(d) = *(*[6]T)(s)
		case 4:
			*(*[4]T)(d) = *(*[4]T)(s)
		default:
			copy(d[:live], s[:live])
		}
	}
}

// scatter copies depth elements that lie stride apart to places that lie
// width apart.
func scatter[T Number](dst, src []T, width, depth, stride int) {
	for l := range depth {
		dst[l*width] = src[l*stride]
	}
}

// scatter2 copies pairs of depth elements to places that lie width apart.
func scatter2[T Number](dst, src0, src1 []T, width, depth int) {
	src0, src1 = src0[:depth], src1[:depth]
	at := 0
	for l, x := range src0 {
		d := (*[2]T)(dst[at:])
		d[0], d[1] = x, src1[l]
		at += width
	}
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
