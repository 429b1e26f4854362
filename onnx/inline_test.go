package onnx_test

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// call makes a model whose one node, named "n", calls the function f, which
// squares its input when its attribute "power" is left at the default.
func callingModel() *onnx.Model {
	power := onnx.FloatAttribute("power", 2)
	constant := &onnx.Node{OpType: "Constant", Outputs: []string{"p"},
		Attributes: []*onnx.Attribute{{Name: "value_float", Type: onnx.AttributeFloat, RefName: "power"}}}
	return &onnx.Model{
		IRVersion:    9,
		OpsetImports: []onnx.OpsetImport{{Version: 17}, {Domain: "local", Version: 1}},
		Functions: []*onnx.Function{{
			Domain: "local", Name: "f", Inputs: []string{"x", "unused"}, Outputs: []string{"y"},
			AttributeDefaults: []*onnx.Attribute{power},
			OpsetImports:      []onnx.OpsetImport{{Version: 17}},
			Nodes:             []*onnx.Node{constant, {OpType: "Pow", Name: "pow", Inputs: []string{"x", "p"}, Outputs: []string{"y"}}},
		}},
		Graph: &onnx.Graph{
			Name:    "g",
			Inputs:  []*onnx.ValueInfo{{Name: "a", Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32}}},
			Outputs: []*onnx.ValueInfo{{Name: "b", Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32}}},
			Nodes:   []*onnx.Node{{Domain: "local", OpType: "f", Name: "n", Inputs: []string{"a"}, Outputs: []string{"b"}}},
		},
	}
}

func never(*onnx.Node) bool { return false }

func TestInline(t *testing.T) {
	t.Run("body takes the caller's names and the attribute's default", func(t *testing.T) {
		m := callingModel()
		if err := m.Inline(never); err != nil {
			t.Fatal(err)
		}
		if len(m.Functions) != 0 || len(m.Graph.Nodes) != 2 {
			t.Fatalf("%d functions and %d nodes are left", len(m.Functions), len(m.Graph.Nodes))
		}
		constant, pow := m.Graph.Nodes[0], m.Graph.Nodes[1]
		if a := constant.Attribute("value_float"); a.Float != 2 || a.RefName != "" {
			t.Errorf("the attribute became %+v", a)
		}
		if pow.Inputs[0] != "a" || pow.Inputs[1] != constant.Outputs[0] || pow.Outputs[0] != "b" {
			t.Errorf("%v → %v", pow.Inputs, pow.Outputs)
		}
		if err := onnx.Check(m); err != nil {
			t.Error(err)
		}
	})
	t.Run("the caller's attribute wins", func(t *testing.T) {
		m := callingModel()
		m.Graph.Nodes[0].Attributes = []*onnx.Attribute{onnx.FloatAttribute("power", 3)}
		if err := m.Inline(never); err != nil {
			t.Fatal(err)
		}
		if got := m.Graph.Nodes[0].Attribute("value_float").Float; got != 3 {
			t.Errorf("power is %v, want 3", got)
		}
	})
	t.Run("calls in subgraphs", func(t *testing.T) {
		m := callingModel()
		inner := m.Graph.Nodes[0]
		m.Graph.Nodes = []*onnx.Node{
			{OpType: "Constant", Outputs: []string{"c"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("value_int", 1)}},
			{OpType: "Cast", Inputs: []string{"c"}, Outputs: []string{"cond"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Bool))}},
			{OpType: "If", Inputs: []string{"cond"}, Outputs: []string{"b"}, Attributes: []*onnx.Attribute{
				onnx.GraphAttribute("then_branch", &onnx.Graph{Name: "t", Outputs: []*onnx.ValueInfo{{Name: "u"}},
					Nodes: []*onnx.Node{{Domain: "local", OpType: "f", Inputs: []string{"a"}, Outputs: []string{"u"}}}}),
				onnx.GraphAttribute("else_branch", &onnx.Graph{Name: "e", Outputs: []*onnx.ValueInfo{{Name: "v"}},
					Nodes: []*onnx.Node{{Domain: inner.Domain, OpType: inner.OpType, Inputs: []string{"a"}, Outputs: []string{"v"}}}}),
			}},
		}
		if err := m.Inline(never); err != nil {
			t.Fatal(err)
		}
		for _, g := range m.Graph.Nodes[2].Subgraphs() {
			if len(g.Nodes) != 2 || g.Nodes[1].OpType != "Pow" {
				t.Errorf("branch %s has %d nodes", g.Name, len(g.Nodes))
			}
		}
		if err := onnx.Check(m); err != nil {
			t.Error(err)
		}
	})
	t.Run("kept calls keep their function", func(t *testing.T) {
		m := callingModel()
		if err := m.Inline(func(*onnx.Node) bool { return true }); err != nil {
			t.Fatal(err)
		}
		if len(m.Functions) != 1 || m.Graph.Nodes[0].OpType != "f" {
			t.Errorf("%d functions, node %s", len(m.Functions), m.Graph.Nodes[0].OpType)
		}
	})
	t.Run("another operator set is refused", func(t *testing.T) {
		m := callingModel()
		m.Functions[0].OpsetImports[0].Version = 13
		if err := m.Inline(never); err == nil || !strings.Contains(err.Error(), "version 13") {
			t.Errorf("got %v", err)
		}
	})
}
