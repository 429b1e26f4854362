package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Softmax", newSoftmax)
	register("", "LogSoftmax", newSoftmax)
	for _, name := range []string{"SoftmaxGradient", "LogSoftmaxGradient"} {
		register(moe.Domain, name, floatKernel(bindSoftmaxGradient[float32], bindSoftmaxGradient[float64], 0, 1))
	}
}

func newSoftmax(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	logarithm := n.OpType == "LogSoftmax"
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		axis, err := op.SoftmaxAxis(n, c.In[0].Rank())
		if err != nil {
			return nil, err
		}
		outer, length, inner := splitAt(c.In[0].Shape, axis)
		if n.Since < 13 {
			length, inner = length*inner, 1
		}
		switch c.In[0].Type {
		case onnx.Float32:
			return softmax[float32](d, c, outer, length, inner, logarithm), nil
		case onnx.Float64:
			return softmax[float64](d, c, outer, length, inner, logarithm), nil
		}
		return nil, device.UnsupportedType(c.In[0].Type)
	}), nil
}

// softmax normalises lines of length elements that lie inner apart.
func softmax[T simd.Float](d *Device, c *device.Call, outer, length, inner int, logarithm bool) func() error {
	line := softmaxLine[T]
	if logarithm {
		line = logSoftmaxLine[T]
	}
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			at := i/inner*length*inner + i%inner
			if inner == 1 {
				line(x[at:][:length], y[at:][:length])
			} else {
				softmaxStrided(x[at:], y[at:], length, inner, logarithm)
			}
		}
	}
	lines := outer * inner
	if length == 0 {
		lines = 0
	}
	grain := max(1, 4096/max(length, 1))
	return func() error {
		d.pool.run(lines, grain, body)
		return nil
	}
}

// softmaxLine writes e^x / Σ e^x to y, which may be x.
func softmaxLine[T simd.Float](x, y []T) {
	if x, ok := any(x).([]float32); ok {
		simd.Softmax(any(y).([]float32), x)
		return
	}
	scaleLine(y, T(1/expSumLine(x, y, largest(x))))
}

// logSoftmaxLine writes x − log Σ e^x to y, which must not be x.
func logSoftmaxLine[T simd.Float](x, y []T) {
	top := largest(x)
	shift := float64(top) + math.Log(expSumLine(x, y, top))
	for i, v := range x {
		y[i] = T(float64(v) - shift)
	}
}

// largest returns the greatest element of x that is a number, −∞ if there is
// none.
func largest[T simd.Float](x []T) T {
	if x, ok := any(x).([]float32); ok {
		return T(simd.Max(x))
	}
	top := T(math.Inf(-1))
	for _, v := range x {
		if v > top {
			top = v
		}
	}
	return top
}

// expSumLine writes e^(x − shift) to y, which may be x, and returns the sum.
func expSumLine[T simd.Float](x, y []T, shift T) float64 {
	if x, ok := any(x).([]float32); ok {
		return simd.ExpSum(any(y).([]float32), x, float32(shift))
	}
	sum := 0.0
	for i, v := range x {
		e := math.Exp(float64(v - shift))
		y[i] = T(e)
		sum += e
	}
	return sum
}

// scaleLine multiplies x by factor.
func scaleLine[T simd.Float](x []T, factor T) {
	if x, ok := any(x).([]float32); ok {
		simd.Scale(x, float32(factor))
		return
	}
	for i := range x {
		x[i] *= factor
	}
}

// softmaxStrided is softmaxLine or logSoftmaxLine for elements that lie
// stride apart.
func softmaxStrided[T simd.Float](x, y []T, length, stride int, logarithm bool) {
	top := x[0]
	for i := 1; i < length; i++ {
		top = max(top, x[i*stride])
	}
	sum := 0.0
	for i := range length {
		sum += math.Exp(float64(x[i*stride] - top))
	}
	if logarithm {
		shift := float64(top) + math.Log(sum)
		for i := range length {
			y[i*stride] = T(float64(x[i*stride]) - shift)
		}
		return
	}
	for i := range length {
		y[i*stride] = T(math.Exp(float64(x[i*stride]-top)) / sum)
	}
}

func bindSoftmaxGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	axis, err := op.Axis(n.Int("axis", -1), c.In[0].Rank())
	if err != nil {
		return nil, err
	}
	outer, length, inner := splitAt(c.In[0].Shape, axis)
	line := softmaxGradientLine[T]
	if n.OpType == "LogSoftmaxGradient" {
		line = logSoftmaxGradientLine[T]
	}
	body := func(lo, hi int) {
		g, y, out := tensor.Of[T](c.In[0]), tensor.Of[T](c.In[1]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			at := i/inner*length*inner + i%inner
			line(out[at:], g[at:], y[at:], length, inner)
		}
	}
	lines := outer * inner
	if length == 0 {
		lines = 0
	}
	return d.overLines(lines, length, body), nil
}

// softmaxGradientLine writes y·(g − Σ g·y) to out, for elements that lie
// stride apart.
func softmaxGradientLine[T simd.Float](out, g, y []T, length, stride int) {
	if stride == 1 {
		out, g, y = out[:length], g[:length], y[:length]
		sum := simd.Dot(g, y)
		for i := range out {
			out[i] = y[i] * (g[i] - sum)
		}
		return
	}
	sum := T(0)
	for i := 0; i < length*stride; i += stride {
		sum += g[i] * y[i]
	}
	for i := 0; i < length*stride; i += stride {
		out[i] = y[i] * (g[i] - sum)
	}
}

// logSoftmaxGradientLine writes g − e^y·Σ g to out, for elements that lie
// stride apart.
func logSoftmaxGradientLine[T simd.Float](out, g, y []T, length, stride int) {
	sum := 0.0
	for i := 0; i < length*stride; i += stride {
		sum += float64(g[i])
	}
	if stride == 1 {
		out, g = out[:length], g[:length]
		expSumLine(y[:length], out, 0)
		for i, e := range out {
			out[i] = g[i] - T(float64(e)*sum)
		}
		return
	}
	for i := 0; i < length*stride; i += stride {
		out[i] = T(float64(g[i]) - math.Exp(float64(y[i]))*sum)
	}
}

// splitAt returns the products of the dimensions before the axis, at it, and
// after it. An axis equal to the rank has length 1.
func splitAt(shape []int, axis int) (outer, length, inner int) {
	outer, length, inner = 1, 1, 1
	for i, dim := range shape {
		switch {
		case i < axis:
			outer *= dim
		case i == axis:
			length = dim
		default:
			inner *= dim
		}
	}
	return outer, length, inner
}
