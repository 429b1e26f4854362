package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Dropout", newDropout)
}

func newDropout(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	source := newRandomSource(n)
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		if len(c.In) > 1 && c.In[1] != nil && c.In[1].Type != onnx.Float32 && c.In[1].Type != onnx.Float64 {
			return nil, device.UnsupportedType(c.In[1].Type)
		}
		switch t := c.In[0].Type; t {
		case onnx.Float32:
			return bindDropout[float32](d, c, source), nil
		case onnx.Float64:
			return bindDropout[float64](d, c, source), nil
		default:
			return nil, device.UnsupportedType(t)
		}
	}), nil
}

// bindDropout passes elements through unless input 2 asks for training.
func bindDropout[T float](d *Device, c *device.Call, source *randomSource) func() error {
	var (
		ratio  float64
		stream randomStream
	)
	hasMask := len(c.Out) > 1 && c.Out[1] != nil
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0])[lo:hi], tensor.Of[T](c.Out[0])[lo:hi]
		var mask []bool
		if hasMask && c.Out[1].Type == onnx.Bool {
			mask = tensor.Of[bool](c.Out[1])[lo:hi]
		} else if hasMask { // before version 10, which knows no training
			fill(tensor.Of[T](c.Out[1])[lo:hi], 1)
		}
		if ratio == 0 {
			copy(y, x)
			fill(mask, true)
			return
		}
		scale := T(1 / (1 - ratio))
		for i, v := range x {
			kept := stream.uniform(lo+i) >= ratio
			y[i] = 0
			if kept {
				y[i] = v * scale
			}
			if mask != nil {
				mask[i] = kept
			}
		}
	}
	run := d.overElements(c.Out[0], body)
	return func() error {
		ratio = dropoutRatio(c)
		if !(0 <= ratio && ratio < 1) {
			return fmt.Errorf("ratio is %g, must be at least 0 and below 1", ratio)
		}
		stream = source.stream()
		return run()
	}
}

// dropoutRatio returns the probability of dropping an element, 0 outside
// training.
func dropoutRatio(c *device.Call) float64 {
	switch {
	case len(c.In) < 3 || c.In[2] == nil || !tensor.Of[bool](c.In[2])[0]:
		return 0
	case c.In[1] == nil:
		return 0.5
	case c.In[1].Type == onnx.Float64:
		return tensor.Of[float64](c.In[1])[0]
	}
	return float64(tensor.Of[float32](c.In[1])[0])
}
