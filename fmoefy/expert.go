package fmoefy

import (
	"io"
	"iter"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// stack is what all experts have in one slot: a source of the elements [n, …]
// of some of them, the same for the next n and so on, times in all. A slot
// that is not taken has no source.
type stack struct {
	elementType onnx.DataType
	dims        []int64
	source      onnx.Source
	times       int
}

// newStack returns the experts [T, …] that a source makes.
func newStack(t onnx.DataType, dims []int64, source onnx.Source) stack {
	return stack{t, dims, source, 1}
}

// copies returns experts that are c, each of them.
func copies(c *constant, experts int) stack { return stacked(c.shards(0, 1), experts) }

// stacked returns the experts that c [n, …] holds, times times.
func stacked(c *constant, times int) stack { return stack{c.elementType(), c.dims, view{c}, times} }

// elements returns the number of elements of all experts.
func (s stack) elements() int64 {
	n, _ := onnx.ElementCount(s.dims)
	return n * int64(s.times)
}

// part returns the experts [n, …] that the others repeat.
func (s stack) part(name string) *onnx.Tensor {
	x := &onnx.Tensor{Name: name, DataType: s.elementType, Dims: s.dims}
	x.SetSource(s.source)
	return x
}

// whole returns all experts [T, …].
func (s stack) whole(name string) *onnx.Tensor {
	if s.times == 1 {
		return s.part(name)
	}
	x := &onnx.Tensor{Name: name, DataType: s.elementType, Dims: slices.Clone(s.dims)}
	x.Dims[0] *= int64(s.times)
	x.SetSource(repeated{s.source, s.times})
	return x
}

// repeated is a source again and again. What it gives once is in memory while
// it is written.
type repeated struct {
	source onnx.Source
	times  int
}

func (s repeated) Size() int64 { return s.source.Size() * int64(s.times) }

// WriteTo implements [onnx.Source].
func (s repeated) WriteTo(w io.Writer) (int64, error) {
	elements, err := elementsOf(s.source)
	if err != nil {
		return 0, err
	}
	written := int64(0)
	for range s.times {
		n, err := w.Write(elements)
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}

// elementsOf returns what a source gives, as memory of the dense model where
// that has the same bytes.
func elementsOf(s onnx.Source) ([]byte, error) {
	if dense, ok := s.(view); ok {
		return dense.constant.bytes()
	}
	all := make(sliceWriter, 0, s.Size())
	_, err := s.WriteTo(&all)
	return all, err
}

// view is the source of a constant's elements.
type view struct{ constant *constant }

func (s view) Size() int64 { return s.constant.size() }

// WriteTo implements [onnx.Source].
func (s view) WriteTo(w io.Writer) (int64, error) {
	elements, err := s.constant.bytes()
	if err != nil {
		return 0, err
	}
	n, err := w.Write(elements)
	return int64(n), err
}

// chunk is the number of elements that are converted at a time, a multiple of
// 4.
const chunk = 1 << 18

// changedCopies returns experts that are copies of c with changes. begin is
// given the elements of c and returns, for each expert in turn, what changes a
// piece of its values: those from place start on, given as many normally
// distributed numbers, which are the expert's own.
func changedCopies(c *constant, experts int, g normals, begin func(elements []byte) func(expert int) change) stack {
	return newStack(c.elementType(), slices.Insert(slices.Clone(c.dims), 0, int64(experts)), &changes{c, experts, g, begin})
}

// change changes a piece of an expert's values.
type change func(start int64, values, normals []float64)

// changes is the source of changedCopies. One expert's elements are in memory
// while it is written, and a piece of the changed ones.
type changes struct {
	dense   *constant
	experts int
	normals normals
	begin   func(elements []byte) func(expert int) change
}

func (s *changes) Size() int64 { return int64(s.experts) * s.dense.size() }

// WriteTo implements [onnx.Source].
func (s *changes) WriteTo(w io.Writer) (int64, error) {
	elements, err := s.dense.bytes()
	if err != nil {
		return 0, err
	}
	t := s.dense.elementType()
	of := s.begin(elements)
	stride := (s.dense.elements() + 3) / 4 * 4 // between experts, in the stream of random numbers
	numbers := make([]float64, chunk)
	written := int64(0)
	for e := range s.experts {
		apply, start := of(e), int64(0)
		for values := range pieces(t, elements) {
			numbers := numbers[:len(values)]
			s.normals.fill(numbers, uint64(int64(e)*stride+start))
			apply(start, values, numbers)
			n, err := w.Write(narrow(t, values))
			if written += int64(n); err != nil {
				return written, err
			}
			start += int64(len(values))
		}
	}
	return written, nil
}

// pieces yields the values of floating-point elements, a chunk at a time.
func pieces(t onnx.DataType, elements []byte) iter.Seq[[]float64] {
	return func(yield func([]float64) bool) {
		for piece := range slices.Chunk(elements, chunk*t.Bits()/8) {
			if !yield(widen(t, piece)) {
				return
			}
		}
	}
}

// moments are the mean and standard deviation of numbers that are added one by
// one (Welford, "Note on a method for calculating corrected sums of squares and
// products", 1962). They are not fused: the same on every machine.
type moments struct{ count, mean, squares float64 }

func (m *moments) add(x float64) {
	m.count++
	delta := x - m.mean
	m.mean += delta / m.count
	m.squares += float64(delta * (x - m.mean))
}

// merge adds the numbers that others are the moments of (Chan, Golub, LeVeque,
// "Updating formulae and a pairwise algorithm for computing sample variances",
// 1979).
func (m *moments) merge(others moments) {
	count := m.count + others.count
	if count == 0 {
		return
	}
	delta := others.mean - m.mean
	m.mean += float64(delta * (others.count / count))
	m.squares += others.squares + float64(delta*delta*(m.count*others.count/count))
	m.count = count
}

func (m *moments) deviation() float64 { return math.Sqrt(m.squares / max(m.count, 1)) }

// gaussian returns a tensor of independent N(0, std) numbers; with std 0 they
// are zeros.
func gaussian(t onnx.DataType, dims []int64, std float64, g normals) stack {
	count := int64(1)
	for _, d := range dims {
		count *= d
	}
	return newStack(t, dims, &noise{t, count, std, g})
}

// noise is the source of gaussian.
type noise struct {
	kind    onnx.DataType
	count   int64
	std     float64
	normals normals
}

func (s *noise) Size() int64 { return s.count * int64(s.kind.Bits()/8) }

// WriteTo implements [onnx.Source].
func (s *noise) WriteTo(w io.Writer) (int64, error) {
	written := int64(0)
	values := make([]float64, chunk)
	for start := int64(0); start < s.count; start += chunk {
		values = values[:min(chunk, s.count-start)]
		if s.std != 0 {
			s.normals.fill(values, uint64(start))
			for i := range values {
				values[i] *= s.std
			}
		}
		n, err := w.Write(narrow(s.kind, values))
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
