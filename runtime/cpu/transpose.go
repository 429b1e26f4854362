package cpu

import (
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Transpose", newTranspose)
	registerAnyType("", "DepthToSpace", newDepthToSpace)
	registerAnyType("", "SpaceToDepth", newSpaceToDepth)
}

func newTranspose(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		perm, err := op.Permutation(n, c.In[0].Rank())
		if err != nil {
			return nil, err
		}
		return d.bindPermuted(c, c.In[0].Shape, perm)
	}), nil
}

// bindPermuted copies input 0, seen in the given shape, to output 0 with its
// axes permuted.
func (d *Device) bindPermuted(c *device.Call, shape, perm []int) (func() error, error) {
	from := stridesOf(shape)
	loops, step := make([]loop, len(perm)), 1
	for i := len(perm) - 1; i >= 0; i-- {
		loops[i] = loop{shape[perm[i]], step, from[perm[i]]}
		step *= shape[perm[i]]
	}
	return d.bindTransfer(c, loops, 0, 0)
}

func newDepthToSpace(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	size := int(n.Int("blocksize", 1))
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		in, depth := c.In[0].Shape, c.Out[0].Shape[1]
		if n.String("mode", "DCR") == "CRD" {
			return d.bindPermuted(c, []int{in[0], depth, size, size, in[2], in[3]}, []int{0, 1, 4, 2, 5, 3})
		}
		return d.bindPermuted(c, []int{in[0], size, size, depth, in[2], in[3]}, []int{0, 3, 4, 1, 5, 2})
	}), nil
}

func newSpaceToDepth(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	size := int(n.Int("blocksize", 1))
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		in, out := c.In[0].Shape, c.Out[0].Shape
		blocks := []int{in[0], in[1], out[2], size, out[3], size}
		if n.String("mode", "DCR") == "CRD" {
			return d.bindPermuted(c, blocks, []int{0, 1, 3, 5, 2, 4})
		}
		return d.bindPermuted(c, blocks, []int{0, 3, 5, 1, 2, 4})
	}), nil
}
