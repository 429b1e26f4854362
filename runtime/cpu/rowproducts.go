package cpu

import "github.com/fmoe-go/fmoe/internal/simd"

// rowProducts computes, for each expert, sums over its rows: products of the
// transpose of a left-hand matrix with a right-hand one. That of fewer columns
// is packed once, the other one piece by piece, so that each is packed once.
type rowProducts[T simd.Float] struct {
	device  *Device
	experts int
	packed  []T // of packedLen

	// The products in progress.
	out         []T // [T, m, n]
	offset      []int
	left, right simd.Matrix[T] // [rows, m], [rows, n]
	scores      []T
	space       *workspace[T]

	packBody, pieceBody, addBody func(lo, hi int)
}

// Columns of the wider matrix, and rows, that are packed and multiplied at a
// time.
const (
	leftStep  = 144
	rightStep = 128
	depthStep = 512
)

func newRowProducts[T simd.Float](d *Device, experts int) *rowProducts[T] {
	s := &rowProducts[T]{device: d, experts: experts}
	s.packBody, s.pieceBody, s.addBody = s.pack, s.piece, s.addColumns
	return s
}

// packedLen returns the elements that a number of rows take when they are
// packed.
func (s *rowProducts[T]) packedLen(rows, columns int) int {
	return rows * max(roundUp(columns, simd.TileRows[T]()), roundUp(columns, simd.TileCols[T]()))
}

// workLen returns the working memory of a thread.
func (s *rowProducts[T]) workLen() int { return depthStep * max(leftStep, rightStep) }

// multiply computes out [T, m, n] for rows that are sorted by expert, as offset
// says.
func (s *rowProducts[T]) multiply(out []T, offset []int, left, right simd.Matrix[T], space *workspace[T]) {
	if left.Cols == 0 || right.Cols == 0 {
		return
	}
	s.out, s.offset, s.left, s.right, s.space = out, offset, left, right, space
	space.open()
	s.device.pool.run(s.experts, 1, s.packBody)
	s.device.pool.run(s.experts*s.across(), 1, s.pieceBody)
}

// narrowLeft reports whether it is the left matrix that is packed once.
func (s *rowProducts[T]) narrowLeft() bool { return s.left.Cols < s.right.Cols }

// across returns the number of pieces of an expert.
func (s *rowProducts[T]) across() int {
	if s.narrowLeft() {
		return (s.right.Cols + rightStep - 1) / rightStep
	}
	return (s.left.Cols + leftStep - 1) / leftStep
}

// pack packs the narrower matrix of experts.
func (s *rowProducts[T]) pack(lo, hi int) {
	for e := lo; e < hi; e++ {
		first, rows := s.offset[e], s.offset[e+1]-s.offset[e]
		if !s.narrowLeft() {
			width := roundUp(s.right.Cols, simd.TileCols[T]())
			simd.PackCols(s.packed[first*width:], s.right.Block(first, 0, rows, s.right.Cols))
			continue
		}
		width := roundUp(s.left.Cols, simd.TileRows[T]())
		for l := 0; l < rows; l += depthStep {
			simd.PackColumns(s.packed[(first+l)*width:], s.left.Block(first+l, 0, min(depthStep, rows-l), s.left.Cols))
		}
	}
}

// piece computes pieces of the products.
func (s *rowProducts[T]) piece(lo, hi int) {
	number, work := s.space.take()
	defer s.space.give(number)
	m, n, across := s.left.Cols, s.right.Cols, s.across()
	for piece := lo; piece < hi; piece++ {
		e, at := piece/across, piece%across
		first, rows := s.offset[e], s.offset[e+1]-s.offset[e]
		out := s.out[e*m*n:][:m*n]
		switch {
		case s.narrowLeft():
			from, width := at*rightStep, roundUp(m, simd.TileRows[T]())
			cols := min(rightStep, n-from)
			if rows == 0 {
				simd.MultiplyPanels(out[from:], n, nil, nil, m, cols, 0, 0, false)
			}
			for l := 0; l < rows; l += depthStep {
				depth := min(depthStep, rows-l)
				simd.PackCols(work, s.right.Block(first+l, from, depth, cols))
				simd.MultiplyPanels(out[from:], n, s.packed[(first+l)*width:], work, m, cols, depth, depth, l > 0)
			}
		default:
			from, width := at*leftStep, roundUp(n, simd.TileCols[T]())
			height := min(leftStep, m-from)
			if rows == 0 {
				clear(out[from*n:][:height*n])
			}
			for l := 0; l < rows; l += depthStep {
				depth := min(depthStep, rows-l)
				simd.PackColumns(work, s.left.Block(first+l, from, depth, height))
				simd.MultiplyPanels(out[from*n:], n, work, s.packed[first*width+l*simd.TileCols[T]():], height, n, depth, rows, l > 0)
			}
		}
	}
}

// add computes out [T, m], the sums of the rows of left, each times its score
// unless scores is nil.
func (s *rowProducts[T]) add(out []T, offset []int, left simd.Matrix[T], scores []T) {
	s.out, s.offset, s.left, s.scores = out, offset, left, scores
	s.device.pool.run(s.experts*((left.Cols+addStep-1)/addStep), 4, s.addBody)
}

// addStep is how many columns are added up at a time.
const addStep = 256

func (s *rowProducts[T]) addColumns(lo, hi int) {
	across := (s.left.Cols + addStep - 1) / addStep
	for piece := lo; piece < hi; piece++ {
		e, from := piece/across, piece%across*addStep
		cols := min(addStep, s.left.Cols-from)
		sum := s.out[e*s.left.Cols+from:][:cols]
		clear(sum)
		for row := s.offset[e]; row < s.offset[e+1]; row++ {
			factor := T(1)
			if s.scores != nil {
				factor = s.scores[row]
			}
			at := row
			if s.left.Index != nil {
				at = int(s.left.Index[row])
			}
			simd.Axpy(factor, s.left.Data[at*s.left.RowStride+from:][:cols], sum)
		}
	}
}
