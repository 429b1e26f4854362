package fmoefy

import (
	"io"
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
func copies(c *constant, experts int) stack {
	return stack{c.elementType(), slices.Insert(slices.Clone(c.dims), 0, 1), view{c}, experts}
}

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
