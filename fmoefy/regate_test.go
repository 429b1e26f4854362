package fmoefy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// regate returns a model with other gates.
func regate(t *testing.T, m *onnx.Model, o fmoefy.RegateOptions) (*onnx.Model, fmoefy.RegateReport) {
	t.Helper()
	m = m.Clone()
	report, err := fmoefy.Regate(m, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := onnx.Check(m); err != nil {
		t.Fatal(err)
	}
	return m, report
}

func fmoeNodes(m *onnx.Model) []*onnx.Node {
	return slices.DeleteFunc(slices.Clone(m.Graph.Nodes), func(n *onnx.Node) bool { return n.OpType != moe.OpType })
}

// TestRegate: a model that gets another gate is the model that was written
// with that gate, and gets back what it was; where the report says that the
// function is the same, it is, and otherwise it is not.
func TestRegate(t *testing.T) {
	naive := withGate(t, 17, onnx.Float32, false, 2, 1, fmoefy.GateOptions{})
	before := runSequences(t, naive, 11)
	for _, c := range gates {
		t.Run(c.name, func(t *testing.T) {
			o := c.options
			o.SelectionBias = nil // withGate gives it numbers
			if o.Gate == "" {
				o.Gate = moe.GateNaive
			}
			got, report := regate(t, naive, fmoefy.RegateOptions{TopK: c.topK, Workers: c.workers, GateOptions: o})
			want := withGate(t, 17, onnx.Float32, false, c.topK, c.workers, o)
			if string(encode(t, got)) != string(encode(t, want)) {
				t.Errorf("not the file that was written with the gate: %s\n%s", operators(got), operators(want))
			}
			after := runSequences(t, got, 11)
			same := true
			for name, x := range before {
				d, err := tensor.Compare(after[name], x, 1e-5, 1e-5)
				same = same && err == nil && d.Failures == 0
			}
			large := strings.Contains(c.name, "large") || strings.HasSuffix(c.name, "all across") || c.name == "gshard" // capacities that nothing exceeds here
			if report.Equal != same && !large {
				t.Errorf("the report says that the function is the same: %v, but that is %v", report.Equal, same)
			}
			back, _ := regate(t, got, fmoefy.RegateOptions{TopK: 2, Workers: 1, GateOptions: fmoefy.GateOptions{Gate: moe.GateNaive,
				Normalize: new(true), Scores: new(moe.ScoresSoftmax), RoutedScaling: new(1.0)}})
			if string(encode(t, back)) != string(encode(t, naive)) {
				t.Error("not what it was when it is made naive again")
			}
		})
	}
}

func TestRegateInputs(t *testing.T) {
	m, _ := rewrite(t, layers(newBuilder(17), 3), fmoefy.Options{NumExperts: 4, Init: fmoefy.Noise, NoiseScale: 1})
	inputs := func(m *onnx.Model, slot int) (list []string) {
		for _, n := range fmoeNodes(m) {
			list = append(list, n.Input(slot))
		}
		return list
	}
	noisy, report := regate(t, m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: moe.GateNoisy}, Include: []string{"1-2"}})
	if got := inputs(noisy, moe.InputNoiseWeight); got[0] != "" || got[1] == "" || got[2] == got[1] {
		t.Errorf("noise weights %q", got)
	}
	for i, n := range fmoeNodes(noisy) {
		c, err := moe.ParseConfig(n)
		if err != nil || c.Layer != i || (c.Gate == moe.GateNoisy) != (i > 0) {
			t.Errorf("node %d: %+v %v", i, c, err)
		}
	}
	if !report.Equal || report.Nodes[0].Reason != "not included" || len(report.Nodes[0].Changes) != 0 || len(report.Nodes[1].Changes) != 2 {
		t.Errorf("%+v", report)
	}
	if len(noisy.Functions) != 1 {
		t.Errorf("%d functions, want one: noise is in training only", len(noisy.Functions))
	}

	biased, report := regate(t, noisy, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: moe.GateSigmoid, SelectionBias: new(true)}, Exclude: []string{"0"}})
	if got := inputs(biased, moe.InputSelectionBias); got[0] != "" || got[1] == "" || report.Equal {
		t.Errorf("selection biases %q, equal %v", got, report.Equal)
	}
	for _, w := range biased.Graph.Initializers {
		if strings.HasSuffix(w.Name, "noise_weight") {
			t.Errorf("%s stays although nothing uses it", w.Name)
		}
	}
	plain, _ := regate(t, biased, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: moe.GateNaive}})
	biases := inputs(plain, moe.InputSelectionBias)
	plain, report = regate(t, plain, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{SelectionBias: new(false)}})
	if biases[1] == "" || inputs(plain, moe.InputSelectionBias)[1] != "" || !report.Equal {
		t.Errorf("selection biases %q; without zeros the function is the same: %v", biases, report.Equal)
	}
	plain.IRVersion = m.IRVersion // overloads needed a newer one
	if string(encode(t, plain)) != string(encode(t, m)) {
		t.Error("not what it was")
	}

	b := newBuilder(17)
	b.graph.Inputs = append(b.graph.Inputs, valueInfo("attention_mask", onnx.Int64, onnx.Dim{Param: "batch"}, onnx.Dim{Param: "sequence"}))
	m, _ = rewrite(t, layers(b, 2), fmoefy.Options{NumExperts: 4})
	masked, report := regate(t, m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{TokenMask: "attention_mask"}})
	if got := inputs(masked, moe.InputMask); got[0] == "" || got[0] != got[1] || report.Equal {
		t.Errorf("masks %q, equal %v", got, report.Equal)
	}
	compare(t, decomposed(masked), masked, 1e-5)
	compare(t, masked, m, 1e-5) // the mask is of ones
}

// TestRegateBranches: nodes in the branches of an If, which share a router,
// share its new inputs.
func TestRegateBranches(t *testing.T) {
	m, _ := rewrite(t, branches(), fmoefy.Options{NumExperts: 4, Init: fmoefy.Noise, NoiseScale: 1})
	noisy, report := regate(t, m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: moe.GateNoisy}})
	if len(report.Nodes) != 2 || !strings.HasSuffix(report.Nodes[1].Graph, ".else_branch") || !report.Equal {
		t.Errorf("%+v", report)
	}
	if n := len(noisy.Graph.Initializers) - len(m.Graph.Initializers); n != 1 {
		t.Errorf("%d initializers more, want one noise weight", n)
	}
	compare(t, noisy, m, 1e-6)
	one, report := regate(t, noisy, fmoefy.RegateOptions{TopK: 1, GateOptions: fmoefy.GateOptions{Gate: moe.GateSwitch}, Include: []string{"0"}})
	if report.Equal || report.Nodes[1].Gate != moe.GateNoisy || len(one.Functions) != 2 {
		t.Errorf("%+v", report)
	}
	compare(t, decomposed(one), one, 1e-5)
}

func TestRegateRefuses(t *testing.T) {
	m, _ := rewrite(t, layers(newBuilder(17), 1), fmoefy.Options{NumExperts: 4})
	other, _ := rewrite(t, layers(newBuilder(17), 1), fmoefy.Options{NumExperts: 4, Target: fmoefy.ONNXRuntime})
	for _, c := range []struct {
		model   *onnx.Model
		options fmoefy.RegateOptions
		message string
	}{
		{m, fmoefy.RegateOptions{TopK: 5}, "top_k is 5, more than the 4 experts"},
		{m, fmoefy.RegateOptions{TopK: 3, GateOptions: fmoefy.GateOptions{Gate: moe.GateGShard}}, "the gate gshard takes top_k 2 only"},
		{m, fmoefy.RegateOptions{TopK: 2, GateOptions: fmoefy.GateOptions{Gate: moe.GateSwitch}}, "the gate switch takes top_k 1 only"},
		{m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: moe.GateSwitch, CapacityEval: new(0.0)}}, "capacity_factor_eval is 0, must be above 0"},
		{m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: moe.GateSwitch, CapacityTrain: new(-2.0)}}, "capacity_factor_train is -2"},
		{m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{CapacityEval: new(2.0)}}, "does not go with the gate naive"},
		{m, fmoefy.RegateOptions{Workers: 3, GateOptions: fmoefy.GateOptions{Gate: moe.GateSwipe}}, "workers is 3, must divide"},
		{m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: "magic"}}, `gate "magic" is not known`},
		{m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{TokenMask: "nowhere"}}, `token mask "nowhere" is no value`},
		{m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{TokenMask: "x"}}, "has type float32, must be bool or integers"},
		{m, fmoefy.RegateOptions{TopK: 1, Include: []string{"7"}}, `"7" selects none of the 1 blocks`},
		{other, fmoefy.RegateOptions{TopK: 1}, "fmoefy import first"},
		{layers(newBuilder(17), 1), fmoefy.RegateOptions{TopK: 1}, "no FMoE node"},
	} {
		got := c.model.Clone()
		_, err := fmoefy.Regate(got, c.options)
		if err == nil || !strings.Contains(err.Error(), c.message) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want one line with %q", c.options, err, c.message)
		}
		if string(encode(t, got)) != string(encode(t, c.model)) {
			t.Errorf("%+v changed the model", c.options)
		}
	}
}

func init() {
	naive, _ := moe.KindOf(moe.GateNaive)
	moe.Register(moe.Kind{Name: "test.best", Summary: "the largest logits, as naive", New: naive.New})
}

// TestUserGate: a gate of another program has no function body, and its nodes
// do not call the one of others.
func TestUserGate(t *testing.T) {
	m, _ := rewrite(t, layers(newBuilder(17), 2), fmoefy.Options{NumExperts: 4, Init: fmoefy.Noise, NoiseScale: 1})
	user, report := regate(t, m, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: "test.best"}, Include: []string{"1"}})
	if report.Equal || report.Nodes[0].NoBody != "" || !strings.Contains(report.Nodes[1].NoBody, "test.best has no model-local function") {
		t.Errorf("%+v", report)
	}
	for i, n := range fmoeNodes(user) {
		if (user.Function(n) != nil) != (i == 0) {
			t.Errorf("node %d: function %v", i, user.Function(n))
		}
	}
	compare(t, user, m, 1e-6)
	for _, target := range []fmoefy.Target{fmoefy.Standard, fmoefy.ONNXRuntime} {
		if _, err := fmoefy.Export(user.Clone(), fmoefy.ExportOptions{Target: target}); err == nil || !strings.Contains(err.Error(), "test.best") {
			t.Errorf("%s: %v", target, err)
		}
	}
	_, written := rewrite(t, layers(newBuilder(17), 1), fmoefy.Options{NumExperts: 4, GateOptions: fmoefy.GateOptions{Gate: "test.best"}})
	if !strings.Contains(written.NoBody, "test.best") {
		t.Errorf("%+v", written)
	}
}

// TestExportGates: ONNX's operators stand for every gate, ONNX Runtime's
// mixtures for those that evaluate as it does.
func TestExportGates(t *testing.T) {
	for _, c := range gates {
		m := withGate(t, 17, onnx.Float32, false, c.topK, c.workers, c.options)
		standard := m.Clone()
		if _, err := fmoefy.Export(standard, fmoefy.ExportOptions{Target: fmoefy.Standard}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else {
			compareOutputs(t, runSequences(t, standard, 11), runSequences(t, m, 11), 1e-5)
		}
		_, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: fmoefy.ONNXRuntime})
		exact := slices.Contains([]string{"naive", "naive, over all", "noisy", "swipe", "topology", "switch, no limit"}, c.name)
		if (err == nil) != exact || err != nil && !strings.Contains(err.Error(), "target portable or standard") {
			t.Errorf("%s for ONNX Runtime: %v", c.name, err)
		}
	}
}
