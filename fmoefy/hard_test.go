package fmoefy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestNodeNames: files may name no node, or all alike. FMoE nodes have names
// of their own in any case.
func TestNodeNames(t *testing.T) {
	for _, name := range []string{"", "node"} {
		t.Run(fmt.Sprintf("all named %q", name), func(t *testing.T) {
			m := layers(newBuilder(17), 3)
			for _, n := range m.Graph.Nodes {
				n.Name = name
			}
			blocks := map[string]bool{}
			for _, b := range fmoefy.Find(m) {
				blocks[b.Name] = true
			}
			if len(blocks) != 3 {
				t.Errorf("%d names of blocks, want 3", len(blocks))
			}
			names := map[string]bool{}
			for _, n := range upcycle(t, m, 3, 1e-5).Graph.Nodes {
				if n.OpType == moe.OpType {
					names[n.Name] = true
				}
			}
			if len(names) != 3 || names[""] || names[name] {
				t.Errorf("FMoE nodes are named %v", names)
			}
		})
	}
}

// TestRanks: FMoE takes tokens in any number of dimensions.
func TestRanks(t *testing.T) {
	for _, dims := range [][]int{{dModel}, {5, dModel}, {2, 3, dModel}, {2, 2, 3, dModel}} {
		t.Run(fmt.Sprint(dims), func(t *testing.T) {
			b := newBuilder(17)
			var declared []onnx.Dim
			for i := range dims[:len(dims)-1] {
				declared = append(declared, onnx.Dim{Param: fmt.Sprint("axis", i)})
			}
			declared = append(declared, onnx.Dim{Known: true, Value: dModel})
			x := b.input("x", declared...)
			y := b.op("Add", x, b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel))
			b.graph.Outputs = append(b.graph.Outputs, valueInfo(y, onnx.Float32, declared...))
			rewritten, _ := rewrite(t, b.model, fmoefy.Options{NumExperts: 4})
			random, values := rand.New(rand.NewPCG(5, 6)), make([]float32, tensor.Count(dims))
			for i := range values {
				values[i] = float32(random.NormFloat64())
			}
			output := func(m *onnx.Model) *tensor.Tensor {
				s, err := runtime.New(m, runtime.Options{Threads: 1})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				out, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x": tensor.FromSlice(values, dims...)})
				if err != nil {
					t.Fatal(err)
				}
				return out[y]
			}
			want := output(b.model)
			for _, m := range []*onnx.Model{rewritten, decomposed(rewritten)} {
				if d, err := tensor.Compare(output(m), want, 1e-5, 1e-5); err != nil || d.Failures > 0 {
					t.Errorf("%d elements differ, by up to %g (%v)", d.Failures, d.MaxAbs, err)
				}
			}
		})
	}
}

// TestStaleValueInfo: what a file states of values that go is dropped, wrong
// or not; what it states of others stays.
func TestStaleValueInfo(t *testing.T) {
	m := layers(newBuilder(17), 2)
	wrong := onnx.Dim{Known: true, Value: 99}
	var residual string
	for _, n := range m.Graph.Nodes {
		if out := n.Outputs[0]; n.OpType == "Relu" || n.OpType == "MatMul" {
			m.Graph.ValueInfo = append(m.Graph.ValueInfo, valueInfo(out, onnx.Float64, wrong))
		} else if n.OpType == "Add" && residual == "" && n.Inputs[0] == "x" {
			residual = out
			m.Graph.ValueInfo = append(m.Graph.ValueInfo, valueInfo(out, onnx.Float32, onnx.Dim{Param: "batch"}, onnx.Dim{Param: "sequence"}, onnx.Dim{Known: true, Value: dModel}))
		}
	}
	m.Graph.ValueInfo = append(m.Graph.ValueInfo, valueInfo("gone already", onnx.Float32, wrong))
	rewritten := upcycle(t, m, 2, 1e-5)
	made := []string{"gone already"}
	for _, n := range rewritten.Graph.Nodes {
		made = append(made, n.Outputs...)
	}
	kept := false
	for _, v := range rewritten.Graph.ValueInfo {
		if !slices.Contains(made, v.Name) {
			t.Errorf("the file states a type of %q, which nothing makes", v.Name)
		}
		kept = kept || v.Name == residual
	}
	if !kept {
		t.Errorf("the type of %q, which stays, is gone", residual)
	}
}

// TestSkipNormsChained is how ONNX Runtime's optimiser leaves a Transformer:
// each norm adds the residual and the second bias of the block before it, in
// either order of its inputs, and hands on the sum.
func TestSkipNormsChained(t *testing.T) {
	for _, opType := range []string{"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"} {
		for _, blockFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, block first %v", opType, blockFirst), func(t *testing.T) {
				b := newBuilder(17)
				residual := b.tokens()
				norm := b.op("LayerNormalization", residual, b.weight(dModel), b.weight(dModel))
				for range 3 {
					h := b.contrib("FastGelu", b.op("MatMul", norm, b.weight(dModel, dHidden)), b.weight(dHidden))
					inputs := []any{b.op("MatMul", h, b.weight(dHidden, dModel)), residual, b.weight(dModel)}
					if !blockFirst {
						inputs[0], inputs[1] = inputs[1], inputs[0]
					}
					if opType == "SkipLayerNormalization" {
						inputs = append(inputs, b.weight(dModel)) // beta
					}
					n := b.node("com.microsoft", opType, append(inputs, b.weight(dModel))...)
					n.Outputs = append(n.Outputs, "", "", b.name("sum"))
					norm, residual = n.Outputs[0], n.Outputs[3]
				}
				b.output(norm)
				rewritten := upcycle(t, b.model, 3, 1e-5)
				for _, n := range rewritten.Graph.Nodes {
					if n.OpType == moe.OpType && n.Input(moe.InputFC2Bias) != "" {
						t.Error("the norm's bias is in the experts too")
					}
				}
			})
		}
	}
}

// TestShapeArithmetic: a shape that is computed from itself many times over,
// or in a circle, takes no more time than another.
func TestShapeArithmetic(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	h := b.op("Relu", b.linear(x, dModel, dHidden))
	n := b.op("Gather", b.op("Shape", h), b.ints(0))
	for range 60 {
		n = b.op("Add", n, n)
	}
	h = b.op("Reshape", h, b.op("Concat", n, b.ints(-1, dHidden), intAttribute("axis", 0)))
	m := b.residual(x, b.op("Reshape", b.linear(h, dHidden, dModel), b.op("Shape", x)))
	if blocks := fmoefy.Find(m); len(blocks) != 1 {
		t.Errorf("%d blocks, want 1", len(blocks))
	}

	cyclic := newBuilder(17)
	y := cyclic.tokens()
	sum := cyclic.node("", "Add", "later", "later")
	cut := cyclic.op("Slice", sum.Outputs[0], cyclic.ints(0), sum.Outputs[0])
	cyclic.node("", "Cast", cut, intAttribute("to", int64(onnx.Int64))).Outputs[0] = "later"
	rows := cyclic.op("Reshape", cyclic.op("Relu", cyclic.linear(y, dModel, dHidden)), cut)
	_ = fmoefy.Find(cyclic.residual(y, cyclic.linear(rows, dHidden, dModel)))
}
