package fmoefy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// gates are every gate and what its function body depends on, for 6 experts.
var gates = []struct {
	name    string
	topK    int
	workers int
	options fmoefy.GateOptions
}{
	{"naive", 3, 1, fmoefy.GateOptions{}},
	{"naive, over all", 3, 1, fmoefy.GateOptions{Normalize: new(false)}},
	{"naive, biased", 2, 1, fmoefy.GateOptions{SelectionBias: new(true)}},
	{"naive, sigmoid", 2, 1, fmoefy.GateOptions{Scores: new(moe.ScoresSigmoid)}},
	{"naive, sigmoids as they are", 2, 1, fmoefy.GateOptions{Scores: new(moe.ScoresSigmoid), Normalize: new(false), SelectionBias: new(true)}},
	{"naive, one", 2, 1, fmoefy.GateOptions{Scores: new(moe.ScoresOne), RoutedScaling: new(0.5)}},
	{"naive, scaled", 2, 1, fmoefy.GateOptions{RoutedScaling: new(2.5)}},
	{"noisy", 2, 1, fmoefy.GateOptions{Gate: moe.GateNoisy}},
	{"zero", 3, 1, fmoefy.GateOptions{Gate: moe.GateZero, RoutedScaling: new(1.5)}},
	{"swipe", 3, 3, fmoefy.GateOptions{Gate: moe.GateSwipe}},
	{"topology", 0, 1, fmoefy.GateOptions{Gate: moe.GateTopology}},
	{"topology, nodes", 0, 3, fmoefy.GateOptions{Gate: moe.GateTopology, Fraction: new(0.3)}},
	{"topology, little across", 0, 6, fmoefy.GateOptions{Gate: moe.GateTopology, WorkersPerNode: new(3), Fraction: new(0.0)}},
	{"topology, all across", 0, 3, fmoefy.GateOptions{Gate: moe.GateTopology, Fraction: new(1.0)}},
	{"switch", 0, 1, fmoefy.GateOptions{Gate: moe.GateSwitch}},
	{"switch, little capacity", 0, 1, fmoefy.GateOptions{Gate: moe.GateSwitch, CapacityEval: new(0.7)}},
	{"switch, no limit", 0, 1, fmoefy.GateOptions{Gate: moe.GateSwitch, CapacityEval: new(float64(moe.Unlimited))}},
	{"gshard", 0, 1, fmoefy.GateOptions{Gate: moe.GateGShard}},
	{"gshard, little capacity", 0, 1, fmoefy.GateOptions{Gate: moe.GateGShard, CapacityEval: new(0.6)}},
	{"gshard, workers", 0, 3, fmoefy.GateOptions{Gate: moe.GateGShard, CapacityEval: new(0.8)}},
	{"gshard, large capacity", 0, 1, fmoefy.GateOptions{Gate: moe.GateGShard, CapacityEval: new(1e30)}},
	{"dc", 0, 1, fmoefy.GateOptions{Gate: moe.GateDC, CapacityEval: new(0.2)}},
	{"dc, workers", 0, 3, fmoefy.GateOptions{Gate: moe.GateDC, CapacityEval: new(0.4)}},
	{"sigmoid", 3, 1, fmoefy.GateOptions{Gate: moe.GateSigmoid}},
	{"sigmoid, groups", 3, 1, fmoefy.GateOptions{Gate: moe.GateSigmoid, Groups: new(3), TopGroups: new(2), SelectionBias: new(true), RoutedScaling: new(2.5)}},
	{"sigmoid, groups of one", 2, 1, fmoefy.GateOptions{Gate: moe.GateSigmoid, Groups: new(6), TopGroups: new(3), Normalize: new(false)}},
	{"expert choice", 1, 1, fmoefy.GateOptions{Gate: moe.GateExpertChoice}},
	{"expert choice, normalized", 2, 1, fmoefy.GateOptions{Gate: moe.GateExpertChoice, CapacityEval: new(0.9), Normalize: new(true)}},
	{"expert choice, sigmoid", 2, 1, fmoefy.GateOptions{Gate: moe.GateExpertChoice, Scores: new(moe.ScoresSigmoid), Normalize: new(true)}},
	{"expert choice, all", 1, 1, fmoefy.GateOptions{Gate: moe.GateExpertChoice, CapacityEval: new(float64(moe.Unlimited))}},
	{"expert choice, one", 1, 1, fmoefy.GateOptions{Gate: moe.GateExpertChoice, Scores: new(moe.ScoresOne)}},
	{"token rounding", 2, 1, fmoefy.GateOptions{Gate: moe.GateTokenRounding, Tile: new(4), SelectionBias: new(true)}},
}

// withGate returns a model of one FMoE node with a gate, whose 6 experts differ.
// A mask leaves out some of the 2 sequences of 11 tokens.
func withGate(t *testing.T, opset int64, kind onnx.DataType, mask bool, topK, workers int, o fmoefy.GateOptions) *onnx.Model {
	t.Helper()
	b := newBuilder(opset)
	b.kind = kind
	m := layers(b, 1)
	if mask {
		values := make([]int64, 22)
		for i := range values {
			values[i] = int64(i * i % 5)
		}
		o.TokenMask = b.initializer("token_mask", tensor.FromSlice(values, 2, 11))
	}
	m, _ = rewrite(t, m, fmoefy.Options{NumExperts: 6, TopK: topK, Workers: workers, GateOptions: o, Init: fmoefy.Noise, NoiseScale: 1, GateStd: 1})
	for i, w := range m.Graph.Initializers {
		if strings.HasSuffix(w.Name, ".selection_bias") {
			bias := tensor.New(w.DataType, 6)
			tensor.ConvertFloat(bias, tensor.FromSlice([]float64{0.5, -0.25, 0, 1, -1, 0.125}))
			m.Graph.Initializers[i] = bias.ToONNX(w.Name)
		}
	}
	return m
}

// TestGateBodies compares the function bodies of all gates, in operators of
// each era, with the kernel.
func TestGateBodies(t *testing.T) {
	for _, form := range []struct {
		opset     int64
		kind      onnx.DataType
		mask      bool
		tolerance float64
	}{
		{11, onnx.Float32, true, 1e-5},
		{12, onnx.Float64, false, 1e-12},
		{13, onnx.Float16, true, 1e-2},
		{21, onnx.Float32, false, 1e-5},
	} {
		for _, c := range gates {
			t.Run(fmt.Sprintf("opset %d/%s", form.opset, c.name), func(t *testing.T) {
				m := withGate(t, form.opset, form.kind, form.mask, c.topK, c.workers, c.options)
				for _, length := range []int{11, 1, 0} {
					if form.mask && length != 11 || length == 0 && form.opset < 14 {
						continue // Reshape takes no zero there
					}
					compareOutputs(t, runSequences(t, decomposed(m), length), runSequences(t, m, length), form.tolerance)
				}
			})
		}
	}
}
