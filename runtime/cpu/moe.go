package cpu

import (
	"fmt"
	"math"
	"sync"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register(moe.MicrosoftDomain, "MoE", newMicrosoftMoE)
	register(moe.MicrosoftDomain, "QMoE", newMicrosoftMoE)
}

// microsoftMoE is the kernel of ONNX Runtime's MoE and QMoE. It brings the
// experts into FMoE's layout, in float32 unless they can stay as they are
// stored, and lets FMoE's kernel compute them.
type microsoftMoE struct {
	device    *Device
	config    moe.MicrosoftConfig
	constants []*tensor.Tensor

	mu    sync.Mutex
	fixed map[moe.MicrosoftShape]*denseExperts // where the experts are constant: made once
}

func newMicrosoftMoE(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	config, err := moe.ParseMicrosoft(n.Node)
	return &microsoftMoE{device: d, config: config, constants: constants, fixed: map[moe.MicrosoftShape]*denseExperts{}}, err
}

func (k *microsoftMoE) Bind(c *device.Call) (func() error, error) {
	if t := c.In[moe.MicrosoftX].Type; t != onnx.Float32 {
		return nil, device.UnsupportedType(t)
	}
	shapes := make([][]int, len(c.In))
	for i, t := range c.In {
		if t != nil {
			shapes[i] = t.Shape
		}
	}
	shape, err := k.config.Shape(shapes)
	if err != nil {
		return nil, err
	}
	e, err := k.experts(c, shape)
	if err != nil {
		return nil, err
	}
	inputs := e.inputs
	inputs[moe.InputX] = c.In[moe.MicrosoftX]
	call := &device.Call{In: inputs[:], Out: c.Out, Scratch: c.Scratch}
	f := expertFunctions[float32]{activate: expertActivations[k.config.Activation].float32}
	if k.config.SwiGLU {
		f = swiGLU(k.config.Alpha, k.config.Beta, k.config.Limit)
	}
	run, err := bindFMoE(&fmoe{device: k.device, config: k.config.Config, packed: e.packed}, call, f, c.In[moe.MicrosoftLogits])
	if err != nil || e.constant {
		return run, err
	}
	return func() error {
		e.load()
		return run()
	}, nil
}

// swiGLU returns the functions of G and L in G·σ(alpha·G)·(L + beta), G being
// at most limit and L between −limit and limit.
func swiGLU(alpha, beta, limit float64) expertFunctions[float32] {
	return expertFunctions[float32]{
		activate: func(x []float32) {
			for i, g := range x {
				g := min(float64(g), limit)
				x[i] = float32(g / (1 + math.Exp(-alpha*g)))
			}
		},
		factor: func(x []float32) {
			for i, l := range x {
				x[i] = float32(max(-limit, min(float64(l), limit)) + beta)
			}
		},
	}
}

// denseExperts are experts in FMoE's layout and element type.
type denseExperts struct {
	inputs   [moe.InputCount]*tensor.Tensor
	packed   [moe.InputCount]any
	layers   []denseLayer
	constant bool
}

// denseLayer is a linear layer of the experts and where it comes from: rows
// first, first + step … of each expert's.
type denseLayer struct {
	weight, bias         *tensor.Tensor // [T, out, in], [T, out] or nil
	sourceBias           *tensor.Tensor
	row                  func(expert, row int, out []float32) // nil where the weights stay as they are stored
	compressed           []*simd.Compressed                   // then those
	sourceRows           int                                  // of an expert
	first, step, out, in int
}

// experts returns the experts of a call, those that are constant ready.
func (k *microsoftMoE) experts(c *device.Call, shape moe.MicrosoftShape) (*denseExperts, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.fixed[shape]; e != nil {
		return e, nil
	}
	e := &denseExperts{constant: true}
	slots := [3]int{moe.InputFC1Weight, moe.InputFC2Weight, moe.InputFC3Weight}
	for i, slot := range slots {
		l := denseLayer{out: shape.Hidden, in: shape.Model, step: 1}
		source := k.config.Layers[i]
		switch {
		case i == 1:
			l.out, l.in = shape.Model, shape.Hidden
		case k.config.Interleaved:
			source = k.config.Layers[0]
			l.first, l.step = i/2, 2
		}
		if source.Weight >= len(c.In) || c.In[source.Weight] == nil {
			continue
		}
		for _, in := range []int{source.Weight, source.Bias, source.Scales, source.Zeros} {
			e.constant = e.constant && (in == 0 || in >= len(c.In) || c.In[in] == nil || k.constants[in] != nil)
		}
		if err := k.open(&l, c, source, shape, e.constant); err != nil {
			return nil, err
		}
		if list := l.compressed; list != nil {
			e.packed[slot] = list
		}
		e.layers = append(e.layers, l)
		e.inputs[slot], e.inputs[slot+1] = l.weight, l.bias
	}
	if e.constant {
		e.load()
		for _, slot := range slots {
			if e.inputs[slot] != nil && e.packed[slot] == nil {
				e.packed[slot] = packConstant(k.device, e.inputs[slot], fmoeOrder(slot))
			}
		}
		k.fixed[shape] = e
	}
	return e, nil
}

// open allocates a layer and finds how to read its source.
func (k *microsoftMoE) open(l *denseLayer, c *device.Call, source moe.MicrosoftLayer, shape moe.MicrosoftShape, constant bool) error {
	in := func(i int) *tensor.Tensor {
		if i > 0 && i < len(c.In) {
			return c.In[i]
		}
		return nil
	}
	weight := in(source.Weight)
	if _, err := tensor.CheckedCount(onnx.Float32, []int{shape.Experts, l.out, l.in}); err != nil {
		return err
	}
	l.sourceRows = l.out * l.step
	if l.sourceBias = in(source.Bias); l.sourceBias != nil {
		l.bias = tensor.New(onnx.Float32, shape.Experts, l.out)
	}
	switch {
	case k.config.Quantized:
		q := &packedMatrix{data: weight, scales: in(source.Scales), zeros: in(source.Zeros), bits: k.config.Bits,
			rows: l.sourceRows, rowBytes: weight.Shape[2], block: l.in, blocks: 1, zerosByRow: true}
		if size := k.config.BlockSize; size > 0 {
			q.block, q.blocks, q.zerosByRow = size, (l.in+size-1)/size, false
		}
		if err := q.check(); err != nil {
			return fmt.Errorf("input %d: %w", source.Weight, err)
		}
		if constant {
			l.compressed = q.compress(k.device, l.first, l.step, l.out, l.in)
		}
		if l.compressed != nil {
			l.weight = weight
			return nil
		}
		l.row = func(expert, row int, out []float32) { q.read(expert*l.sourceRows+row, out) }
	case shape.Legacy: // in × out
		l.row = func(expert, row int, out []float32) {
			w := tensor.Of[float32](weight)[expert*l.in*l.sourceRows:]
			for i := range out {
				out[i] = w[i*l.sourceRows+row]
			}
		}
	default:
		l.row = func(expert, row int, out []float32) {
			copy(out, tensor.Of[float32](weight)[(expert*l.sourceRows+row)*l.in:])
		}
	}
	l.weight = tensor.New(onnx.Float32, shape.Experts, l.out, l.in)
	return nil
}

// load reads all layers from their sources.
func (e *denseExperts) load() {
	for i := range e.layers {
		l := &e.layers[i]
		for expert := range l.weight.Shape[0] {
			for row := range l.out {
				at := expert*l.out + row
				if l.row != nil {
					l.row(expert, l.first+row*l.step, tensor.Of[float32](l.weight)[at*l.in:][:l.in])
				}
				if l.bias != nil {
					tensor.Of[float32](l.bias)[at] = tensor.Of[float32](l.sourceBias)[expert*l.sourceRows+l.first+row*l.step]
				}
			}
		}
	}
}
