package cpu

import (
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { registerWeight(moe.Domain, "Linear", op.LinearWeight, newLinear) }

// linear is the kernel of Linear: a product whose pieces get their bias,
// activation and residual while they are in cache.
type linear struct {
	rightOperand
	device     *Device
	node       *op.Node
	activation moe.Activation
}

func newLinear(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	activation, err := op.LinearActivation(n)
	if err != nil {
		return nil, err
	}
	k := &linear{device: d, node: n, activation: activation}
	if w := constants[op.LinearWeight]; w != nil {
		k.packed = packConstant(d, w, op.LinearOrder(n))
	}
	return k, nil
}

func (k *linear) Bind(c *device.Call) (func() error, error) {
	activation := expertActivations[k.activation]
	switch t := c.In[op.LinearX].Type; t {
	case onnx.Float32:
		return bindLinear(k, c, activation.float32, simd.Add)
	case onnx.Float64:
		return bindLinear(k, c, activation.float64, eachPair(func(x, y float64) float64 { return x + y }))
	default:
		return nil, device.UnsupportedType(t)
	}
}

func bindLinear[T simd.Float](k *linear, c *device.Call, activate func([]T), add func(out, a, b []T)) (func() error, error) {
	x, weight, bias, residual := c.In[op.LinearX], c.In[op.LinearWeight], at(c.In, op.LinearBias), at(c.In, op.LinearResidual)
	rows, depth := tensor.Count(x.Shape[:x.Rank()-1]), x.Shape[x.Rank()-1]
	p := &product[T]{a: newStack([]int{rows, depth}, []int{0, 1}, nil), b: newStack(weight.Shape, op.LinearOrder(k.node), nil)}
	p.use(k.packed)
	width := p.b.cols

	out, apart := c.Out[0], false
	if residual != nil && (residual.Len() != rows*width || out.Len() != rows*width) {
		// The residual or the product is repeated along a dimension: they
		// are added when the product is complete.
		out, apart = &tensor.Tensor{Type: x.Type, Shape: append(slices.Clone(x.Shape[:x.Rank()-1]), width)}, true
		p.used = rows * width
		reserve[T](c.Scratch, p.used)
	}
	alpha := T(k.node.Float("alpha", 1))
	p.finish = func(piece []T, stride, row, col, rows, cols int) {
		for i := range rows {
			line := piece[i*stride:][:cols]
			if alpha != 1 {
				for j := range line {
					line[j] *= alpha
				}
			}
			if bias != nil {
				add(line, line, tensor.Of[T](bias)[col:][:cols])
			}
			activate(line)
			if residual != nil && !apart {
				add(line, line, tensor.Of[T](residual)[(row+i)*width+col:][:cols])
			}
		}
	}
	multiply := p.bind(k.device, c.Scratch, func() (y, left, right []T) {
		return tensor.Of[T](out), tensor.Of[T](x), tensor.Of[T](weight)
	})
	if !apart {
		return multiply, nil
	}
	sum, err := elementwise["Add"][x.Type](k.device, k.node, &device.Call{In: []*tensor.Tensor{out, residual}, Out: c.Out})
	if err != nil {
		return nil, err
	}
	size := p.used * x.Type.Bits() / 8
	return func() error {
		out.Data = c.Scratch.Bytes()[:size]
		if err := multiply(); err != nil {
			return err
		}
		return sum()
	}, nil
}
