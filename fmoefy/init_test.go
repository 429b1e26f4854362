package fmoefy_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// initCases are options of every init, with what the report promises.
var initCases = []struct {
	name    string
	options fmoefy.Options
	kept    bool
}{
	{"copy", fmoefy.Options{}, true},
	{"copy with zero router", fmoefy.Options{GateInit: fmoefy.GateZeros}, true},
	{"noise", fmoefy.Options{Init: fmoefy.Noise, NoiseScale: 0.5}, false},
	{"drop", fmoefy.Options{Init: fmoefy.Drop}, false},
	{"virtual-group", fmoefy.Options{Init: fmoefy.VirtualGroup}, true},
	{"virtual-group of 5", fmoefy.Options{Init: fmoefy.VirtualGroup, NumExperts: 15, Granularity: 5}, true},
	{"virtual-group with zero router", fmoefy.Options{Init: fmoefy.VirtualGroup, TopK: 2, GateInit: fmoefy.GateZeros}, true},
	{"split", fmoefy.Options{Init: fmoefy.Split, NumExperts: 5}, false},
	{"split, all parts", fmoefy.Options{Init: fmoefy.Split, NumExperts: 5, TopK: 5}, true},
	{"random", fmoefy.Options{Init: fmoefy.Random, RandomStd: 0.5}, false},
}

// blockForms are MLPs of every kind.
var blockForms = []struct {
	name  string
	write func(b *builder, x string) string
}{
	{"plain", func(b *builder, x string) string {
		return b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel)
	}},
	{"plain without biases", func(b *builder, x string) string {
		return b.op("MatMul", b.op("Relu", b.op("MatMul", x, b.weight(dModel, dHidden))), b.weight(dHidden, dModel))
	}},
	{"plain out × in", func(b *builder, x string) string {
		transposed := func(out, in int) string {
			return b.op("Transpose", b.weight(out, in), onnx.IntsAttribute("perm", 1, 0))
		}
		return b.op("MatMul", b.op("Relu", b.op("MatMul", x, transposed(dHidden, dModel))), transposed(dModel, dHidden))
	}},
	{"gated", func(b *builder, x string) string {
		gate := b.op("Sigmoid", b.linear(x, dModel, dHidden))
		return b.linear(b.op("Mul", gate, b.linear(x, dModel, dHidden)), dHidden, dModel)
	}},
	{"gated without biases", func(b *builder, x string) string {
		gate := b.op("Sigmoid", b.op("MatMul", x, b.weight(dModel, dHidden)))
		return b.op("MatMul", b.op("Mul", gate, b.op("MatMul", x, b.weight(dModel, dHidden))), b.weight(dHidden, dModel))
	}},
	{"gated-fused", func(b *builder, x string) string {
		halves := b.node("", "Split", b.linear(x, dModel, 2*dHidden), b.ints(dHidden, dHidden), intAttribute("axis", 2))
		halves.Outputs = append(halves.Outputs, b.name("v"))
		return b.linear(b.op("Mul", b.op("Sigmoid", halves.Outputs[0]), halves.Outputs[1]), dHidden, dModel)
	}},
}

// TestInits: with every init, for every kind of block and in every type, the
// rewritten model computes what the report promises, and its function body the
// same.
func TestInits(t *testing.T) {
	for kind, tolerance := range map[onnx.DataType]float64{onnx.Float32: 1e-4, onnx.Float16: 3e-2, onnx.BFloat16: 2e-1} {
		for _, form := range blockForms {
			for _, c := range initCases {
				for _, shared := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%s/shared expert %v", kind, form.name, c.name, shared), func(t *testing.T) {
						b := newBuilder(17)
						b.kind = kind
						x := b.tokens()
						m := b.residual(x, form.write(b, x))
						o := c.options
						if o.NumExperts == 0 {
							o.NumExperts = 4
						}
						o.SharedExpert = shared
						if shared {
							o.SharedWeight = 0.25
						}
						rewritten, report := rewrite(t, m, o)
						if report.Equal != c.kept || report.Approximate || report.Why == "" {
							t.Errorf("the report promises %v, %v: %s", report.Equal, report.Approximate, report.Why)
						}
						if c.kept {
							compare(t, rewritten, m, tolerance)
							compare(t, decomposed(rewritten), m, tolerance)
						} else {
							compare(t, decomposed(rewritten), rewritten, tolerance)
							if distance(t, rewritten, m) < 1e-3 {
								t.Error("the function is the same although the report does not say so")
							}
						}
					})
				}
			}
		}
	}
}

// TestStoredInits: the promises of inits hold for experts in fewer bits.
func TestStoredInits(t *testing.T) {
	for storage, nearly := range map[fmoefy.Storage]float64{"int8": 0.03, "bf16": 0.02} {
		for _, c := range initCases {
			for _, form := range blockForms {
				b := newBuilder(17)
				x := b.tokens()
				m := b.residual(x, form.write(b, x))
				o := c.options
				o.ExpertWeights, o.SharedExpert = storage, true
				if o.NumExperts == 0 {
					o.NumExperts = 4
				}
				rewritten, report := rewrite(t, m, o)
				compare(t, decomposed(rewritten), rewritten, 1e-4)
				if report.Equal || report.Approximate != c.kept || (report.WeightError > 0) != c.kept {
					t.Errorf("%s of %s as %s: reported as %v, %v: %s", c.name, form.name, storage, report.Equal, report.Approximate, report.Why)
				}
				if d := distance(t, rewritten, m); c.kept && d > nearly {
					t.Errorf("%s of %s as %s: results differ by %g", c.name, form.name, storage, d)
				}
			}
		}
	}
}

// TestInitsOfSharedWeights: blocks that share their weights share experts, or
// have their own.
func TestInitsOfSharedWeights(t *testing.T) {
	for _, c := range initCases {
		for _, separate := range []bool{false, true} {
			o := c.options
			o.SeparateShared, o.SharedExpert = separate, true
			if o.NumExperts == 0 {
				o.NumExperts = 4
			}
			rewritten, report := rewrite(t, repeated(), o)
			compare(t, decomposed(rewritten), rewritten, 1e-3)
			if c.kept {
				compare(t, rewritten, repeated(), 1e-3)
			}
			if shares := report.Blocks[1].SharesWith != ""; shares == separate {
				t.Errorf("%s: the second block shares experts: %v", c.name, shares)
			}
		}
	}
}

// TestPromisesOfGates: where the report promises the same function with a gate,
// it is the same. Of gates that users registered it promises nothing.
func TestPromisesOfGates(t *testing.T) {
	m := layers(newBuilder(17), 2)
	kept := map[string]bool{}
	for _, gate := range moe.Gates() {
		for _, init := range []fmoefy.Init{fmoefy.Copy, fmoefy.VirtualGroup} {
			for _, k := range []int{1, 2, 4} {
				rewritten := m.Clone()
				report, err := fmoefy.Rewrite(rewritten, fmoefy.Options{NumExperts: 8, TopK: k, Init: init, GateStd: 1, GateOptions: fmoefy.GateOptions{Gate: gate}})
				if err != nil {
					continue // the gate takes another k
				}
				if report.Equal {
					kept[gate] = true
					compare(t, rewritten, m, 1e-4)
				}
			}
		}
	}
	if !kept[moe.GateNaive] || !kept[moe.GateNoisy] || kept[moe.GateExpertChoice] || kept["test.best"] {
		t.Errorf("gates that keep the function: %v", kept)
	}
}

// values returns the elements of an input of the only FMoE node of a model.
func values(t *testing.T, m *onnx.Model, slot int) (dims []int64, list []float64) {
	t.Helper()
	node := m.Graph.Nodes[slices.IndexFunc(m.Graph.Nodes, func(n *onnx.Node) bool { return n.OpType == moe.OpType })]
	w := m.Graph.Initializer(node.Input(slot))
	x, err := tensor.FromONNX(w)
	if err != nil {
		t.Fatal(err)
	}
	if list, err = tensor.Float64s(x); err != nil {
		t.Fatal(err)
	}
	return w.Dims, list
}

// TestDrop: the share of a dropped expert's hidden columns that was asked for
// starts anew, the same columns in all weights and biases and others in every
// expert, with the statistics of what was there; the rest stays.
func TestDrop(t *testing.T) {
	const d, h, experts = 96, 200, 3
	for _, ratio := range []float64{0.25, 0.5, 1} {
		b := newBuilder(17)
		x := b.input("x", onnx.Dim{Param: "n"}, onnx.Dim{Param: "s"}, onnx.Dim{Known: true, Value: d})
		gate := b.op("Sigmoid", b.linear(x, d, h))
		m := b.residual(x, b.linear(b.op("Mul", gate, b.linear(x, d, h)), h, d))
		copied, _ := rewrite(t, m, fmoefy.Options{NumExperts: experts})
		dropped, report := rewrite(t, m, fmoefy.Options{NumExperts: experts, Init: fmoefy.Drop, DropRatio: ratio, Seed: 3})
		if want := fmt.Sprintf("%g %% of every expert's hidden columns start anew", 100*ratio); report.Equal || report.Why != want {
			t.Errorf("the report says %v: %s", report.Equal, report.Why)
		}
		var columns [experts][]int // those that fc1_weight drops
		for _, slot := range []int{moe.InputFC1Weight, moe.InputFC1Bias, moe.InputFC2Weight, moe.InputFC2Bias, moe.InputFC3Weight, moe.InputFC3Bias} {
			_, old := values(t, copied, slot)
			_, list := values(t, dropped, slot)
			n := len(list) / experts
			column := func(i int) int { return i / (n / h) }
			if slot == moe.InputFC2Weight {
				column = func(i int) int { return i % h }
			}
			for e := range experts {
				if slot == moe.InputFC2Bias {
					if !slices.Equal(list[e*n:(e+1)*n], old[:n]) {
						t.Error("the second projection's bias has changed")
					}
					continue
				}
				changed := [h]int{}
				var was, is []float64
				for i, v := range list[e*n : (e+1)*n] {
					if v != old[i] {
						changed[column(i)]++
						was, is = append(was, old[i]), append(is, v)
					}
				}
				var list []int
				for c, count := range changed {
					if count > 0 {
						list = append(list, c)
					}
					if count != 0 && count != n/h {
						t.Errorf("%s, expert %d: %d of %d elements of column %d have changed", moe.InputNames[slot], e, count, n/h, c)
					}
				}
				if slot == moe.InputFC1Weight {
					columns[e] = list
				}
				if len(list) != int(ratio*h) || !slices.Equal(list, columns[e]) {
					t.Errorf("%s, expert %d: %d columns have changed, of fc1_weight %d, want %g of %d", moe.InputNames[slot], e, len(list), len(columns[e]), ratio, h)
				}
				if len(is) > 1000 {
					meanWas, stdWas := statistics(was)
					meanIs, stdIs := statistics(is)
					if math.Abs(meanIs-meanWas) > 0.1*stdWas || math.Abs(stdIs-stdWas) > 0.05*stdWas {
						t.Errorf("%s, expert %d: N(%g, %g) where N(%g, %g) was", moe.InputNames[slot], e, meanIs, stdIs, meanWas, stdWas)
					}
				}
			}
		}
		if ratio < 1 && (slices.Equal(columns[0], columns[1]) || slices.Equal(columns[1], columns[2])) {
			t.Error("two experts drop the same columns")
		}
	}
}

func statistics(list []float64) (mean, std float64) {
	for _, x := range list {
		mean += x / float64(len(list))
	}
	for _, x := range list {
		std += (x - mean) * (x - mean) / float64(len(list))
	}
	return mean, math.Sqrt(std)
}

// TestVirtualGroups: experts of a group are the shards of the MLP in turn, and
// the router scores them alike.
func TestVirtualGroups(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	m := b.residual(x, b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel))
	dense, _ := rewrite(t, m, fmoefy.Options{NumExperts: 1})
	groups, report := rewrite(t, m, fmoefy.Options{NumExperts: 15, Init: fmoefy.VirtualGroup, Granularity: 5, TopK: 5})
	if report.TopK != 5 {
		t.Errorf("top-%d", report.TopK)
	}
	const width = dHidden / 5
	for slot, want := range map[int]struct {
		dims []int64
		of   func(expert, i int) (float64, int) // the dense element that an expert's element is, and how often
	}{
		moe.InputFC1Weight: {[]int64{15, width, dModel}, func(e, i int) (float64, int) { return 1, e%5*width*dModel + i }},
		moe.InputFC1Bias:   {[]int64{15, width}, func(e, i int) (float64, int) { return 1, e%5*width + i }},
		moe.InputFC2Weight: {[]int64{15, dModel, width}, func(e, i int) (float64, int) { return 5, i/width*dHidden + e%5*width + i%width }},
		moe.InputFC2Bias:   {[]int64{15, dModel}, func(_, i int) (float64, int) { return 1, i }},
	} {
		_, old := values(t, dense, slot)
		dims, list := values(t, groups, slot)
		if !slices.Equal(dims, want.dims) {
			t.Errorf("%s has dims %v, want %v", moe.InputNames[slot], dims, want.dims)
			continue
		}
		for i, v := range list {
			times, at := want.of(i/(len(list)/15), i%(len(list)/15))
			if math.Abs(v-times*old[at]) > 1e-5 {
				t.Fatalf("%s: element %d is %g, want %g × %g", moe.InputNames[slot], i, v, times, old[at])
			}
		}
	}
	_, router := values(t, groups, moe.InputGateWeight)
	for i, v := range router {
		if first := router[i/5*5]; v != first || i%15 >= 5 && v == router[i/15*15] {
			t.Fatalf("router: column %d has %g, the first of its group %g, the first of all %g", i%15, v, first, router[i/15*15])
		}
	}

	_, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 8, Init: fmoefy.VirtualGroup, Granularity: 4})
	if err == nil || !strings.Contains(err.Error(), "its hidden width 10 cannot be cut into 4 equal shards") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a hidden width of 10 in 4 shards: %v", err)
	}
}

// TestSharedExpert: the MLP stays, weighted, and is not replaced again.
func TestSharedExpert(t *testing.T) {
	m := layers(newBuilder(17), 2)
	before := encode(t, m)
	rewritten, report := rewrite(t, m, fmoefy.Options{NumExperts: 4, SharedExpert: true})
	if !bytes.Equal(encode(t, m), before) {
		t.Error("rewriting a copy changed the original")
	}
	dense := int64(2*dModel*dHidden + dModel + dHidden)
	if b := report.Blocks[0]; b.ParametersAfter != 5*dense+4*dModel || b.ParametersActive != 3*dense+4*dModel {
		t.Errorf("parameters %d, %d active", b.ParametersAfter, b.ParametersActive)
	}
	if report.ParametersAfter != 2*(5*dense+4*dModel) || report.ParametersActive != 2*(3*dense+4*dModel) || report.SharedWeight != 0.5 {
		t.Errorf("%+v", report)
	}
	for _, b := range fmoefy.Find(rewritten) {
		if !strings.Contains(b.Refused, "already") {
			t.Errorf("block %s of the rewritten model: %q", b.Name, b.Refused)
		}
	}
	for _, target := range []fmoefy.Target{fmoefy.Standard, fmoefy.ONNXRuntime} {
		exported, _ := rewrite(t, m, fmoefy.Options{NumExperts: 4, SharedExpert: true, Target: target})
		compare(t, exported, m, 1e-4)
	}
}

// TestCalibratedSplit: a block fitted to data is nearer to the MLP on them than
// one divided by its weights alone, and equal to it where all parts are chosen.
func TestCalibratedSplit(t *testing.T) {
	for _, form := range blockForms {
		b := newBuilder(17)
		x := b.tokens()
		m := b.residual(x, form.write(b, x))
		for _, topK := range []int{1, 3, 5} {
			o := fmoefy.Options{Init: fmoefy.Split, NumExperts: 5, TopK: topK}
			plain, _ := rewrite(t, m, o)
			o.Run = runModel
			o.Calibration = []map[string]*tensor.Tensor{typicalInputs(m, 1), typicalInputs(m, 2)}
			fitted, report := rewrite(t, m, o)
			compare(t, decomposed(fitted), fitted, 1e-4)
			if topK == 5 {
				compare(t, fitted, m, 1e-4)
			} else if d, other := squares(t, fitted, m), squares(t, plain, m); d >= other {
				t.Errorf("%s, top-%d: fitted to data the results differ by %g, else by %g", form.name, topK, d, other)
			}
			if report.Equal != (topK == 5) {
				t.Errorf("%s, top-%d: reported as %v: %s", form.name, topK, report.Equal, report.Why)
			}
		}
	}
}

func TestSplitRefusals(t *testing.T) {
	softmax := moe.ScoresSoftmax
	for _, c := range []struct {
		options fmoefy.Options
		want    string
	}{
		{fmoefy.Options{NumExperts: 4}, "its hidden width 10 cannot be divided among 4 experts"},
		{fmoefy.Options{NumExperts: 5, GateInit: fmoefy.GateZeros}, "leave out the gate init"},
		{fmoefy.Options{NumExperts: 5, GateOptions: fmoefy.GateOptions{Gate: moe.GateSwitch}}, "needs gate naive"},
		{fmoefy.Options{NumExperts: 5, GateOptions: fmoefy.GateOptions{Scores: &softmax}}, "needs scores one"},
		{fmoefy.Options{NumExperts: 5, Calibration: make([]map[string]*tensor.Tensor, 1)}, "calibration needs something that runs the model"},
	} {
		b := newBuilder(17)
		x := b.tokens()
		m := b.residual(x, blockForms[0].write(b, x))
		c.options.Init = fmoefy.Split
		if _, err := fmoefy.Rewrite(m, c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	b := newBuilder(17)
	x := b.tokens()
	m := b.residual(x, blockForms[0].write(b, x))
	o := fmoefy.Options{NumExperts: 5, Calibration: make([]map[string]*tensor.Tensor, 1)}
	if _, err := fmoefy.Rewrite(m, o); err == nil || !strings.Contains(err.Error(), "needs expert init split") {
		t.Errorf("calibration of copies: %v", err)
	}
}

// typicalInputs are random tokens [2, 150, d_model].
func typicalInputs(m *onnx.Model, seed uint64) map[string]*tensor.Tensor {
	random := rand.New(rand.NewPCG(seed, 0))
	values := make([]float32, 2*150*dModel)
	for i := range values {
		values[i] = float32(random.NormFloat64())
	}
	return map[string]*tensor.Tensor{m.Graph.Inputs[0].Name: tensor.FromSlice(values, 2, 150, dModel)}
}

// squares returns the sum of the squares of the differences between the results
// of two models for typical inputs.
func squares(t *testing.T, a, b *onnx.Model) (sum float64) {
	t.Helper()
	inputs := typicalInputs(a, 3)
	x, err := runModel(a, inputs)
	if err != nil {
		t.Fatal(err)
	}
	y, err := runModel(b, inputs)
	if err != nil {
		t.Fatal(err)
	}
	for name := range x {
		p, q := tensor.Of[float32](x[name]), tensor.Of[float32](y[name])
		for i := range p {
			sum += float64(p[i]-q[i]) * float64(p[i]-q[i])
		}
	}
	return sum
}
