package op

import (
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// TestInferFMoEGradient: gradients have the shapes and types of the inputs,
// and what a node keeps has a row for each slot that may be computed.
func TestInferFMoEGradient(t *testing.T) {
	f := func(t onnx.DataType, shape ...Dim) Fact { return Fact{Type: t, Shape: shape} }
	for _, c := range []struct {
		name   string
		gate   string
		x      Fact
		change map[int]Fact
		rows   Dim    // of the kept values
		absent []int  // gradients that there are none of
		fails  string // part of the error
	}{
		{name: "naive", gate: moe.GateNaive, x: f(onnx.Float32, 3, 10, 4), rows: 60},
		{name: "unknown tokens", gate: moe.GateNaive, x: f(onnx.Float32, -1, 4), rows: -1},
		{name: "experts choose", gate: moe.GateExpertChoice, x: f(onnx.Float32, 30, 4), rows: 64},
		{name: "rounded", gate: moe.GateTokenRounding, x: f(onnx.Float32, 3000, 4), rows: 6000 + 8*64},
		{name: "stored in fewer bits", gate: moe.GateNaive, x: f(onnx.Float32, 30, 4), rows: 60, absent: []int{moe.InputFC1Weight, moe.InputFC2Weight},
			change: map[int]Fact{moe.InputFC1Weight: f(onnx.BFloat16, 8, 16, 4), moe.InputFC2Weight: f(onnx.BFloat16, 8, 4, 16)}},
		{name: "other hidden values", gate: moe.GateNaive, x: f(onnx.Float32, 30, 4), change: map[int]Fact{moe.SavedHidden: f(onnx.Float32, 59, 16)}, fails: "has shape [59,16], needs [60,16]"},
		{name: "other type", gate: moe.GateNaive, x: f(onnx.Float32, 30, 4), change: map[int]Fact{moe.GradientY: f(onnx.Float64, 30, 4)}, fails: "has type float64, must be float32"},
		{name: "nothing kept", gate: moe.GateNaive, x: f(onnx.Float32, 30, 4), change: map[int]Fact{moe.SavedHidden: {}}, fails: "is there: false, must be true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := moe.DefaultConfig(c.gate)
			config.TopK = 2
			facts := make([]Fact, moe.GradientInputCount)
			facts[moe.InputX] = c.x
			facts[moe.InputGateWeight], facts[moe.InputGateBias] = f(c.x.Type, 4, 8), f(c.x.Type, 8)
			facts[moe.InputFC1Weight], facts[moe.InputFC2Weight] = f(c.x.Type, 8, 16, 4), f(c.x.Type, 8, 4, 16)
			for slot, fact := range c.change {
				if slot < moe.InputCount {
					facts[slot] = fact
				}
			}
			outputs := slices.Clone(moe.OutputNames[:])
			outputs[moe.OutputFactor] = ""
			kept, err := inferNode(moe.OpType, config, facts[:moe.InputCount], outputs)
			if err != nil {
				t.Fatal(err)
			}
			if rows := kept[moe.OutputHidden].Shape[0]; rows != c.rows && (c.rows >= 0 || rows.Known()) && c.fails == "" {
				t.Errorf("%d rows are kept, want %d", rows, c.rows)
			}
			facts[moe.GradientY], facts[moe.SavedRouterLogits], facts[moe.SavedHidden] = kept[moe.OutputY], kept[moe.OutputRouterLogits], kept[moe.OutputHidden]
			for slot, fact := range c.change {
				facts[slot] = fact
			}
			out, err := inferNode(moe.GradientOpType, config, facts, slices.Clone(moe.InputNames[:moe.GradientCount]))
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v, want one with %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range out {
				want := facts[i]
				if slices.Contains(c.absent, i) {
					want = Fact{}
				}
				if got.Type != want.Type || FormatDims(got.Shape) != FormatDims(want.Shape) {
					t.Errorf("the gradient by %s is %s%s, want %s%s", moe.InputNames[i], got.Type, FormatDims(got.Shape), want.Type, FormatDims(want.Shape))
				}
			}
		})
	}
}

func inferNode(opType string, config moe.Config, facts []Fact, outputs []string) ([]Fact, error) {
	n := &onnx.Node{Domain: moe.Domain, OpType: opType, Attributes: config.Encode(), Inputs: make([]string, len(facts)), Outputs: outputs}
	for i, f := range facts {
		if f.Type != onnx.Undefined {
			n.Inputs[i] = "input"
		}
	}
	node, err := Resolve(n, moe.Version)
	if err != nil {
		return nil, err
	}
	return Infer(node, facts, &Symbols{last: -100})
}
