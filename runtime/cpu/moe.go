package cpu

import (
	"fmt"
	"math"
	"sync"

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
	constant  bool  // the experts are
	held      []int // bytes of each input in FMoE's layout

	mu    sync.Mutex
	fixed map[moe.MicrosoftShape]*denseExperts // made once where the experts are constant
}

func newMicrosoftMoE(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	config, err := moe.ParseMicrosoft(n.Node)
	if err != nil {
		return nil, err
	}
	k := &microsoftMoE{device: d, config: config, constants: constants, constant: true, fixed: map[moe.MicrosoftShape]*denseExperts{}}
	for i := moe.MicrosoftLogits + 1; i < len(constants); i++ {
		k.constant = k.constant && (n.Input(i) == "" || constants[i] != nil)
	}
	if shape, known := k.constantShape(); known && k.constant {
		e, err := k.experts(&device.Call{In: constants}, shape)
		if err != nil {
			return nil, err
		}
		k.held = e.held
	}
	return k, nil
}

// constantShape returns the layer's size if constant inputs fit tokens of one
// width only.
func (k *microsoftMoE) constantShape() (shape moe.MicrosoftShape, known bool) {
	shapes := make([][]int, len(k.constants))
	for i, t := range k.constants {
		if t != nil {
			shapes[i] = t.Shape
		}
	}
	fc1, fc2 := at(k.constants, k.config.Layers[0].Weight), at(k.constants, k.config.Layers[1].Weight)
	if fc1 == nil || fc2 == nil || fc1.Rank() != 3 || fc2.Rank() != 3 {
		return shape, false
	}
	widths := fc2.Shape[1:]
	if widths[0] == widths[1] {
		widths = widths[:1]
	}
	for _, width := range widths {
		shapes[moe.MicrosoftX], shapes[moe.MicrosoftLogits] = []int{1, width}, []int{1, fc1.Shape[0]}
		s, err := k.config.Shape(shapes)
		switch {
		case err != nil:
		case known:
			return shape, false
		default:
			shape, known = s, true
		}
	}
	return shape, known
}

// Held implements [device.Holder].
func (k *microsoftMoE) Held(i int) int {
	if i >= len(k.held) {
		return 0
	}
	return k.held[i]
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
	if err != nil || k.constant {
		return run, err
	}
	return func() error {
		for i := range e.layers {
			e.layers[i].load()
		}
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
	inputs [moe.InputCount]*tensor.Tensor // weights without content where they are packed
	packed [moe.InputCount]any
	layers []denseLayer // to be read by each run
	held   []int        // of constant experts, see microsoftMoE
}

// denseLayer is a linear layer of the experts and where it comes from: rows
// first, first + step … of each expert's.
type denseLayer struct {
	weight, bias         *tensor.Tensor // [T, out, in], [T, out] or nil
	sourceBias           *tensor.Tensor
	row                  func(expert, row int, out []float32)
	packed               any // the weight where it is constant and need not be read row by row
	first, step, out, in int
}

// experts returns the experts of a call, those that are constant ready.
func (k *microsoftMoE) experts(c *device.Call, shape moe.MicrosoftShape) (*denseExperts, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.fixed[shape]; e != nil {
		return e, nil
	}
	e := &denseExperts{held: make([]int, len(c.In))}
	for i, slot := range expertWeights {
		l := denseLayer{out: shape.Hidden, in: shape.Model, step: 1}
		source := k.config.Layers[i]
		switch {
		case i == 1:
			l.out, l.in = shape.Model, shape.Hidden
		case k.config.Interleaved:
			source = k.config.Layers[0]
			l.first, l.step = i/2, 2
		}
		if at(c.In, source.Weight) == nil {
			continue
		}
		if err := k.open(&l, c, source, shape); err != nil {
			return nil, err
		}
		e.inputs[slot], e.inputs[slot+1] = l.weight, l.bias
		if !k.constant {
			e.layers = append(e.layers, l)
			continue
		}
		l.load()
		if l.packed == nil {
			l.packed = packConstant(k.device, l.weight, fmoeOrder(slot))
			l.weight.Data = nil
		}
		e.packed[slot] = l.packed
		e.held[source.Weight] += packedSize(l.packed)
		if l.bias != nil {
			e.held[source.Bias] += len(l.bias.Data)
		}
	}
	if k.constant {
		k.fixed[shape] = e
	}
	return e, nil
}

// open finds how to read a layer's source, and allocates what it is read into.
func (k *microsoftMoE) open(l *denseLayer, c *device.Call, source moe.MicrosoftLayer, shape moe.MicrosoftShape) error {
	in := func(i int) *tensor.Tensor {
		if i == 0 {
			return nil
		}
		return at(c.In, i)
	}
	weight := in(source.Weight)
	dims := []int{shape.Experts, l.out, l.in}
	if _, err := tensor.CheckedCount(onnx.Float32, dims); err != nil {
		return err
	}
	l.weight = &tensor.Tensor{Type: onnx.Float32, Shape: dims}
	if l.sourceBias = in(source.Bias); l.sourceBias != nil {
		l.bias = tensor.New(onnx.Float32, shape.Experts, l.out)
	}
	if k.config.Quantized {
		q := &packedMatrix{data: weight, scales: in(source.Scales), zeros: in(source.Zeros), bits: k.config.Bits,
			rows: l.out * l.step, rowBytes: weight.Shape[2], block: l.in, blocks: 1, zerosByRow: true}
		if size := k.config.BlockSize; size > 0 {
			q.block, q.blocks, q.zerosByRow = size, (l.in+size-1)/size, false
		}
		if err := q.check(); err != nil {
			return fmt.Errorf("input %d: %w", source.Weight, err)
		}
		if k.constant {
			if list := q.compress(k.device, l.first, l.step, l.out, l.in); list != nil {
				l.packed = list
				return nil
			}
		}
		first, step := l.first, l.step
		l.row = func(expert, row int, out []float32) { q.read(expert*q.rows+first+row*step, out) }
	} else {
		order := []int{0, 2, 1}
		if shape.Legacy { // in × out
			order = []int{0, 1, 2}
		}
		s := newStack(weight.Shape, order, nil)
		for i := range s.at {
			s.at[i] += l.first * s.colStride
		}
		s.cols, s.colStride = l.out, l.step*s.colStride
		if k.constant {
			if list := pack(k.device, s, tensor.Of[float32](weight)); list != nil {
				l.packed = list
				return nil
			}
		}
		l.row = func(expert, row int, out []float32) {
			w := tensor.Of[float32](weight)[s.at[expert]+row*s.colStride:]
			for i := range out {
				out[i] = w[i*s.rowStride]
			}
		}
	}
	l.weight.Data = tensor.AlignedBytes(4 * l.weight.Len())
	return nil
}

// load reads the layer from its source.
func (l *denseLayer) load() {
	for expert := range l.weight.Shape[0] {
		for row := range l.out {
			at := expert*l.out + row
			if l.packed == nil {
				l.row(expert, row, tensor.Of[float32](l.weight)[at*l.in:][:l.in])
			}
			if l.bias != nil {
				tensor.Of[float32](l.bias)[at] = tensor.Of[float32](l.sourceBias)[expert*l.step*l.out+l.first+row*l.step]
			}
		}
	}
}
