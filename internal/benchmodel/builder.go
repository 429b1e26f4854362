// Package benchmodel makes the models that benchmarks run: Transformers of
// published sizes with random weights, written as PyTorch's exporter writes
// them, and single layers.
package benchmodel

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// weightStd is the standard deviation of weights, as GPT-2 and BERT are
// initialised.
const weightStd = 0.02

// builder appends to a graph. Values are known by name, and a node has the
// name of its output.
type builder struct {
	graph *onnx.Graph
	count int // of unnamed values
}

func newBuilder(name string) *builder { return &builder{graph: &onnx.Graph{Name: name}} }

func (b *builder) model() *onnx.Model {
	return &onnx.Model{IRVersion: 8, ProducerName: "benchmodel", Graph: b.graph,
		OpsetImports: []onnx.OpsetImport{{Version: 17}, {Domain: moe.Domain, Version: moe.Version}}}
}

// value describes an input or output; a dimension is a number or a name.
func value(name string, t onnx.DataType, dims ...any) *onnx.ValueInfo {
	shape := &onnx.Shape{}
	for _, d := range dims {
		if n, ok := d.(int); ok {
			shape.Dims = append(shape.Dims, onnx.Dim{Known: true, Value: int64(n)})
		} else {
			shape.Dims = append(shape.Dims, onnx.Dim{Param: d.(string)})
		}
	}
	return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t, Shape: shape}}
}

func (b *builder) input(name string, t onnx.DataType, dims ...any) string {
	b.graph.Inputs = append(b.graph.Inputs, value(name, t, dims...))
	return name
}

// output makes what the last node computes one of the model's outputs.
func (b *builder) output(name string, t onnx.DataType, dims ...any) {
	b.graph.Outputs = append(b.graph.Outputs, value(name, t, dims...))
	b.last().Outputs[0] = name
}

func (b *builder) last() *onnx.Node { return b.graph.Nodes[len(b.graph.Nodes)-1] }

// weight adds a float32 initializer that is normally distributed.
func (b *builder) weight(name string, mean, std float32, dims ...int) string {
	t := &onnx.Tensor{Name: name, DataType: onnx.Float32}
	count := int64(1)
	for _, d := range dims {
		t.Dims = append(t.Dims, int64(d))
		count *= int64(d)
	}
	t.SetSource(&normal{count, uint64(len(b.graph.Initializers)) + 1, mean, std})
	b.graph.Initializers = append(b.graph.Initializers, t)
	return name
}

func (b *builder) add(opType, name string, in []string, attributes ...*onnx.Attribute) string {
	b.graph.Nodes = append(b.graph.Nodes, &onnx.Node{Name: name, OpType: opType, Inputs: in, Outputs: []string{name}, Attributes: attributes})
	return name
}

func (b *builder) name(opType string) string {
	b.count++
	return fmt.Sprintf("%s_%d", opType, b.count)
}

// op adds a node without attributes.
func (b *builder) op(opType string, in ...string) string { return b.add(opType, b.name(opType), in) }

func (b *builder) constant(t *tensor.Tensor) string {
	name := b.name("Constant")
	return b.add("Constant", name, nil, onnx.TensorAttribute("value", t.ToONNX(name)))
}

func (b *builder) number(x float32) string { return b.constant(tensor.Scalar(x)) }

func (b *builder) integer(x int64) string { return b.constant(tensor.Scalar(x)) }

func (b *builder) integers(x ...int64) string { return b.constant(tensor.FromSlice(x)) }

// size is the length of a value's axis, a scalar.
func (b *builder) size(of string, axis int64) string {
	return b.op("Gather", b.op("Shape", of), b.integer(axis))
}

func (b *builder) cast(x string, to onnx.DataType) string {
	return b.add("Cast", b.name("Cast"), []string{x}, onnx.IntAttribute("to", int64(to)))
}

func (b *builder) transpose(x string, perm ...int64) string {
	return b.add("Transpose", b.name("Transpose"), []string{x}, onnx.IntsAttribute("perm", perm...))
}

// linear is x·W + bias.
func (b *builder) linear(name, x string, in, out int) string {
	product := b.add("MatMul", name+"/MatMul", []string{x, b.weight(name+".weight", 0, weightStd, in, out)})
	return b.add("Add", name+"/Add", []string{b.weight(name+".bias", 0, weightStd, out), product})
}

func (b *builder) norm(name, x string, width int) string {
	return b.add("LayerNormalization", name+"/LayerNormalization",
		[]string{x, b.weight(name+".weight", 1, weightStd, width), b.weight(name+".bias", 0, weightStd, width)},
		onnx.IntAttribute("axis", -1), onnx.FloatAttribute("epsilon", 1e-5))
}

// geluTanh is GELU's approximation by tanh, as GPT-2 spells it.
func (b *builder) geluTanh(x string) string {
	inner := b.op("Add", x, b.op("Mul", b.op("Pow", x, b.number(3)), b.number(0.044715)))
	tanh := b.op("Tanh", b.op("Mul", inner, b.number(0.7978845834732056)))
	return b.op("Mul", b.op("Mul", x, b.number(0.5)), b.op("Add", tanh, b.number(1)))
}

// geluErf is GELU as PyTorch's exporter spells it.
func (b *builder) geluErf(x string) string {
	erf := b.op("Erf", b.op("Div", x, b.number(1.4142135381698608)))
	return b.op("Mul", b.op("Mul", x, b.op("Add", erf, b.number(1))), b.number(0.5))
}
