package cpu

import (
	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// rowProducts computes, for each expert, sums over its rows: products of the
// transpose of a left-hand matrix with a right-hand one. That of fewer columns
// is packed once, the other one piece by piece, so that each is packed once.
//
// The rows of an expert may be in several parts, which came from one worker
// each. They are summed up one by one and then added, so that a sum has the
// same bits if the workers make its parts.
type rowProducts[T simd.Float] struct {
	device *Device
	packed []T // of packedLen

	// The products in progress.
	parts       []moe.Segment  // by expert
	first       []int          // [experts+1] the first part of each
	own         int            // experts whose sums are in out; those of the others are in borrowed
	out         []T            // [own, m, n]
	borrowed    []T            // [others, m, n]
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

func newRowProducts[T simd.Float](d *Device, own int) *rowProducts[T] {
	s := &rowProducts[T]{device: d, own: own, first: make([]int, 0, own+1)}
	s.packBody, s.pieceBody, s.addBody = s.pack, s.piece, s.addColumns
	return s
}

// packedLen returns the elements that a number of rows take when they are
// packed.
func (s *rowProducts[T]) packedLen(rows, columns int) int {
	return rows * max(roundUp(columns, simd.TileRows[T]()), roundUp(columns, simd.TileCols[T]()))
}

// workLen returns the working memory of a thread for matrices the narrower of
// which has a number of columns, and for experts of more than one part if there
// are such.
func (s *rowProducts[T]) workLen(columns int, parts bool) int {
	n := depthStep * max(leftStep, rightStep)
	if parts {
		n += max(leftStep, rightStep)*columns + addStep
	}
	return n
}

// of states the parts of a number of experts.
func (s *rowProducts[T]) of(parts []moe.Segment, experts int) {
	s.parts, s.first = parts, s.first[:0]
	at := 0
	for e := range experts {
		s.first = append(s.first, at)
		for at < len(parts) && parts[at].Expert == e {
			at++
		}
	}
	s.first = append(s.first, at)
}

func (s *rowProducts[T]) experts() int { return len(s.first) - 1 }

// sum returns where the sum of an expert is, of size elements.
func (s *rowProducts[T]) sum(e, size int) []T {
	if e < s.own {
		return s.out[e*size:][:size]
	}
	return s.borrowed[(e-s.own)*size:][:size]
}

// multiply computes out [own, m, n], and borrowed of the other experts.
func (s *rowProducts[T]) multiply(out, borrowed []T, left, right simd.Matrix[T], space *workspace[T]) {
	if left.Cols == 0 || right.Cols == 0 {
		return
	}
	s.out, s.borrowed, s.left, s.right, s.space = out, borrowed, left, right, space
	space.open()
	s.device.pool.run(len(s.parts), 1, s.packBody)
	s.device.pool.run(s.experts()*s.across(), 1, s.pieceBody)
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

// pack packs the narrower matrix of parts.
func (s *rowProducts[T]) pack(lo, hi int) {
	for _, part := range s.parts[lo:hi] {
		first, rows := part.Row, part.Rows
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
		out := s.sum(e, m*n)
		height, cols := m, n // of the piece
		if s.narrowLeft() {
			cols = min(rightStep, n-at*rightStep)
			out = out[at*rightStep:]
		} else {
			height = min(leftStep, m-at*leftStep)
			out = out[at*leftStep*n:]
		}
		parts := s.parts[s.first[e]:s.first[e+1]]
		if len(parts) == 0 {
			for i := range height {
				clear(out[i*n:][:cols])
			}
			continue
		}
		s.multiplyPart(out, n, parts[0], at, height, cols, work)
		for _, part := range parts[1:] {
			sum, work := work[:height*cols], work[height*cols:]
			s.multiplyPart(sum, cols, part, at, height, cols, work)
			for i := range height {
				simd.Axpy(1, sum[i*cols:][:cols], out[i*n:])
			}
		}
	}
}

// multiplyPart computes the piece number at of a part's product, of height ×
// cols elements.
func (s *rowProducts[T]) multiplyPart(out []T, stride int, part moe.Segment, at, height, cols int, work []T) {
	first, rows := part.Row, part.Rows
	for l := 0; l < rows; l += depthStep {
		depth := min(depthStep, rows-l)
		if s.narrowLeft() {
			width := roundUp(height, simd.TileRows[T]())
			simd.PackCols(work, s.right.Block(first+l, at*rightStep, depth, cols))
			simd.MultiplyPanels(out, stride, s.packed[(first+l)*width:], work, height, cols, depth, depth, l > 0)
			continue
		}
		width := roundUp(cols, simd.TileCols[T]())
		simd.PackColumns(work, s.left.Block(first+l, at*leftStep, depth, height))
		simd.MultiplyPanels(out, stride, work, s.packed[first*width+l*simd.TileCols[T]():], height, cols, depth, rows, l > 0)
	}
}

// add computes out [own, m], and borrowed of the other experts: the sums of the
// rows of left, each times its score unless scores is nil.
func (s *rowProducts[T]) add(out, borrowed []T, left simd.Matrix[T], scores []T, space *workspace[T]) {
	s.out, s.borrowed, s.left, s.scores, s.space = out, borrowed, left, scores, space
	space.open()
	s.device.pool.run(s.experts()*((left.Cols+addStep-1)/addStep), 4, s.addBody)
}

// addStep is how many columns are added up at a time.
const addStep = 256

func (s *rowProducts[T]) addColumns(lo, hi int) {
	number, work := s.space.take()
	defer s.space.give(number)
	across := (s.left.Cols + addStep - 1) / addStep
	for piece := lo; piece < hi; piece++ {
		e, from := piece/across, piece%across*addStep
		cols := min(addStep, s.left.Cols-from)
		sum := s.sum(e, s.left.Cols)[from:][:cols]
		clear(sum)
		for i, part := range s.parts[s.first[e]:s.first[e+1]] {
			if i == 0 {
				s.addPart(sum, part, from)
				continue
			}
			other := work[:cols]
			clear(other)
			s.addPart(other, part, from)
			simd.Axpy(1, other, sum)
		}
	}
}

// addPart adds the rows of a part to a sum, whose columns begin at from.
func (s *rowProducts[T]) addPart(sum []T, part moe.Segment, from int) {
	for row := part.Row; row < part.Row+part.Rows; row++ {
		factor := T(1)
		if s.scores != nil {
			factor = s.scores[row]
		}
		at := row
		if s.left.Index != nil {
			at = int(s.left.Index[row])
		}
		simd.Axpy(factor, s.left.Data[at*s.left.RowStride+from:][:len(sum)], sum)
	}
}
