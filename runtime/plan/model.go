package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/benchmark"
	"github.com/fmoe-go/fmoe/runtime/inspect"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train"
)

// Model is what a plan needs to know of a model.
type Model struct {
	Length      int     // tokens of a sequence
	Dense       float64 // parameters that are no expert's
	Experts     float64 // parameters of all experts
	Operations  float64 // floating-point operations of a forward pass over a sequence, experts included
	Activations float64 // bytes of the values between nodes for a sequence, in float32; not those within mixtures
	Layers      []Layer // mixtures of experts
	Depth       int     // the most stages that the model can be cut into
	Width       int     // of what passes between stages, for each token
}

// Layer is a mixture of experts.
type Layer struct {
	Name     string
	Experts  int
	TopK     int
	DModel   int
	DHidden  int
	Products int       // of an expert: 2, or 3 where it is gated
	Load     []float64 // the part of all rows that each expert computes, [Experts]
}

// work returns the floating-point operations of an expert for a row.
func (l *Layer) work() float64 {
	return 2 * float64(l.Products) * float64(l.DModel) * float64(l.DHidden)
}

// Describe finds out what a plan needs to know of a model for sequences of so
// many tokens. The first axis of an input is that of sequences, open dimensions
// after it are as long as a sequence, and caches are empty.
func Describe(m *onnx.Model, length int) (*Model, error) {
	if length < 1 {
		return nil, fmt.Errorf("a sequence of %d tokens: it must have at least 1", length)
	}
	d, err := inspect.Describe(m)
	if err != nil {
		return nil, err
	}
	parameters, err := train.ModelParameters(m)
	if err != nil {
		return nil, err
	}
	inputs, err := inputsOf(m, length)
	if err != nil {
		return nil, err
	}
	work, err := benchmark.CountWork(m, inputs)
	if err != nil {
		return nil, err
	}
	p := &Model{Length: length, Operations: work.Operations}
	for _, l := range d.Layers {
		layer := Layer{Name: l.Name, Experts: int(l.Experts), TopK: l.TopK, DModel: int(l.DModel), DHidden: int(l.DHidden), Products: 2}
		if l.Gated {
			layer.Products = 3
		}
		layer.Load = slices.Repeat([]float64{1 / float64(max(layer.Experts, 1))}, layer.Experts)
		p.Layers, p.Width = append(p.Layers, layer), max(p.Width, layer.DModel)
	}
	experts := expertNames(m)
	matrices := 0
	for _, q := range parameters {
		switch {
		case q.Kind == train.Expert || experts[q.Name]:
			p.Experts += float64(q.Len())
		default:
			p.Dense += float64(q.Len())
		}
		if q.Kind == train.Matrix && len(q.Shape) == 2 {
			matrices++
			if len(p.Layers) == 0 {
				p.Width = max(p.Width, min(q.Shape[0], q.Shape[1]))
			}
		}
	}
	p.Depth = max(1, len(p.Layers), matrices/6) // a block of a dense transformer has six, or four of which one is three
	err = runtime.Infer(m, inputs, func(n *op.Node, _, out []op.Fact) {
		if slices.Contains(views, n.OpType) {
			return
		}
		for _, f := range out {
			if f.Value == nil && f.Concrete() && f.Type.IsFloat() {
				bytes := float64(float32Bytes)
				for _, d := range f.Shape {
					bytes *= float64(d)
				}
				p.Activations += bytes
			}
		}
	})
	return p, err
}

// views are operators whose results are in the memory of their inputs, or that
// are fused with what reads them.
var views = []string{"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Transpose", "Split", "Expand", "Shape", "Cast", "Constant"}

// expertNames returns the names of experts' initializers.
func expertNames(m *onnx.Model) map[string]bool {
	names := map[string]bool{}
	for _, n := range m.Graph.Nodes {
		if inspect.IsFMoE(n) {
			for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
				names[n.Input(slot)] = true
			}
		}
	}
	delete(names, "")
	return names
}

// inputsOf returns a sequence for each input of a model: zeros.
func inputsOf(m *onnx.Model, length int) (map[string]*tensor.Tensor, error) {
	inputs := map[string]*tensor.Tensor{}
	for _, v := range m.Graph.Inputs {
		if m.Graph.Initializer(v.Name) != nil {
			continue
		}
		if v.Type == nil || v.Type.Shape == nil {
			return nil, fmt.Errorf("input %q has no shape; give it one to plan with", v.Name)
		}
		var shape []int
		for axis, d := range v.Type.Shape.Dims {
			switch {
			case d.Known:
				shape = append(shape, int(d.Value))
			case axis == 0:
				shape = append(shape, 1)
			case strings.Contains(d.Param, "past") && !strings.Contains(d.Param, "+"):
				shape = append(shape, 0)
			default:
				shape = append(shape, length)
			}
		}
		inputs[v.Name] = tensor.New(v.Type.ElemType, shape...)
	}
	return inputs, nil
}
