package cpu

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Pad", newPad)
	registerAnyType("", "CenterCropPad", newCenterCropPad)
}

func newPad(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		pads, err := op.Paddings(n, c.In[0].Rank(), content(c))
		if err != nil {
			return nil, err
		}
		if pads == nil {
			return nil, errors.New("pads or axes are not known")
		}
		if mode := n.String("mode", "constant"); mode != "constant" {
			return d.bindLookup(c, newTableCopy(paddedPositions(mode, c.In[0].Shape, pads), c.In[0].Shape))
		}
		value := tensor.New(c.In[0].Type, 1)
		switch {
		case len(c.In) > 2 && c.In[2] != nil:
			if value = c.In[2]; value.Len() != 1 {
				return nil, fmt.Errorf("constant_value has %d elements, needs one", value.Len())
			}
		case n.Attribute("value") != nil:
			tensor.ConvertFloat(value, tensor.FromSlice([]float32{n.Float("value", 0)}))
		}
		return d.bindConstantPad(c, pads, value)
	}), nil
}

// bindConstantPad places input 0 within output 0, filled with the only
// element of value.
func (d *Device) bindConstantPad(c *device.Call, pads []op.Padding, value *tensor.Tensor) (func() error, error) {
	in, out := c.In[0].Shape, c.Out[0].Shape
	to, from := stridesOf(out), stridesOf(in)
	loops := make([]loop, len(in))
	firstTo, firstFrom, grows := 0, 0, false
	for i, p := range pads {
		begin, end := max(p.Begin, 0), min(p.Begin+in[i], out[i])
		loops[i] = loop{max(end-begin, 0), to[i], from[i]}
		firstTo += begin * to[i]
		firstFrom += (begin - p.Begin) * from[i]
		grows = grows || loops[i].length < out[i]
	}
	place, err := d.bindTransfer(c, loops, firstTo, firstFrom)
	if err != nil || !grows {
		return place, err
	}
	fill, err := d.bindFill(c.Out[0], value)
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := fill(); err != nil {
			return err
		}
		return place()
	}, nil
}

// paddedPositions returns for each axis which position of the input every
// position of the output repeats. Negative pads cut the axis first.
func paddedPositions(mode string, shape []int, pads []op.Padding) [][]int {
	positions := make([][]int, len(shape))
	for i, p := range pads {
		first := max(-p.Begin, 0)
		kept := shape[i] + min(p.Begin, 0) + min(p.End, 0)
		list := make([]int, shape[i]+p.Begin+p.End)
		for j := range list {
			list[j] = first + continued(mode, j-max(p.Begin, 0), kept)
		}
		positions[i] = list
	}
	return positions
}

// continued returns which of n positions stands at position i, which may lie
// before or behind them, when they are continued in the given mode.
func continued(mode string, i, n int) int {
	switch mode {
	case "edge":
		return min(max(i, 0), n-1)
	case "wrap":
		return (i%n + n) % n
	}
	if n == 1 {
		return 0
	}
	period := 2 * (n - 1) // of going there and back
	i = (i%period + period) % period
	return min(i, period-i)
}

func newCenterCropPad(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		pads := make([]op.Padding, c.In[0].Rank())
		for i, dim := range c.In[0].Shape {
			grow := c.Out[0].Shape[i] - dim
			pads[i] = op.Padding{Begin: grow / 2, End: grow - grow/2}
		}
		return d.bindConstantPad(c, pads, tensor.New(c.In[0].Type, 1))
	}), nil
}
