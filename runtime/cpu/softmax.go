package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Softmax", newSoftmax)
	register("", "LogSoftmax", newSoftmax)
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

// softmax normalises lines of length elements that lie inner apart. The sum is
// taken in float64.
func softmax[T float32 | float64](d *Device, c *device.Call, outer, length, inner int, logarithm bool) func() error {
	line := func(x, y []T) {
		top := x[0]
		for i := 1; i < length; i++ {
			top = max(top, x[i*inner])
		}
		sum := 0.0
		for i := range length {
			e := math.Exp(float64(x[i*inner] - top))
			y[i*inner] = T(e)
			sum += e
		}
		if logarithm {
			shift := float64(top) + math.Log(sum)
			for i := range length {
				y[i*inner] = T(float64(x[i*inner]) - shift)
			}
			return
		}
		scale := T(1 / sum)
		for i := range length {
			y[i*inner] *= scale
		}
	}
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			at := i/inner*length*inner + i%inner
			line(x[at:], y[at:])
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
