package cpu

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { registerAnyType("", "Slice", newSlice) }

func newSlice(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		picked, err := op.SliceStrides(n, knownShape(c.In[0]), content(c))
		if err != nil {
			return nil, err
		}
		if picked == nil {
			return nil, errors.New("starts, ends, axes or steps are not known")
		}
		to, from := stridesOf(c.Out[0].Shape), stridesOf(c.In[0].Shape)
		loops, start := make([]loop, len(picked)), 0
		for i, p := range picked {
			loops[i] = loop{int(p.Length), to[i], p.Step * from[i]}
			start += p.Start * from[i]
		}
		return d.bindTransfer(c, loops, 0, start)
	}), nil
}
