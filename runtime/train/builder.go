package train

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// builder adds nodes to the graph of a model.
type builder struct {
	graph *onnx.Graph
	names *onnx.Index
}

func newBuilder(m *onnx.Model) *builder {
	if _, imported := m.OpsetVersion(moe.Domain); !imported {
		m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: moe.Domain, Version: moe.Version})
	}
	return &builder{graph: m.Graph, names: onnx.NewIndex(m.Graph)}
}

// op adds a node of one of ONNX's own operators and returns its output.
func (b *builder) op(opType string, inputs ...string) string {
	return b.add(&onnx.Node{OpType: opType}, 1, inputs...)[0]
}

// add adds a node of several outputs, which it names.
func (b *builder) add(n *onnx.Node, outputs int, inputs ...string) []string {
	n.Name = b.names.NewName("train/" + n.OpType)
	n.Inputs = inputs
	for range outputs {
		n.Outputs = append(n.Outputs, b.names.NewName(n.Name+"/output"))
	}
	b.graph.Nodes = append(b.graph.Nodes, n)
	return n.Outputs
}

// constant adds a constant.
func (b *builder) constant(t *tensor.Tensor) string {
	name := b.names.NewName("train/constant")
	b.graph.Initializers = append(b.graph.Initializers, t.ToONNX(name))
	return name
}

// number adds a scalar of a floating-point type.
func (b *builder) number(t onnx.DataType, x float64) string {
	s := tensor.New(t)
	tensor.ConvertFloat(s, tensor.Scalar(x))
	return b.constant(s)
}

// input adds an input of the given dimensions, −1 for an open one; nil leaves
// the rank open. It has the wanted name unless that is taken.
func (b *builder) input(name string, t onnx.DataType, shape []int64) string {
	name = b.names.NewName(name)
	b.graph.Inputs = append(b.graph.Inputs, &onnx.ValueInfo{Name: name, Type: tensorType(t, shape)})
	return name
}

// output lets the graph return a value.
func (b *builder) output(name string) {
	b.graph.Outputs = append(b.graph.Outputs, &onnx.ValueInfo{Name: name})
}

func tensorType(t onnx.DataType, shape []int64) *onnx.Type {
	v := &onnx.Type{Kind: onnx.KindTensor, ElemType: t}
	if shape != nil {
		v.Shape = &onnx.Shape{}
		for _, d := range shape {
			v.Shape.Dims = append(v.Shape.Dims, onnx.Dim{Known: d >= 0, Value: max(d, 0)})
		}
	}
	return v
}
