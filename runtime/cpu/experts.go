package cpu

import (
	"sort"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// projection is one linear layer of every expert: weight [T, out, in] and
// bias [T, out].
type projection[T simd.Float] struct {
	stack        stack
	weight, bias *tensor.Tensor     // bias may be nil
	packed       []*simd.Packed[T]  // the experts' weights, where they are constant
	compressed   []*simd.Compressed // or those stored in fewer bits
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
	p := &projection[T]{weight: input(slot), bias: input(slot + 1)}
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
	if p.bias != nil {
		bias = tensor.Of[T](p.bias)[expert*p.stack.cols+col:][:width]
	}
	switch {
	case p.packed != nil:
		simd.MultiplyPacked(out, stride, rows, p.packed[expert], col, col+width, bias, work)
		return
	case p.compressed != nil:
		simd.MultiplyCompressed(out, stride, rows, rows.Rows, p.compressed[expert], col, col+width, work)
	default:
		weight := matrix(&p.stack, tensor.Of[T](p.weight), expert)
		simd.MultiplyPart(out, stride, rows, weight.Block(0, col, p.stack.rows, width), rows.Rows, p.stack.cols, work)
	}
	if bias != nil {
		simd.AddBias(out, stride, rows.Rows, bias)
	}
}

// pieces cuts the rows of all experts, sorted by expert, times the outputs of
// a projection into pieces of similar work.
type pieces struct {
	offset  []int // where each expert's rows begin
	first   []int // [T+1] each expert's first piece
	packed  bool
	colStep int
	cols    int
	grain   int // pieces that are worth a thread
}

// cut plans the layer for rows that are sorted by expert, as offset says, and
// returns the number of pieces. It allocates nothing once s.first has room.
func (p *projection[T]) cut(s *pieces, offset []int, threads int) int {
	depth, tile := p.stack.rows, simd.TileCols[T]()
	s.offset, s.cols = offset, p.stack.cols
	rows := offset[len(offset)-1]
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
	for e := range len(s.offset) - 1 {
		s.first = append(s.first, n)
		_, down := s.down(e)
		n += down * across
	}
	s.first = append(s.first, n)
	return n
}

// down returns the height of an expert's pieces and how many lie one below the
// other.
func (s *pieces) down(expert int) (step, count int) {
	rows := s.offset[expert+1] - s.offset[expert]
	step, _ = pieceSize(rows, s.packed)
	return step, (rows + step - 1) / step
}

// locate returns the expert of a piece, its rows in the sorted order and its
// columns. Pieces that share columns of weights come one after the other.
func (s *pieces) locate(piece int) (expert, row, rows, col, cols int) {
	expert = sort.Search(len(s.first)-1, func(e int) bool { return s.first[e+1] > piece })
	step, down := s.down(expert)
	piece -= s.first[expert]
	row, col = s.offset[expert]+piece%down*step, piece/down*s.colStep
	return expert, row, min(step, s.offset[expert+1]-row), col, min(s.colStep, s.cols-col)
}
