package cpu

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Slice", newSlice)
	registerAnyType(moe.Domain, "SliceGradient", newSliceGradient)
}

func newSlice(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		picked, err := op.SliceStrides(n, knownShape(c.In[0]), content(c))
		if err != nil {
			return nil, err
		}
		if picked == nil {
			return nil, errors.New("starts, ends, axes or steps are not known")
		}
		loops, start := pickedLoops(picked, c.In[0].Shape, c.Out[0].Shape)
		return d.bindTransfer(c, loops, 0, start)
	}), nil
}

// pickedLoops returns the loops that copy what is picked of a whole, and where
// they start in it.
func pickedLoops(picked []op.Stride, whole, part []int) (loops []loop, start int) {
	to, from := stridesOf(part), stridesOf(whole)
	for i, p := range picked {
		loops = append(loops, loop{int(p.Length), to[i], p.Step * from[i]})
		start += p.Start * from[i]
	}
	return loops, start
}

// newSliceGradient makes the kernel that clears the output and copies into it.
func newSliceGradient(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		picked, err := op.SliceGradientStrides(n, knownShape(c.Out[0]), content(c))
		if err != nil {
			return nil, err
		}
		if picked == nil {
			return nil, errors.New("starts, ends, axes or steps are not known")
		}
		m, err := moverFor(c.In[0].Type)
		if err != nil {
			return nil, err
		}
		loops, start := pickedLoops(picked, c.Out[0].Shape, c.In[0].Shape)
		for i, l := range loops {
			loops[i] = loop{l.length, l.from, l.to}
		}
		write, err := d.bindTransfer(c, loops, start, 0)
		if err != nil || c.In[0].Len() == c.Out[0].Len() {
			return write, err
		}
		clean := func(lo, hi int) { m.clear(c.Out[0], lo, hi) }
		return func() error {
			d.pool.run(c.Out[0].Len(), moveGrain, clean)
			return write()
		}, nil
	}), nil
}
