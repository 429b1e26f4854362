package cpu

import (
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Shape", newShape)
	registerAnyType("", "Size", newSize)
}

func newShape(_ *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		lo, hi := op.ShapeRange(n, c.In[0].Rank())
		return func() error {
			out := tensor.Of[int64](c.Out[0])
			for i, dim := range c.In[0].Shape[lo:hi] {
				out[i] = int64(dim)
			}
			return nil
		}, nil
	}), nil
}

func newSize(_ *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		return func() error {
			tensor.Of[int64](c.Out[0])[0] = int64(c.In[0].Len())
			return nil
		}, nil
	}), nil
}
