package fmoefy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// mixture is the FMoE node of a test graph.
type mixture struct {
	activation moe.Activation
	gated      bool
	biases     bool
	overAll    bool // softmax over all experts
	hidden     int  // dHidden where it is 0
	kind       onnx.DataType
}

// build returns a model with one FMoE node of four different experts.
func (x mixture) build() *onnx.Model {
	b := newBuilder(17)
	if x.kind != onnx.Undefined {
		b.kind = x.kind
	}
	h := dHidden
	if x.hidden > 0 {
		h = x.hidden
	}
	tokens := b.tokens()
	inputs := []any{tokens, b.weight(dModel, 4), "", b.weight(4, h, dModel), "", b.weight(4, dModel, h), ""}
	if x.biases {
		inputs[moe.InputGateBias], inputs[moe.InputFC1Bias], inputs[moe.InputFC2Bias] = b.weight(4), b.weight(4, h), b.weight(4, dModel)
	}
	if x.gated {
		inputs = append(inputs, b.weight(4, h, dModel)) // without a bias, even if fc1 has one
	}
	config := moe.NaiveConfig(2, x.activation)
	config.Normalize = !x.overAll
	for _, a := range config.Encode() {
		inputs = append(inputs, a)
	}
	y := b.node(moe.Domain, moe.OpType, inputs...).Outputs[0]
	b.model.OpsetImports = append(b.model.OpsetImports, onnx.OpsetImport{Domain: moe.Domain, Version: moe.Version})
	return b.residual(tokens, y)
}

func operators(m *onnx.Model) []string {
	var list []string
	for _, n := range m.Graph.Nodes {
		list = append(list, strings.Trim(n.Domain+"::"+n.OpType, ":"))
	}
	return list
}

func TestExport(t *testing.T) {
	for name, x := range map[string]mixture{
		"plain":                {activation: moe.ReLU},
		"identity":             {activation: moe.Identity, biases: true},
		"approximated GELU":    {activation: moe.GELUTanh, biases: true},
		"softmax over all":     {activation: moe.SiLU, overAll: true},
		"gated":                {activation: moe.SiLU, gated: true},
		"gated by quick GELU":  {activation: moe.QuickGELU, gated: true, biases: true},
		"as wide as the model": {activation: moe.SiLU, hidden: dModel, biases: true},
		"gated, as wide":       {activation: moe.SiLU, hidden: dModel, gated: true},
		"twice as wide, gated": {activation: moe.SiLU, hidden: 2 * dModel, gated: true},
		"half precision":       {activation: moe.SiLU, gated: true, biases: true, kind: onnx.Float16},
	} {
		t.Run(name, func(t *testing.T) {
			m, tolerance := x.build(), 1e-5
			if x.kind == onnx.Float16 {
				tolerance = 1e-2
			}
			for _, target := range fmoefy.Targets {
				exported := m.Clone()
				n, err := fmoefy.Export(exported, fmoefy.ExportOptions{Target: target})
				if err != nil || n != 1 {
					t.Fatalf("%s: %d nodes, %v", target, n, err)
				}
				compare(t, exported, m, tolerance)
				operators := operators(exported)
				for operator, want := range map[string]bool{"ai.fmoe::FMoE": target == fmoefy.Portable, "com.microsoft::MoE": target == fmoefy.ONNXRuntime} {
					if slices.Contains(operators, operator) != want {
						t.Errorf("%s: operators %v", target, operators)
					}
				}
				if target == fmoefy.Portable {
					compare(t, decomposed(exported), m, tolerance)
				} else if len(exported.Functions) != 0 {
					t.Errorf("%s: functions remain", target)
				}

				// What was exported without FMoE comes back.
				if target != fmoefy.ONNXRuntime {
					continue
				}
				list, err := fmoefy.Import(exported, fmoefy.ImportOptions{})
				if err != nil || len(list) != 1 || list[0].Reason != "" {
					t.Fatalf("imported %+v, %v", list, err)
				}
				got := list[0]
				if got.Activation != x.activation || got.Gated != x.gated || got.Normalize == x.overAll || got.Experts != 4 || got.TopK != 2 {
					t.Errorf("imported %+v", got)
				}
				if mixtures(exported) != 1 || slices.Contains(onnxDomains(exported), "com.microsoft") {
					t.Errorf("after the import: %v", onnxDomains(exported))
				}
				compare(t, exported, m, tolerance)
				compare(t, decomposed(exported), m, tolerance)
			}
		})
	}
}

func onnxDomains(m *onnx.Model) []string {
	var list []string
	for _, n := range m.Graph.Nodes {
		list = append(list, n.Domain)
	}
	return list
}

func TestExportRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		mixture mixture
		want    string
	}{
		{"GELU", mixture{activation: moe.GELU}, "--allow-gelu-approximation"},
		{"another activation", mixture{activation: moe.Mish}, "activation mish"},
		{"another gated activation", mixture{activation: moe.GELUTanh, gated: true}, "no gated experts with activation gelu_tanh"},
		{"double precision", mixture{activation: moe.SiLU, kind: onnx.Float64}, "does not compute in float64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := test.mixture.build()
			before := operators(m)
			if _, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: fmoefy.ONNXRuntime}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if !slices.Equal(operators(m), before) {
				t.Error("the model changed")
			}
			if _, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: fmoefy.Standard}); err != nil {
				t.Error(err)
			}
		})
	}
	gelu := mixture{activation: moe.GELU}.build()
	want := gelu.Clone()
	if _, err := fmoefy.Export(gelu, fmoefy.ExportOptions{Target: fmoefy.ONNXRuntime, AllowGELUApproximation: true}); err != nil {
		t.Fatal(err)
	}
	compare(t, gelu, want, 0.02)
	if _, err := fmoefy.Export(newBuilder(17).model, fmoefy.ExportOptions{}); err == nil {
		t.Error("exported a model without FMoE nodes")
	}
}

// TestRewriteForTargets checks that experts with noise are the same for every
// target.
func TestRewriteForTargets(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	gate := b.linear(x, dModel, dHidden)
	hidden := b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), b.op("MatMul", x, b.weight(dModel, dHidden)))
	m := b.residual(x, b.linear(hidden, dHidden, dModel))
	var first *onnx.Model
	for _, target := range fmoefy.Targets {
		w := m.Clone()
		report, err := fmoefy.Rewrite(w, fmoefy.Options{NumExperts: 4, Init: fmoefy.Noise, NoiseScale: 0.5, GateStd: 1, Target: target})
		if err != nil || report.Target != target {
			t.Fatalf("%s: %+v, %v", target, report, err)
		}
		if first == nil {
			first = w
		}
		compare(t, w, first, 1e-4)
		if again, err := onnx.Encode(w); err != nil {
			t.Error(err)
		} else if read, err := onnx.Decode(again); err != nil || len(read.Graph.Nodes) != len(w.Graph.Nodes) {
			t.Errorf("%s cannot be read again: %v", target, err)
		}
	}
}
