package fmoefy

import (
	"io"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
)

// expertCopies returns a tensor [experts, c.dims…] of copies of c, with
// Gaussian noise where noise is not zero. One expert's elements are in memory
// while it is written, not all of them.
func expertCopies(name string, c *constant, experts int, noise float64, g normals) *onnx.Tensor {
	dims := append([]int64{int64(experts)}, c.dims...)
	t := &onnx.Tensor{Name: name, DataType: c.elementType(), Dims: dims}
	t.SetSource(&copies{c, experts, noise, g})
	return t
}

// copies is the source of stacked experts.
type copies struct {
	dense   *constant
	experts int
	noise   float64 // standard deviation in units of the dense tensor's
	normals normals
}

func (s *copies) Size() int64 {
	return int64(s.experts) * s.dense.elements() * int64(s.dense.elementType().Bits()/8)
}

// WriteTo implements [onnx.Source].
func (s *copies) WriteTo(w io.Writer) (int64, error) {
	elements, err := s.dense.bytes()
	if err != nil {
		return 0, err
	}
	std := 0.0
	if s.noise != 0 {
		std = s.noise * deviation(s.dense.elementType(), elements)
	}
	written := int64(0)
	for e := range s.experts {
		n, err := s.writeExpert(w, elements, std, e)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// chunk is the number of elements that are converted at a time, a multiple of
// 4.
const chunk = 1 << 18

func (s *copies) writeExpert(w io.Writer, elements []byte, std float64, expert int) (int64, error) {
	if std == 0 {
		n, err := w.Write(elements)
		return int64(n), err
	}
	t := s.dense.elementType()
	stride := (s.dense.elements() + 3) / 4 * 4 // between experts, in the stream of random numbers
	noise := make([]float64, chunk)
	written := int64(0)
	for start := int64(0); len(elements) > 0; start += chunk {
		size := min(len(elements), chunk*t.Bits()/8)
		values := widen(t, elements[:size])
		s.normals.fill(noise[:len(values)], uint64(int64(expert)*stride+start))
		for i := range values {
			values[i] += float64(std * noise[i]) // not fused: the same bytes on every machine
		}
		n, err := w.Write(narrow(t, values))
		written += int64(n)
		if err != nil {
			return written, err
		}
		elements = elements[size:]
	}
	return written, nil
}

// deviation returns the standard deviation of floating-point elements.
func deviation(t onnx.DataType, elements []byte) float64 {
	count, mean, squares := 0.0, 0.0, 0.0 // Welford's running moments
	for len(elements) > 0 {
		size := min(len(elements), chunk*t.Bits()/8)
		for _, x := range widen(t, elements[:size]) {
			count++
			delta := x - mean
			mean += delta / count
			squares += float64(delta * (x - mean))
		}
		elements = elements[size:]
	}
	if count == 0 {
		return 0
	}
	return math.Sqrt(squares / count)
}

// gaussian returns a tensor of independent N(0, std) numbers; with std 0 they
// are zeros.
func gaussian(name string, t onnx.DataType, dims []int64, std float64, g normals) *onnx.Tensor {
	count, bytes := int64(1), int64(t.Bits()/8)
	for _, d := range dims {
		count *= d
	}
	x := &onnx.Tensor{Name: name, DataType: t, Dims: dims}
	x.SetSource(&noise{t, count, count * bytes, std, g})
	return x
}

// noise is the source of gaussian.
type noise struct {
	kind        onnx.DataType
	count, size int64
	std         float64
	normals     normals
}

func (s *noise) Size() int64 { return s.size }

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
