package fmoefy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The sizes of the test graphs.
const (
	dModel  = 6
	dHidden = 10
)

// builder writes graphs in the manner of exporters. Its methods return the
// names of the values that they add.
type builder struct {
	model  *onnx.Model
	graph  *onnx.Graph
	kind   onnx.DataType // of weights and constants
	random *rand.Rand
	count  *int
}

func newBuilder(opset int64) *builder {
	g := &onnx.Graph{Name: "test"}
	m := &onnx.Model{IRVersion: 8, OpsetImports: []onnx.OpsetImport{{Version: opset}, {Domain: "com.microsoft", Version: 1}}, Graph: g}
	return &builder{model: m, graph: g, kind: onnx.Float32, random: rand.New(rand.NewPCG(1, 2)), count: new(int)}
}

// subgraph returns a builder of a graph inside this one.
func (b *builder) subgraph(name string) *builder {
	inner := *b
	inner.graph = &onnx.Graph{Name: name}
	return &inner
}

func (b *builder) name(prefix string) string {
	*b.count++
	return fmt.Sprintf("%s_%d", prefix, *b.count)
}

// tokens adds a graph input [batch, sequence, d_model].
func (b *builder) tokens() string {
	return b.input("x", onnx.Dim{Param: "batch"}, onnx.Dim{Param: "sequence"}, onnx.Dim{Known: true, Value: dModel})
}

func (b *builder) input(name string, dims ...onnx.Dim) string {
	b.graph.Inputs = append(b.graph.Inputs, valueInfo(name, b.kind, dims...))
	return name
}

func valueInfo(name string, t onnx.DataType, dims ...onnx.Dim) *onnx.ValueInfo {
	return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t, Shape: &onnx.Shape{Dims: dims}}}
}

// output makes a value a graph output.
func (b *builder) output(value string) {
	b.graph.Outputs = append(b.graph.Outputs, valueInfo(value, b.kind,
		onnx.Dim{Param: "batch"}, onnx.Dim{Param: "sequence"}, onnx.Dim{Known: true, Value: dModel}))
}

func (b *builder) floats(values []float64, shape ...int) *tensor.Tensor {
	t := tensor.New(b.kind, shape...)
	tensor.ConvertFloat(t, tensor.FromSlice(values, shape...))
	return t
}

// weight adds an initializer of random numbers.
func (b *builder) weight(dims ...int) string {
	values := make([]float64, tensor.Count(dims))
	for i := range values {
		values[i] = b.random.NormFloat64()
	}
	return b.initializer("w", b.floats(values, dims...))
}

func (b *builder) initializer(prefix string, t *tensor.Tensor) string {
	name := b.name(prefix)
	b.graph.Initializers = append(b.graph.Initializers, t.ToONNX(name))
	return name
}

// scalar adds a number, as an initializer.
func (b *builder) scalar(x float64) string {
	return b.initializer("c", b.floats([]float64{x}))
}

// ints adds a vector of integers, as a Constant node.
func (b *builder) ints(list ...int64) string {
	return b.op("Constant", onnx.TensorAttribute("value", tensor.FromSlice(list).ToONNX("")))
}

// op adds a node. Arguments are the names of inputs and attributes.
func (b *builder) op(opType string, arguments ...any) string {
	return b.node("", opType, arguments...).Outputs[0]
}

// contrib adds a node of ONNX Runtime's operators.
func (b *builder) contrib(opType string, arguments ...any) string {
	return b.node("com.microsoft", opType, arguments...).Outputs[0]
}

func (b *builder) node(domain, opType string, arguments ...any) *onnx.Node {
	n := &onnx.Node{Name: b.name(opType), Domain: domain, OpType: opType, Outputs: []string{b.name("v")}}
	for _, a := range arguments {
		switch a := a.(type) {
		case string:
			n.Inputs = append(n.Inputs, a)
		case *onnx.Attribute:
			n.Attributes = append(n.Attributes, a)
		default:
			panic(fmt.Sprintf("argument %v", a))
		}
	}
	b.graph.Nodes = append(b.graph.Nodes, n)
	return n
}

// linear adds a linear layer of x as TorchScript writes it.
func (b *builder) linear(x string, in, out int) string {
	return b.op("Add", b.weight(out), b.op("MatMul", x, b.weight(in, out)))
}

// residual adds x to what a block makes of it and ends the graph.
func (b *builder) residual(x, y string) *onnx.Model {
	b.output(b.op("Add", x, y))
	return b.model
}

func intAttribute(name string, v int64) *onnx.Attribute     { return onnx.IntAttribute(name, v) }
func floatAttribute(name string, v float32) *onnx.Attribute { return onnx.FloatAttribute(name, v) }

// run computes the outputs of a model for random tokens [2, 3, d_model], or for
// the token numbers 0 and 1 in a model that takes those.
func run(t *testing.T, m *onnx.Model) map[string]*tensor.Tensor {
	t.Helper()
	return runSequences(t, m, 3)
}

// runSequences is run for random tokens [2, length, d_model].
func runSequences(t *testing.T, m *onnx.Model, length int) map[string]*tensor.Tensor {
	t.Helper()
	s, err := runtime.New(m, runtime.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	random := rand.New(rand.NewPCG(3, 4))
	inputs := map[string]*tensor.Tensor{}
	for _, v := range s.Inputs() {
		switch {
		case v.Type.ElemType == onnx.Bool:
			inputs[v.Name] = tensor.Scalar(true)
			continue
		case v.Type.ElemType == onnx.Int64 && strings.Contains(v.Name, "mask"):
			inputs[v.Name] = tensor.FromSlice([]int64{1, 1, 1, 1, 1, 1}, 2, 3)
			continue
		case v.Type.ElemType == onnx.Int64:
			inputs[v.Name] = tensor.FromSlice([]int64{1, 0, 1, 0, 1, 1}, 2, 3)
			continue
		}
		values := make([]float64, 2*length*dModel)
		for i := range values {
			values[i] = random.NormFloat64()
		}
		x := tensor.New(v.Type.ElemType, 2, length, dModel)
		tensor.ConvertFloat(x, tensor.FromSlice(values, 2, length, dModel))
		inputs[v.Name] = x
	}
	outputs, err := s.Run(context.Background(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	return outputs
}

// compare fails the test where two models do not compute the same.
func compare(t *testing.T, got, want *onnx.Model, tolerance float64) {
	t.Helper()
	compareOutputs(t, run(t, got), run(t, want), tolerance)
}

func compareOutputs(t *testing.T, got, want map[string]*tensor.Tensor, tolerance float64) {
	t.Helper()
	for name, w := range want {
		d, err := tensor.Compare(got[name], w, tolerance, tolerance)
		if err != nil {
			t.Fatal(err)
		}
		if d.Failures > 0 {
			t.Errorf("output %q: %d elements differ, by up to %g", name, d.Failures, d.MaxAbs)
		}
	}
}

// mixtures counts the FMoE nodes of a model, in subgraphs too.
func mixtures(m *onnx.Model) (n int) {
	_ = m.Graph.Walk(func(g *onnx.Graph) error {
		for _, node := range g.Nodes {
			if node.Domain == moe.Domain && node.OpType == moe.OpType {
				n++
			}
		}
		return nil
	})
	return n
}

// decomposed returns a copy of a model in which no device knows the FMoE
// nodes, so that their function body computes them.
func decomposed(m *onnx.Model) *onnx.Model {
	const domain = "test.decomposed"
	m = m.Clone()
	for _, f := range m.Functions {
		f.Domain = domain
	}
	for i := range m.OpsetImports {
		if m.OpsetImports[i].Domain == moe.Domain {
			m.OpsetImports[i].Domain = domain
		}
	}
	_ = m.Graph.Walk(func(g *onnx.Graph) error {
		for _, n := range g.Nodes {
			if n.Domain == moe.Domain {
				n.Domain = domain
			}
		}
		return nil
	})
	return m
}

// upcycle rewrites a copy of a model and checks what is promised of every
// rewriting by copies: the same function, as FMoE nodes and as their bodies.
func upcycle(t *testing.T, m *onnx.Model, blocks int, tolerance float64) *onnx.Model {
	t.Helper()
	before, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	rewritten := m.Clone()
	report, err := fmoefy.Rewrite(rewritten, fmoefy.Options{NumExperts: 4})
	if err != nil {
		t.Fatal(err)
	}
	if n := mixtures(rewritten); n != blocks {
		t.Fatalf("%d FMoE nodes, want %d", n, blocks)
	}
	if !report.Equal {
		t.Error("the report does not promise the same function")
	}
	compare(t, rewritten, m, tolerance)
	compare(t, decomposed(rewritten), m, tolerance)
	if after, err := onnx.Encode(m); err != nil || string(after) != string(before) {
		t.Error("rewriting a copy changed the original")
	}
	return rewritten
}
