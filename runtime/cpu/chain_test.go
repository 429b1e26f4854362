package cpu

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// chainOf makes a Chain node from operators and the numbers of their inputs,
// such as "Add 0 1".
func chainOf(t *testing.T, inputs int, steps ...string) *onnx.Node {
	t.Helper()
	c := &op.Chain{Inputs: inputs}
	for _, s := range steps {
		fields := strings.Fields(s)
		n, in := &onnx.Node{OpType: fields[0], Outputs: []string{"y"}}, []int{}
		for _, f := range fields[1:] {
			number := 0
			if _, err := fmt.Sscan(f, &number); err != nil {
				t.Fatal(err)
			}
			n.Inputs, in = append(n.Inputs, "x"+f), append(in, number)
		}
		if n.OpType == "Cast" {
			n.Attributes = append(n.Attributes, onnx.IntAttribute("to", int64(onnx.Float64)))
		}
		resolved, err := op.Resolve(n, 24)
		if err != nil {
			t.Fatal(err)
		}
		c.Nodes, c.In = append(c.Nodes, resolved), append(c.In, in)
	}
	made := op.NewChain(c)
	made.Outputs = []string{"y"}
	return made
}

// TestChain compares with the nodes one after the other, bit by bit.
func TestChain(t *testing.T) {
	for _, c := range []struct {
		name   string
		shapes [][]int
		steps  []string
	}{
		{"functions", [][]int{{7}}, []string{"Exp 0", "Neg 1", "Tanh 2"}},
		{"row", [][]int{{9, 3000}, {3000}}, []string{"Add 0 1", "Gelu 2", "Mul 3 1"}},
		{"long row", [][]int{{3, 3001}, {3001}}, []string{"Add 0 1", "Mul 2 1"}},
		{"rows in parts", [][]int{{2, 3, 1300}, {3, 1300}, {1, 1, 1300}}, []string{"Add 0 1", "Mul 3 2"}},
		{"short row", [][]int{{2000, 5}, {5}}, []string{"Add 0 1", "Mul 2 2"}},
		{"column", [][]int{{130, 77}, {130, 1}}, []string{"Mul 0 1", "Relu 2"}},
		{"scalars", [][]int{{5001}, {1}, {}}, []string{"Div 0 1", "Erf 3", "Add 4 2"}},
		{"several uses", [][]int{{3, 4099}}, []string{"Sigmoid 0", "Mul 0 1", "Sub 2 1", "Max 3 2 0"}},
		{"long lives", [][]int{{4097}}, []string{"Exp 0", "Sin 0", "Add 1 2", "Cos 0", "Mul 4 1", "Sub 5 3"}},
		{"booleans", [][]int{{40, 300}, {300}}, []string{"Greater 0 1", "Not 2", "Less 1 0", "And 3 4", "Where 2 0 1", "Where 5 6 0"}},
		{"types", [][]int{{40, 300}}, []string{"Cast 0", "Sqrt 1", "IsNaN 2"}},
		{"crosswise", [][]int{{40, 1, 7, 1}, {1, 33, 1, 5}}, []string{"Add 0 1", "Abs 2"}},
		{"what is small inside", [][]int{{40, 300}, {300}}, []string{"Exp 1", "Add 0 2"}},
		{"limits", [][]int{{5000}, {}, {}}, []string{"Exp 0", "Clip 3 1 2", "Add 4 0"}},
		{"one element", [][]int{{1, 1}, {1}}, []string{"Exp 0", "Add 2 1"}},
		{"nothing", [][]int{{0, 4}, {4}}, []string{"Exp 0", "Add 2 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := make([]*tensor.Tensor, len(c.shapes))
			for i, shape := range c.shapes {
				in[i] = random[float32](uint64(i), shape...)
			}
			values := append([]*tensor.Tensor{}, in...)
			chain := chainOf(t, len(in), c.steps...)
			parsed, err := op.ParseChain(withInputs(chain, len(in)))
			if err != nil {
				t.Fatal(err)
			}
			for i, n := range parsed.Nodes {
				operands := make([]*tensor.Tensor, len(parsed.In[i]))
				for j, v := range parsed.In[i] {
					operands[j] = values[v]
				}
				inner := n.Clone()
				values = append(values, compute(t, 1, false, inner, int64(n.Since), operands...)[0])
			}
			want := values[len(values)-1]
			for _, threads := range []int{1, 3} {
				got := compute(t, threads, false, chain.Clone(), 1, in...)[0]
				if got.Type != want.Type || tensor.FormatShape(got.Shape) != tensor.FormatShape(want.Shape) || !bytes.Equal(got.Data, want.Data) {
					t.Errorf("%d threads: %v, want %v", threads, got, want)
				}
			}
		})
	}
}

func withInputs(n *onnx.Node, count int) *onnx.Node {
	n = n.Clone()
	for i := range count {
		n.Inputs = append(n.Inputs, fmt.Sprint("in", i))
	}
	return n
}

func TestChainRefuses(t *testing.T) {
	plain := func() *onnx.Node { return withInputs(chainOf(t, 2, "Exp 0", "Add 2 1"), 2) }
	body := func(n *onnx.Node) *onnx.Graph { return n.Attribute("body").Graph }
	for _, c := range []struct {
		name   string
		change func(n *onnx.Node)
		fails  string
	}{
		{"no body", func(n *onnx.Node) { n.Attributes = nil }, "lacks its attribute body"},
		{"no versions", func(n *onnx.Node) { n.Attributes = n.Attributes[:1] }, "0 versions"},
		{"other inputs", func(n *onnx.Node) { n.Inputs = n.Inputs[:1] }, "2 inputs"},
		{"not elementwise", func(n *onnx.Node) { body(n).Nodes[0].OpType = "Softmax" }, "cannot be part"},
		{"itself", func(n *onnx.Node) { body(n).Nodes[0] = plain(); n.Attribute("versions").Ints[0] = 1 }, "cannot be part"},
		{"no such value", func(n *onnx.Node) { body(n).Nodes[0].Inputs[0] = "7" }, `no value "7"`},
		{"a later value", func(n *onnx.Node) { body(n).Nodes[0].Inputs[0] = "3" }, `no value "3"`},
	} {
		n := plain()
		c.change(n)
		if _, err := op.ParseChain(n); err == nil || !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.fails)
		}
	}
	node, err := op.Resolve(plain(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, shapes := range [][2][]op.Dim{{{3}, {4}}, {{2, 3}, {3, 2}}} {
		facts := []op.Fact{{Type: onnx.Float32, Shape: shapes[0]}, {Type: onnx.Float32, Shape: shapes[1]}}
		if _, err := op.Infer(node, facts, &op.Symbols{}); err == nil {
			t.Errorf("shapes %v are accepted", shapes)
		}
	}
	if _, err := op.Infer(node, []op.Fact{{Type: onnx.Float16}, {Type: onnx.Float16}}, &op.Symbols{}); err == nil {
		t.Error("float16 is accepted")
	}
}
