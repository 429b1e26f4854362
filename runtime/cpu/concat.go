package cpu

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Concat", newConcat)
	registerAnyType("", "Split", newSplit)
}

func newConcat(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		whole := c.Out[0]
		axis, err := op.Axis(n.Int("axis", 0), whole.Rank())
		if err != nil {
			return nil, err
		}
		if room := c.Room(0); room > 0 { // what is there stays
			shape := slices.Clone(whole.Shape)
			shape[axis] = room
			part := c.In[1]
			added, err := partCopy(part.Shape, shape, axis, c.In[0].Shape[axis], false)
			if err != nil {
				return nil, err
			}
			return d.bindTransfers(transfer{to: whole, from: part, copy: added})
		}
		parts, at := make([]transfer, len(c.In)), 0
		for i, part := range c.In {
			parts[i] = transfer{to: whole, from: part}
			if parts[i].copy, err = partCopy(part.Shape, whole.Shape, axis, at, false); err != nil {
				return nil, err
			}
			at += part.Shape[axis]
		}
		return d.bindTransfers(parts...)
	}), nil
}

func newSplit(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		whole := c.In[0]
		axis, err := op.Axis(n.Int("axis", 0), whole.Rank())
		if err != nil {
			return nil, err
		}
		lengths, err := op.SplitLengths(n, op.Dim(whole.Shape[axis]), len(c.Out), content(c))
		if err != nil {
			return nil, err
		}
		if lengths == nil {
			return nil, fmt.Errorf("the lengths of the parts are not known")
		}
		var parts []transfer
		at := 0
		for i, part := range c.Out {
			if part != nil {
				t := transfer{to: part, from: whole}
				if t.copy, err = partCopy(part.Shape, whole.Shape, axis, at, true); err != nil {
					return nil, err
				}
				parts = append(parts, t)
			}
			at += int(lengths[i])
		}
		return d.bindTransfers(parts...)
	}), nil
}

// partCopy copies between a part and the whole of which it is the piece from
// at on along an axis.
func partCopy(part, whole []int, axis, at int, fromWhole bool) (*stridedCopy, error) {
	inPart, inWhole := stridesOf(part), stridesOf(whole)
	loops, start := make([]loop, len(part)), at*inWhole[axis]
	for i, dim := range part {
		loops[i] = loop{length: dim, to: inWhole[i], from: inPart[i]}
		if fromWhole {
			loops[i] = loop{length: dim, to: inPart[i], from: inWhole[i]}
		}
	}
	if fromWhole {
		return newStridedCopy(loops, 0, start)
	}
	return newStridedCopy(loops, start, 0)
}
