package cpu

import (
	"sort"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// projection is one linear layer of every expert: weight [T, out, in] and
// bias [T, out].
type projection[T simd.Float] struct {
	stack        stack
	weight, bias *tensor.Tensor     // bias may be nil
	packed       []*simd.Packed[T]  // the experts' weights, where they are constant
	compressed   []*simd.Compressed // or those stored in fewer bits

	// Experts that other workers lend for a run, behind the own ones.
	own                    int
	borrowed, borrowedBias []T // [experts, out, in], [experts, out]
}

// newProjection describes the layer whose weight is in an input slot of FMoE
// and its bias in the next one. It is nil where the weight is absent.
func newProjection[T simd.Float](k *fmoe, c *device.Call, slot int) *projection[T] {
	input := func(i int) *tensor.Tensor {
		if i < len(c.In) {
			return c.In[i]
		}
		return nil
	}
	if input(slot) == nil {
		return nil
	}
	p := &projection[T]{weight: input(slot), bias: input(slot + 1), own: input(slot).Shape[0]}
	p.packed, _ = k.packed[slot].([]*simd.Packed[T])
	if p.compressed, _ = k.packed[slot].([]*simd.Compressed); p.compressed != nil {
		p.stack = stack{rows: p.compressed[0].Rows, cols: p.compressed[0].Cols}
	} else {
		p.stack = newStack(p.weight.Shape, fmoeOrder(slot), nil)
	}
	return p
}

// ready reports whether the weights were packed beforehand.
func (p *projection[T]) ready() bool { return p.packed != nil || p.compressed != nil }

// workLen returns the elements of working memory that apply needs for a number
// of rows, or fewer.
func (p *projection[T]) workLen(rows int) int {
	_, cols := pieceSize(rows, p.ready())
	rows = min(rows, maxPieceRows)
	switch {
	case p.compressed != nil:
		return simd.WorkLenCompressed[T](rows, p.stack.rows)
	case p.packed != nil:
		return simd.WorkLenPacked[T](rows, p.stack.rows)
	}
	return simd.WorkLen[T](rows, p.stack.rows, cols)
}

// apply computes a piece of an expert's layer: width outputs from col on, for
// rows of inputs. out begins at the piece.
func (p *projection[T]) apply(out []T, stride int, rows simd.Matrix[T], expert, col, width int, work []T) {
	var bias []T
	if all, at := p.biasOf(expert); all != nil {
		bias = all[at*p.stack.cols+col:][:width]
	}
	switch {
	case p.packed != nil:
		simd.MultiplyPacked(out, stride, rows, p.packed[expert], col, col+width, bias, work)
		return
	case p.compressed != nil:
		simd.MultiplyCompressed(out, stride, rows, rows.Rows, p.compressed[expert], col, col+width, work)
	default:
		weight := p.weightOf(expert)
		simd.MultiplyPart(out, stride, rows, weight.Block(0, col, p.stack.rows, width), rows.Rows, p.stack.cols, work)
	}
	if bias != nil {
		simd.AddBias(out, stride, rows.Rows, bias)
	}
}

// borrow lets a run use the weights of a slot, and the biases in the next one,
// that other workers lend.
func (p *projection[T]) borrow(weights *expertsOf[T], slot int) {
	p.borrowed, p.borrowedBias = weights[slot], weights[slot+1]
}

// weightOf returns an expert's matrix.
func (p *projection[T]) weightOf(expert int) simd.Matrix[T] {
	if expert < p.own {
		return matrix(&p.stack, tensor.Of[T](p.weight), expert)
	}
	return matrix(&p.stack, p.borrowed[(expert-p.own)*p.stack.rows*p.stack.cols:], 0)
}

// biasOf returns the biases that an expert's is among, and its number; nil
// where there is none.
func (p *projection[T]) biasOf(expert int) (biases []T, at int) {
	switch {
	case p.bias == nil:
		return nil, 0
	case expert < p.own:
		return tensor.Of[T](p.bias), expert
	}
	return p.borrowedBias, expert - p.own
}

// pieces cuts rows, sorted by expert, times the outputs of a projection into
// pieces of similar work.
type pieces struct {
	segments []moe.Segment
	first    []int // [segments+1] each segment's first piece
	packed   bool
	colStep  int
	cols     int
	grain    int // pieces that are worth a thread
}

// all makes a segment of the rows of each expert, which begin where offset says.
func (s *pieces) all(offset []int) {
	s.segments = s.segments[:0]
	for e := range len(offset) - 1 {
		s.segments = append(s.segments, moe.Segment{Expert: e, Row: offset[e], Rows: offset[e+1] - offset[e]})
	}
}

// rows counts the rows of all segments.
func (s *pieces) rows() (n int) {
	for _, segment := range s.segments {
		n += segment.Rows
	}
	return n
}

// eachRow calls body for the rows lo … hi of all segments, which are counted
// from the first one's.
func (s *pieces) eachRow(lo, hi int, body func(lo, hi int)) {
	for _, segment := range s.segments {
		if from, to := max(lo, 0), min(hi, segment.Rows); from < to {
			body(segment.Row+from, segment.Row+to)
		}
		lo, hi = lo-segment.Rows, hi-segment.Rows
	}
}

// cut plans the layer for the segments, and returns the number of pieces. It
// allocates nothing once s.first has room.
func (p *projection[T]) cut(s *pieces, threads int) int {
	depth, tile := p.stack.rows, simd.TileCols[T]()
	s.cols = p.stack.cols
	rows := s.rows()
	if rows == 0 || s.cols == 0 {
		return 0
	}
	s.packed = p.ready()
	_, s.colStep = pieceSize(rows, s.packed)
	s.colStep = roundUp(min(s.colStep, s.cols), tile)
	n := s.count()
	for threads > 1 && n < 4*threads && s.colStep > tile && rows*s.cols/n*depth >= 2*pieceWork {
		s.colStep = roundUp(s.colStep/2, tile)
		n = s.count()
	}
	s.grain = max(1, pieceWork/max(1, rows*s.cols/n*depth))
	return n
}

func (s *pieces) count() int {
	s.first = s.first[:0]
	n, across := 0, (s.cols+s.colStep-1)/s.colStep
	for _, segment := range s.segments {
		s.first = append(s.first, n)
		_, down := s.down(segment)
		n += down * across
	}
	s.first = append(s.first, n)
	return n
}

// down returns the height of a segment's pieces and how many lie one below the
// other.
func (s *pieces) down(segment moe.Segment) (step, count int) {
	step, _ = pieceSize(segment.Rows, s.packed)
	return step, (segment.Rows + step - 1) / step
}

// locate returns the expert of a piece, its rows in the sorted order and its
// columns. Pieces that share columns of weights come one after the other.
func (s *pieces) locate(piece int) (expert, row, rows, col, cols int) {
	i := sort.Search(len(s.first)-1, func(i int) bool { return s.first[i+1] > piece })
	segment := s.segments[i]
	step, down := s.down(segment)
	piece -= s.first[i]
	row, col = piece%down*step, piece/down*s.colStep
	return segment.Expert, segment.Row + row, min(step, segment.Rows-row), col, min(s.colStep, s.cols-col)
}
