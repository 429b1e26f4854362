package cpu

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// widened runs a float32 kernel for nodes of float16 or bfloat16: inputs are
// converted before, outputs rounded after. Nodes without such tensors pass
// through untouched.
type widened struct {
	kernel    device.Kernel
	converted []bool
	constants []*tensor.Tensor // as the kernel takes them, nil for others that it takes as they are
}

func newWidened(d *Device, n *op.Node, constants []*tensor.Tensor, e kernelEntry) (device.Kernel, error) {
	w := &widened{converted: make([]bool, len(constants)), constants: make([]*tensor.Tensor, len(constants))}
	seen := make([]*tensor.Tensor, len(constants))
	for i, t := range constants {
		seen[i] = t
		if t != nil && isHalf(t.Type) && !slices.Contains(e.stored, i) {
			w.convert(d, i, t)
			seen[i] = w.constants[i]
		}
	}
	var err error
	if w.kernel, err = e.make(d, n, seen); err != nil {
		return nil, err
	}
	for i, t := range seen {
		switch {
		case t == nil:
		case held(w.kernel, i) > 0:
			w.constants[i] = &tensor.Tensor{Type: t.Type, Shape: t.Shape}
		case isHalf(t.Type):
			w.convert(d, i, t)
		}
	}
	return w, nil
}

// convert widens a constant.
func (w *widened) convert(d *Device, i int, t *tensor.Tensor) {
	w.constants[i] = tensor.New(onnx.Float32, t.Shape...)
	tensor.ConvertFloat(w.constants[i], t)
	d.release(t.Data)
	w.converted[i] = true
}

// held is the kernel's Held, 0 where it has none.
func held(k device.Kernel, i int) int {
	if h, ok := k.(device.Holder); ok {
		return h.Held(i)
	}
	return 0
}

// Held implements [device.Holder].
func (w *widened) Held(i int) int {
	if n := held(w.kernel, i); n > 0 || i >= len(w.converted) || !w.converted[i] {
		return n
	}
	return len(w.constants[i].Data)
}

func isHalf(t onnx.DataType) bool { return t == onnx.Float16 || t == onnx.BFloat16 }

// conversion pairs a half-precision tensor with its float32 stand-in.
type conversion struct {
	half, wide *tensor.Tensor
	open       bool // the shape is known only after the run
}

func (w *widened) Bind(c *device.Call) (func() error, error) {
	if !anyHalf(c.In) && !anyHalf(c.Out) {
		return w.kernel.Bind(c)
	}
	wide := *c
	var before, after []conversion
	wide.In = make([]*tensor.Tensor, len(c.In))
	for i, t := range c.In {
		switch {
		case t == nil || !isHalf(t.Type):
			wide.In[i] = t
		case i < len(w.constants) && w.constants[i] != nil:
			wide.In[i] = w.constants[i]
		default:
			wide.In[i] = tensor.New(onnx.Float32, t.Shape...)
			if len(t.Data) > 0 { // a parameter may be read by Bind
				tensor.ConvertFloat(wide.In[i], t)
			}
			before = append(before, conversion{half: t, wide: wide.In[i]})
		}
	}
	wide.Out = make([]*tensor.Tensor, len(c.Out))
	for i, t := range c.Out {
		switch {
		case t == nil || !isHalf(t.Type):
			wide.Out[i] = t
		default:
			if t.Shape == nil {
				wide.Out[i] = &tensor.Tensor{Type: onnx.Float32}
			} else {
				wide.Out[i] = tensor.New(onnx.Float32, t.Shape...)
			}
			after = append(after, conversion{half: t, wide: wide.Out[i], open: t.Shape == nil})
		}
	}
	run, err := w.kernel.Bind(&wide)
	if err != nil {
		return nil, err
	}
	return func() error {
		for _, p := range before {
			tensor.ConvertFloat(p.wide, p.half)
		}
		if err := run(); err != nil {
			return err
		}
		for _, p := range after {
			if p.open {
				*p.half = *tensor.New(p.half.Type, p.wide.Shape...)
			}
			tensor.ConvertFloat(p.half, p.wide)
		}
		return nil
	}, nil
}

func anyHalf(list []*tensor.Tensor) bool {
	for _, t := range list {
		if t != nil && isHalf(t.Type) {
			return true
		}
	}
	return false
}
