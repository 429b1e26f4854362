package cpu

import (
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Expand", newExpand)
	registerAnyType("", "Tile", newTile)
}

func newExpand(d *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		in, out := c.In[0].Shape, c.Out[0].Shape
		to, from := stridesOf(out), stridesOf(in)
		loops, missing := make([]loop, len(out)), len(out)-len(in)
		for i, dim := range out {
			loops[i] = loop{length: dim, to: to[i]}
			if j := i - missing; j >= 0 && in[j] == dim {
				loops[i].from = from[j]
			}
		}
		return d.bindTransfer(c, loops, 0, 0)
	}), nil
}

func newTile(d *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		in, out := c.In[0].Shape, c.Out[0].Shape
		to, from := stridesOf(out), stridesOf(in)
		loops := make([]loop, 0, 2*len(out))
		for i, dim := range out {
			copies := dim / max(in[i], 1)
			loops = append(loops, loop{length: copies, to: in[i] * to[i]}, loop{in[i], to[i], from[i]})
		}
		return d.bindTransfer(c, loops, 0, 0)
	}), nil
}
