package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// A floatBinder binds a kernel for one floating-point type.
type floatBinder func(d *Device, c *device.Call, n *op.Node) (func() error, error)

// floatKernel makes a kernel from its float32 and float64 versions. An input
// tells which to take; others, where present, must have its type.
func floatKernel(f32, f64 floatBinder, input int, same ...int) constructor {
	return func(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
		return device.KernelFunc(func(c *device.Call) (func() error, error) {
			for _, i := range same {
				if t := at(c.In, i); t != nil && t.Type != c.In[input].Type {
					return nil, fmt.Errorf("mixing %s and %s is %w", c.In[input].Type, t.Type, device.ErrUnsupported)
				}
			}
			switch t := c.In[input].Type; t {
			case onnx.Float32:
				return f32(d, c, n)
			case onnx.Float64:
				return f64(d, c, n)
			default:
				return nil, device.UnsupportedType(t)
			}
		}), nil
	}
}

// setFloat stores an element of a float32 or float64 tensor, if there is one.
func setFloat(t *tensor.Tensor, i int, v float64) {
	switch {
	case t == nil:
	case t.Type == onnx.Float64:
		tensor.Of[float64](t)[i] = v
	default:
		tensor.Of[float32](t)[i] = float32(v)
	}
}

// floatAt returns the only element of a float32 or float64 tensor.
func floatAt(t *tensor.Tensor) float64 {
	if t.Type == onnx.Float64 {
		return tensor.Of[float64](t)[0]
	}
	return float64(tensor.Of[float32](t)[0])
}

// wanted returns output i or, where nobody wants that, a tensor of its type and
// shape to compute into.
func wanted(c *device.Call, i int, t onnx.DataType, shape ...int) *tensor.Tensor {
	if out := at(c.Out, i); out != nil {
		return out
	}
	return tensor.New(t, shape...)
}

// at returns element i of a list, nil beyond its end.
func at(list []*tensor.Tensor, i int) *tensor.Tensor {
	if i < len(list) {
		return list[i]
	}
	return nil
}
