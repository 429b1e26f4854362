package cpu

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register("", "Col2Im", newElementwise) }

func bindCol2Im[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	axes, err := op.BlockAxes(n, content(c))
	if err != nil {
		return nil, err
	}
	if axes == nil {
		return nil, errors.New("the image shape or block shape is not known")
	}
	// An image is the sum of columns[element of the block][block]; a walk over
	// both goes through one loop for each axis of each.
	image, elements, blocks := 1, 1, 1
	strides := make([]int, len(axes))
	for i := len(axes) - 1; i >= 0; i-- {
		strides[i] = image
		image *= axes[i].Image
		elements *= axes[i].Length
		blocks *= axes[i].Count
	}
	add := func(y, x []T, element, block int) {
		at := 0
		for i := len(axes) - 1; i >= 0; i-- {
			a := &axes[i]
			position := block%a.Count*a.Stride + element%a.Length*a.Dilation - a.Pad
			if position < 0 || position >= a.Image {
				return
			}
			at += position * strides[i]
			block, element = block/a.Count, element/a.Length
		}
		y[at] += x[0]
	}
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			out, in := y[i*image:(i+1)*image], x[i*elements*blocks:]
			clear(out)
			for e := range elements {
				for b := range blocks {
					add(out, in[e*blocks+b:], e, b)
				}
			}
		}
	}
	return d.overLines(c.Out[0].Len()/image, elements*blocks, body), nil
}
