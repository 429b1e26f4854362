package fmoefy

import (
	"io"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Noise makes experts copies of the dense MLP with Gaussian noise, so that
// they learn to differ.
const Noise Init = "noise"

var initNoise = initKind{
	name:  Noise,
	about: "copies of the MLP with Gaussian noise",
	given: func(o *Options) string {
		if o.NoiseScale != 0 {
			return "a noise scale"
		}
		return ""
	},
	complete: func(o *Options) error {
		setDefault(&o.NoiseScale, 0.01)
		return checkPositive("noise scale", o.NoiseScale)
	},
	begin: eachAlone(func(s *site) (*expertPlan, error) {
		m := s.each(func(slot int, dense *constant) stack {
			return noisyCopies(dense, s.options.NumExperts, s.options.NoiseScale, s.normals(slot))
		})
		m.promise = func(moe.Config) promise { return promise{changed, "every expert has noise of its own"} }
		return m, nil
	}),
}

// noisyCopies returns copies of c with Gaussian noise, whose standard
// deviation is given in units of that of c.
func noisyCopies(c *constant, experts int, scale float64, g normals) stack {
	return newStack(c.elementType(), append([]int64{int64(experts)}, c.dims...), &noisy{c, experts, scale, g})
}

// noisy is the source of noisyCopies.
type noisy struct {
	dense   *constant
	experts int
	scale   float64
	normals normals
}

func (s *noisy) Size() int64 { return int64(s.experts) * s.dense.size() }

// WriteTo implements [onnx.Source].
func (s *noisy) WriteTo(w io.Writer) (int64, error) {
	elements, err := s.dense.bytes()
	if err != nil {
		return 0, err
	}
	std := s.scale * deviation(s.dense.elementType(), elements)
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

func (s *noisy) writeExpert(w io.Writer, elements []byte, std float64, expert int) (int64, error) {
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
