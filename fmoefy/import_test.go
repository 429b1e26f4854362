package fmoefy_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// proving lets imports compare what they replace.
var proving = fmoefy.ImportOptions{Run: runModel}

func runModel(m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
	s, err := runtime.New(m, runtime.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Run(context.Background(), inputs)
}

// TestImportExports imports the mixtures of Hugging Face models and compares
// with ONNX Runtime's outputs for the exports.
func TestImportExports(t *testing.T) {
	want := map[string]fmoefy.Imported{
		"mixtral-modules":          {Normalize: true},
		"qwen2-moe-modules":        {},
		"olmoe-eager":              {},
		"qwen3-moe-batched-dynamo": {Normalize: true},
	}
	cases, err := devicetest.ReadCases(os.DirFS("testdata/mixtures"))
	if err != nil || len(cases) != len(want) {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			m, err := onnx.Decode(c.Model)
			if err != nil {
				t.Fatal(err)
			}
			list, err := fmoefy.Import(m, proving)
			if err != nil || len(list) != 1 {
				t.Fatalf("%+v, %v", list, err)
			}
			w := want[c.Name]
			w.Name, w.Graph, w.Form = list[0].Name, "main", fmoefy.Unrolled
			w.Experts, w.TopK, w.DModel, w.DHidden, w.Gated, w.Activation = 4, 2, 16, 12, true, moe.SiLU
			if list[0] != w || mixtures(m) != 1 {
				t.Errorf("got %+v, want %+v", list[0], w)
			}
			for _, n := range m.Graph.Nodes {
				if n.Is("TopK") || n.Is("NonZero") {
					t.Errorf("%s %q remains", n.OpType, n.Name)
				}
			}
			for _, version := range []*onnx.Model{m, decomposed(m)} {
				if c.Model, err = onnx.Encode(version); err != nil {
					t.Fatal(err)
				}
				c.Tolerance = devicetest.Tolerance{Relative: 1e-4, Absolute: 1e-4}
				if _, err := devicetest.Run(c, runtime.Options{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestImportStandard imports what the target standard writes: every expert
// computing every token.
func TestImportStandard(t *testing.T) {
	for name, x := range map[string]mixture{
		"plain":            {activation: moe.GELU},
		"biases":           {activation: moe.GELUTanh, biases: true},
		"gated":            {activation: moe.SiLU, gated: true},
		"gated and biased": {activation: moe.SiLU, gated: true, biases: true},
		"softmax over all": {activation: moe.ReLU, overAll: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := x.build()
			want := m.Clone()
			if _, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: fmoefy.Standard}); err != nil {
				t.Fatal(err)
			}
			list, err := fmoefy.Import(m, proving)
			if err != nil || mixtures(m) != 1 {
				t.Fatalf("%+v, %v", list, err)
			}
			if got := list[0]; got.Activation != x.activation || got.Gated != x.gated || got.Normalize == x.overAll {
				t.Errorf("got %+v", got)
			}
			compare(t, m, want, 1e-5)
		})
	}
}

// TestImportProves checks that what only looks like a mixture is left alone.
func TestImportProves(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(m *onnx.Model)
		want   string
	}{
		{"weights doubled", func(m *onnx.Model) { insert(m, "ReduceSum", "Add") }, "gives something else"},
		{"results squared", func(m *onnx.Model) { insert(m, "ReduceSum", "Mul") }, "gives something else"},
		{"last experts chosen", func(m *onnx.Model) {
			for _, n := range m.Graph.Nodes {
				if n.Is("TopK") {
					n.Attributes = append(n.Attributes, onnx.IntAttribute("largest", 0))
				}
			}
		}, "no mixture of experts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := mixture{activation: moe.SiLU, gated: true}.build()
			if _, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: fmoefy.Standard}); err != nil {
				t.Fatal(err)
			}
			test.change(m)
			if list, err := fmoefy.Import(m, proving); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %+v, error %v, want %q", list, err, test.want)
			}
			if mixtures(m) != 0 {
				t.Error("the model changed")
			}
		})
	}
}

// insert lets an operator combine each data operand of nodes with itself.
func insert(m *onnx.Model, before, opType string) {
	var nodes []*onnx.Node
	for _, n := range m.Graph.Nodes {
		if n.Is(before) {
			twice := &onnx.Node{OpType: opType, Inputs: []string{n.Inputs[0], n.Inputs[0]}, Outputs: []string{n.Inputs[0] + ".twice"}}
			nodes = append(nodes, twice)
			n.Inputs[0] = twice.Outputs[0]
		}
		nodes = append(nodes, n)
	}
	m.Graph.Nodes = nodes
}

// TestImportMicrosoft imports com.microsoft::MoE nodes in layouts that Export
// does not write.
func TestImportMicrosoft(t *testing.T) {
	text := onnx.StringAttribute
	build := func(router func(b *builder, x string) string, fc1, fc2 []int, fc3 bool, attributes ...any) *onnx.Model {
		b := newBuilder(17)
		x := b.input("x", onnx.Dim{Param: "batch"}, onnx.Dim{Param: "sequence"}, onnx.Dim{Known: true, Value: dModel})
		inputs := []any{x, router(b, x), b.weight(fc1...), "", b.weight(fc2...), ""}
		if fc3 {
			inputs = append(inputs, b.weight(fc1...))
		}
		return b.residual(x, b.contrib("MoE", append(inputs, append(attributes, intAttribute("k", 2))...)...))
	}
	gemm := func(b *builder, x string) string {
		flat := b.op("Reshape", x, b.ints(-1, dModel))
		return b.op("Gemm", flat, b.weight(4, dModel), b.weight(4), intAttribute("transB", 1))
	}
	for _, test := range []struct {
		name  string
		model *onnx.Model
		want  string // "" where it is imported
	}{
		{"in × out", build(gemm, []int{4, dModel, dHidden}, []int{4, dHidden, dModel}, false, text("activation_type", "gelu")), ""},
		{"in × out in turn", build(gemm, []int{4, dModel, 2 * dHidden}, []int{4, dHidden, dModel}, false, text("activation_type", "swiglu"), intAttribute("swiglu_fusion", 1)), ""},
		{"fc3", build(gemm, []int{4, dHidden, dModel}, []int{4, dModel, dHidden}, true, text("activation_type", "silu"), intAttribute("normalize_routing_weights", 1)), ""},
		{"SwiGLU in fc3", build(gemm, []int{4, dHidden, dModel}, []int{4, dModel, dHidden}, true, text("activation_type", "swiglu"), floatAttribute("activation_alpha", 1.702)), ""},
		{"limit", build(gemm, []int{4, 2 * dHidden, dModel}, []int{4, dModel, dHidden}, false, text("activation_type", "swiglu"), intAttribute("swiglu_fusion", 1), floatAttribute("swiglu_limit", 7)), "limits both to 7"},
		{"alpha", build(gemm, []int{4, 2 * dHidden, dModel}, []int{4, dModel, dHidden}, false, text("activation_type", "swiglu"), intAttribute("swiglu_fusion", 1), floatAttribute("activation_alpha", 2)), "alpha 2"},
		{"sparse mixer", build(gemm, []int{4, dHidden, dModel}, []int{4, dModel, dHidden}, false, intAttribute("use_sparse_mixer", 1)), "sparse mixer"},
		{"router with a softmax", build(func(b *builder, x string) string { return b.op("Softmax", gemm(b, x)) }, []int{4, dHidden, dModel}, []int{4, dModel, dHidden}, false), "no linear layer"},
		{"router of something else", build(func(b *builder, x string) string { return gemm(b, b.op("Relu", x)) }, []int{4, dHidden, dModel}, []int{4, dModel, dHidden}, false), "its router takes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			original := test.model.Clone()
			list, err := fmoefy.Import(test.model, fmoefy.ImportOptions{})
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || mixtures(test.model) != 0 {
					t.Errorf("%+v, error %v, want %q", list, err, test.want)
				}
				return
			}
			if err != nil || mixtures(test.model) != 1 || len(list) != 1 || list[0].Form != fmoefy.Microsoft {
				t.Fatalf("%+v, %v", list, err)
			}
			compare(t, test.model, original, 1e-5)
		})
	}
}

func TestImportKeepsSharedNames(t *testing.T) {
	m := mixture{activation: moe.ReLU}.build()
	if _, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: fmoefy.ONNXRuntime}); err != nil {
		t.Fatal(err)
	}
	before := len(m.Graph.Initializers)
	if _, err := fmoefy.Import(m, fmoefy.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := len(m.Graph.Initializers); after > before {
		t.Errorf("weights of plain experts were copied: %d initializers, %d before", after, before)
	}
	file := filepath.Join(t.TempDir(), "moe.onnx")
	if err := onnx.WriteFile(file, m, onnx.WriteOptions{}); err != nil {
		t.Error(err)
	}
}
