package cpu

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register(moe.Domain, "SumTo", newSumTo) }

// newSumTo makes the kernel of SumTo: ReduceSum over the axes along which the
// output is repeated in the input.
func newSumTo(d *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	sum := &op.Node{Node: &onnx.Node{OpType: "ReduceSum"}}
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		from, to := c.In[0].Shape, c.Out[0].Shape
		var axes []int
		for i, n := range from {
			if j := i - (len(from) - len(to)); j < 0 || to[j] != n {
				axes = append(axes, i)
			}
		}
		layout := newReduceLayout(from, axes)
		switch c.In[0].Type {
		case onnx.Float32:
			return bindReduce[float32, float64](d, c, sum, layout)
		case onnx.Float64:
			return bindReduce[float64, float64](d, c, sum, layout)
		}
		return nil, device.UnsupportedType(c.In[0].Type)
	}), nil
}
