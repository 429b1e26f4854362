package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Constant", newConstant)
	registerAnyType("", "ConstantOfShape", newConstantOfShape)
	registerAnyType("", "EyeLike", newEyeLike)
}

func newConstant(_ *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	value, err := op.ConstantValue(n)
	if err != nil {
		return nil, err
	}
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		return func() error {
			copy(c.Out[0].Data, value.Data)
			copy(c.Out[0].Strings, value.Strings)
			return nil
		}, nil
	}), nil
}

func newConstantOfShape(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	value, err := op.ConstantOfShapeValue(n)
	if err != nil {
		return nil, err
	}
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		return d.bindFill(c.Out[0], value)
	}), nil
}

// bindFill sets every element of a tensor to the only one of another.
func (d *Device) bindFill(t, value *tensor.Tensor) (func() error, error) {
	m, err := moverFor(t.Type)
	if err != nil {
		return nil, err
	}
	body, count := func(lo, hi int) { m.fill(t, lo, hi, value, 0) }, t.Len()
	return func() error {
		d.pool.run(count, moveGrain, body)
		return nil
	}, nil
}

func newEyeLike(_ *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	k := n.Int("k", 0)
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		out := c.Out[0]
		unit, err := one(out.Type)
		if err != nil {
			return nil, err
		}
		m, err := moverFor(out.Type)
		if err != nil {
			return nil, err
		}
		rows, columns := out.Shape[0], out.Shape[1]
		return func() error {
			m.clear(out, 0, rows*columns)
			for i := range rows {
				if j := int64(i) + k; j >= 0 && j < int64(columns) {
					at := i*columns + int(j)
					m.fill(out, at, at+1, unit, 0)
				}
			}
			return nil
		}, nil
	}), nil
}

// one returns the number 1 in a given element type.
func one(t onnx.DataType) (*tensor.Tensor, error) {
	x := tensor.New(t, 1)
	switch t {
	case onnx.Float32, onnx.Float64, onnx.Float16, onnx.BFloat16:
		tensor.ConvertFloat(x, tensor.FromSlice([]float32{1}))
	case onnx.Int8, onnx.Int16, onnx.Int32, onnx.Int64, onnx.Uint8, onnx.Uint16, onnx.Uint32, onnx.Uint64, onnx.Bool:
		x.Data[0] = 1 // little-endian
	default:
		return nil, fmt.Errorf("there is no 1: %w", device.UnsupportedType(t))
	}
	return x, nil
}
