package cpu

import (
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "HannWindow", newWindow(0.5, 0.5, 0))
	register("", "HammingWindow", newWindow(25.0/46, 21.0/46, 0))
	register("", "BlackmanWindow", newWindow(0.42, 0.5, 0.08))
	register("", "DFT", floatKernel(bindDFT[float32], bindDFT[float64], 0))
	register("", "STFT", floatKernel(bindSTFT[float32], bindSTFT[float64], 0))
	register("", "MelWeightMatrix", newMelWeightMatrix)
}

// newWindow makes the kernel of a window a − b·cos(2πx) + c·cos(4πx) over a
// period, or over one element more than that.
func newWindow(a, b, c float64) constructor {
	return func(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
		return device.KernelFunc(func(call *device.Call) (func() error, error) {
			out := call.Out[0]
			if out.Type != onnx.Float32 && out.Type != onnx.Float64 {
				return nil, device.UnsupportedType(out.Type)
			}
			size := out.Len()
			period := float64(size)
			if n.Int("periodic", 1) == 0 {
				period--
			}
			return func() error {
				for i := range size {
					x := 0.5 // a single element is the middle
					if period > 0 {
						x = float64(i) / period
					}
					setFloat(out, i, a-b*math.Cos(2*math.Pi*x)+c*math.Cos(4*math.Pi*x))
				}
				return nil
			}, nil
		}), nil
	}
}

// complexes is a list of complex numbers.
type complexes[T simd.Float] struct{ re, im []T }

func newComplexes[T simd.Float](n int) complexes[T] {
	return complexes[T]{make([]T, n), make([]T, n)}
}

func (c complexes[T]) from(i int) complexes[T] { return complexes[T]{c.re[i:], c.im[i:]} }

func (c complexes[T]) clear() {
	clear(c.re)
	clear(c.im)
}

func (c complexes[T]) conjugate() {
	for i, v := range c.im {
		c.im[i] = -v
	}
}

// fourier transforms sequences of one length, by splitting it into its prime
// factors (Cooley and Tukey).
type fourier[T simd.Float] struct {
	length  int
	factors []int        // the largest first
	roots   complexes[T] // e^(−2πik/length)
}

func newFourier[T simd.Float](length int) *fourier[T] {
	f := &fourier[T]{length: length, roots: newComplexes[T](length)}
	for k := range length {
		sin, cos := math.Sincos(-2 * math.Pi * float64(k) / float64(length))
		f.roots.re[k], f.roots.im[k] = T(cos), T(sin)
	}
	for rest, p := length, 2; rest > 1; {
		switch {
		case rest%p == 0:
			f.factors = append(f.factors, p)
			rest /= p
		case p*p > rest:
			p = rest
		default:
			p++
		}
	}
	slices.Reverse(f.factors)
	return f
}

// transform writes the transform of those elements of in that lie stride apart
// to out, splitting by the given factors. spare has room for as many elements
// as the largest factor.
func (f *fourier[T]) transform(out, in complexes[T], factors []int, stride int, spare complexes[T]) {
	if len(factors) == 0 {
		out.re[0], out.im[0] = in.re[0], in.im[0]
		return
	}
	parts := factors[0]
	each := f.length / stride / parts
	for p := range parts {
		f.transform(out.from(p*each), in.from(p*stride), factors[1:], stride*parts, spare)
	}
	for k := range each {
		for p := range parts {
			i, root := p*each+k, p*k*stride%f.length
			spare.re[p], spare.im[p] = f.turned(out.re[i], out.im[i], root)
		}
		for q := range parts {
			re, im := spare.re[0], spare.im[0]
			for p := 1; p < parts; p++ {
				x, y := f.turned(spare.re[p], spare.im[p], p*q*each*stride%f.length)
				re, im = re+x, im+y
			}
			out.re[q*each+k], out.im[q*each+k] = re, im
		}
	}
}

// run transforms a thread's input. Of a real signal, the bins that are their
// own conjugates get no imaginary part by rounding.
func (f *fourier[T]) run(b *fourierBuffers[T], isReal bool) {
	f.transform(b.out, b.in, f.factors, 1, b.spare)
	if isReal {
		b.out.im[0] = 0
		if f.length%2 == 0 {
			b.out.im[f.length/2] = 0
		}
	}
}

// turned multiplies a number with a root.
func (f *fourier[T]) turned(re, im T, root int) (T, T) {
	x, y := f.roots.re[root], f.roots.im[root]
	return re*x - im*y, re*y + im*x
}

// fourierBuffers is what a thread needs for a transform.
type fourierBuffers[T simd.Float] struct{ in, out, spare complexes[T] }

func newFourierBuffers[T simd.Float](d *Device, length int) *spares[fourierBuffers[T]] {
	return newSpares(d, func() *fourierBuffers[T] {
		return &fourierBuffers[T]{newComplexes[T](length), newComplexes[T](length), newComplexes[T](length)}
	})
}

func bindDFT[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	s, err := op.DFTDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	length, bins := int(s.Length), int(s.Bins)
	if length == 0 || c.Out[0].Len() == 0 {
		return func() error { return nil }, nil
	}
	rank := c.In[0].Rank()
	outer, signal, inner := splitAt(c.In[0].Shape[:rank-1], s.Axis)
	parts, outParts := c.In[0].Shape[rank-1], c.Out[0].Shape[rank-1]
	inverse := n.Int("inverse", 0) != 0
	f, buffers := newFourier[T](length), newFourierBuffers[T](d, length)
	body := func(lo, hi int) {
		b := buffers.take()
		defer buffers.give(b)
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			place := func(k, length int) int { return (i/inner*length+k)*inner + i%inner }
			b.in.clear()
			for k := range min(signal, length) {
				element := x[place(k, signal)*parts:]
				b.in.re[k] = element[0]
				if parts == 2 {
					b.in.im[k] = element[1]
				}
			}
			if s.RealOutput { // the other half is the conjugate of the first
				b.in.im[0] = 0
				for k := length/2 + 1; k < length; k++ {
					b.in.re[k], b.in.im[k] = b.in.re[length-k], -b.in.im[length-k]
				}
			}
			scale := T(1)
			if inverse {
				b.in.conjugate()
				scale = T(1 / float64(length))
			}
			f.run(b, parts == 1)
			if inverse {
				b.out.conjugate()
			}
			for k := range bins {
				element := y[place(k, bins)*outParts:]
				element[0] = b.out.re[k] * scale
				if outParts == 2 {
					element[1] = b.out.im[k] * scale
				}
			}
		}
	}
	grain := max(1, 2048/length)
	return func() error {
		d.pool.run(outer*inner, grain, body)
		return nil
	}, nil
}

func bindSTFT[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	s, err := op.STFTDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	length, parts, step, frame := int(s.Length), int(s.Parts), int(s.Step), int(s.Frame)
	frames, bins := int(s.Frames), int(s.Bins)
	f, buffers := newFourier[T](frame), newFourierBuffers[T](d, frame)
	body := func(lo, hi int) {
		b := buffers.take()
		defer buffers.give(b)
		y := tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			x := tensor.Of[T](c.In[0])[(i/frames*length+i%frames*step)*parts:]
			b.in.clear()
			for k := range frame {
				b.in.re[k] = x[k*parts]
				if parts == 2 {
					b.in.im[k] = x[k*parts+1]
				}
			}
			if window := at(c.In, 2); window != nil {
				multiplyTo(b.in.re, tensor.Of[T](window))
				multiplyTo(b.in.im, tensor.Of[T](window))
			}
			f.run(b, parts == 1)
			for k := range bins {
				y[(i*bins+k)*2], y[(i*bins+k)*2+1] = b.out.re[k], b.out.im[k]
			}
		}
	}
	return func() error {
		d.pool.run(int(s.Batch)*frames, max(1, 2048/max(frame, 1)), body)
		return nil
	}, nil
}

// newMelWeightMatrix makes the kernel of MelWeightMatrix: a triangle over the
// bins of a spectrum for each band.
func newMelWeightMatrix(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		out := c.Out[0]
		if out.Type != onnx.Float32 && out.Type != onnx.Float64 {
			return nil, device.UnsupportedType(out.Type)
		}
		var sizes [3]int64
		for i := range sizes {
			v, err := c.In[i].Ints()
			if err != nil {
				return nil, err
			}
			sizes[i] = v[0]
		}
		length, rate := float64(sizes[1]), float64(sizes[2])
		spectrum, bands := out.Shape[0], out.Shape[1]
		edge := func(i int) float64 { return 2595 * math.Log10(1+floatAt(c.In[i])/700) }
		return func() error {
			clear(out.Data)
			low := edge(3)
			step := (edge(4) - low) / float64(bands+2)
			bin := func(i int) int {
				hertz := 700 * (math.Pow(10, (low+float64(i)*step)/2595) - 1)
				return int(min(max(math.Floor((length+1)*hertz/rate), -1), length))
			}
			set := func(i, band int, v float64) {
				if i >= 0 && i < spectrum {
					setFloat(out, i*bands+band, v)
				}
			}
			for band := range bands {
				lower, center, upper := bin(band), bin(band+1), bin(band+2)
				for i := lower; i < center; i++ {
					set(i, band, float64(i-lower)/float64(center-lower))
				}
				set(center, band, 1)
				for i := center + 1; i < upper; i++ {
					set(i, band, float64(upper-i)/float64(upper-center))
				}
			}
			return nil
		}, nil
	}), nil
}
