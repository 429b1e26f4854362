package fmoefy_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// layers writes a small Transformer without attention: each layer is x plus a
// ReLU MLP of x.
func layers(b *builder, n int) *onnx.Model {
	x := b.tokens()
	for range n {
		x = b.op("Add", x, b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel))
	}
	b.output(x)
	return b.model
}

func rewrite(t *testing.T, m *onnx.Model, o fmoefy.Options) (*onnx.Model, fmoefy.Report) {
	t.Helper()
	m = m.Clone()
	report, err := fmoefy.Rewrite(m, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := onnx.Check(m); err != nil {
		t.Fatal(err)
	}
	return m, report
}

func encode(t *testing.T, m *onnx.Model) []byte {
	t.Helper()
	b, err := onnx.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBodies compares the function body of FMoE, in operators of each era,
// with the runtime's own kernel, for experts that differ from one another.
func TestBodies(t *testing.T) {
	for _, opset := range []int64{11, 12, 13, 17, 18, 21} {
		for _, c := range activations {
			if c.opset > 17 || strings.Contains(c.name, "ONNX Runtime") || strings.Contains(c.name, "node") {
				continue
			}
			for _, all := range []bool{false, true} {
				t.Run(fmt.Sprintf("opset %d/%s/softmax over all %v", opset, c.name, all), func(t *testing.T) {
					b := newBuilder(opset)
					x := b.tokens()
					b.op("Abs", x)
					plain := b.linear(c.write(b, b.linear(x, dModel, dHidden)), dHidden, dModel)
					b.output(b.op("Add", x, plain))
					m, report := rewrite(t, b.model, fmoefy.Options{NumExperts: 5, TopK: 3, Init: fmoefy.Noise, NoiseScale: 1, GateStd: 1, GateOptions: fmoefy.GateOptions{Normalize: new(!all)}})
					if report.Equal {
						t.Error("experts with noise are reported as equal")
					}
					compare(t, decomposed(m), m, 1e-5)
				})
			}
		}
	}
}

// TestElementTypes compares body and kernel, and the rewriting with the
// original, for every type of weights.
func TestElementTypes(t *testing.T) {
	for kind, tolerance := range map[onnx.DataType]float64{onnx.Float32: 1e-5, onnx.Float64: 1e-12, onnx.Float16: 1e-2, onnx.BFloat16: 1e-1} {
		t.Run(kind.String(), func(t *testing.T) {
			b := newBuilder(17)
			b.kind = kind
			m := layers(b, 1)
			rewritten := upcycle(t, m, 1, tolerance)
			for _, w := range rewritten.Graph.Initializers {
				want := kind
				if strings.HasSuffix(w.Name, ".gate_weight") && kind.Bits() < 32 {
					want = onnx.Float32 // which experts are chosen should not depend on rounding
				}
				if w.DataType != want {
					t.Errorf("%s has type %s, want %s", w.Name, w.DataType, want)
				}
			}
		})
	}
}

// TestOverflowOfOtherExperts: in half precision an expert that was not chosen
// may overflow without harm.
func TestOverflowOfOtherExperts(t *testing.T) {
	b := newBuilder(17)
	b.kind = onnx.Float16
	m, _ := rewrite(t, layers(b, 1), fmoefy.Options{NumExperts: 2, TopK: 1, GateInit: fmoefy.GateZeros})
	for _, w := range m.Graph.Initializers {
		if !strings.HasSuffix(w.Name, "fc1_weight") {
			continue
		}
		first, err := w.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		elements := slices.Clone(first)
		for i := len(elements) / 2; i < len(elements); i += 2 {
			elements[i], elements[i+1] = 0xff, 0x7b // the largest number
		}
		w.SetBytes(elements)
	}
	compare(t, decomposed(m), m, 1e-2)
	for name, y := range run(t, m) {
		values, err := tensor.Float64s(y)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(values, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) {
			t.Errorf("output %q is not finite", name)
		}
	}
}

func TestReport(t *testing.T) {
	m, report := rewrite(t, layers(newBuilder(17), 3), fmoefy.Options{ExpertsPerWorker: 2, Workers: 4, EveryN: 2})
	if n := mixtures(m); n != 1 {
		t.Errorf("%d FMoE nodes, want 1: the second of three", n)
	}
	var (
		dense  = int64(2*dModel*dHidden + dModel + dHidden)
		router = int64(8 * dModel)
	)
	if report.ParametersBefore != 3*dense || report.ParametersAfter != 10*dense+router || report.ParametersActive != 4*dense+router {
		t.Errorf("parameters %d, %d, %d", report.ParametersBefore, report.ParametersAfter, report.ParametersActive)
	}
	if report.NumExperts != 8 || report.TopK != 2 || !report.Equal || len(report.Blocks) != 3 {
		t.Errorf("%+v", report)
	}
	for i, b := range report.Blocks {
		want := fmoefy.BlockReport{Index: i, Name: b.Name, Graph: "main", Kind: fmoefy.Plain, Activation: moe.ReLU, DModel: dModel, DHidden: dHidden,
			ElementType: "float32", Parameters: dense, Reason: "not one of every 2"}
		if i == 1 {
			want.Replaced, want.Reason = true, ""
			want.ParametersAfter, want.ParametersActive = 8*dense+router, 2*dense+router
		}
		if b != want {
			t.Errorf("block %d:\n%+v, want\n%+v", i, b, want)
		}
	}
}

func TestDryRun(t *testing.T) {
	m := layers(newBuilder(17), 2)
	before := encode(t, m)
	dry, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 4, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encode(t, m), before) {
		t.Error("a dry run changed the model")
	}
	_, wet := rewrite(t, m, fmoefy.Options{NumExperts: 4})
	if fmt.Sprint(dry) != fmt.Sprint(wet) {
		t.Errorf("reports differ:\n%v\n%v", dry, wet)
	}
}

// TestSeed: equal seeds give equal bytes, others other bytes.
func TestSeed(t *testing.T) {
	m := layers(newBuilder(17), 2)
	for _, init := range []fmoefy.Init{fmoefy.Copy, fmoefy.Noise, fmoefy.Drop, fmoefy.VirtualGroup, fmoefy.Random} {
		with := func(seed uint64) []byte {
			rewritten, _ := rewrite(t, m, fmoefy.Options{NumExperts: 4, Init: init, Seed: seed})
			return encode(t, rewritten)
		}
		if !bytes.Equal(with(1), with(1)) {
			t.Errorf("init %s: the same seed gives other bytes", init)
		}
		if bytes.Equal(with(1), with(2)) {
			t.Errorf("init %s: another seed gives the same bytes", init)
		}
	}
}

// TestSharedWeights: exporters store equal tensors once. What other nodes use
// stays as it is, what nothing uses goes.
func TestSharedWeights(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	w1, w2, zero := b.weight(dModel, dHidden), b.weight(dHidden, dModel), b.weight(dModel)
	norm := b.op("LayerNormalization", x, b.weight(dModel), zero)
	first := b.op("Add", zero, b.op("MatMul", b.op("Relu", b.op("MatMul", norm, w1)), w2))
	x = b.op("Add", x, first)
	again := b.op("Identity", w1)
	second := b.op("Add", b.op("Identity", zero), b.op("MatMul", b.op("Relu", b.op("MatMul", x, again)), w2))
	m := b.residual(x, second)

	find := func(m *onnx.Model, name string) *onnx.Tensor { return m.Graph.Initializer(name) }
	same := func(a, b *onnx.Tensor) bool {
		x, errX := a.Bytes()
		y, errY := b.Bytes()
		return errX == nil && errY == nil && bytes.Equal(x, y)
	}

	both := upcycle(t, m, 2, 1e-5)
	if find(both, w1) != nil || find(both, w2) != nil {
		t.Error("dense weights stay although nothing uses them")
	}
	if kept := find(both, zero); kept == nil || !same(kept, find(m, zero)) {
		t.Error("the bias that a norm uses too is gone or changed")
	}
	for _, n := range both.Graph.Nodes {
		if n.OpType == "Identity" {
			t.Errorf("%s stays although nothing uses it", n.Name)
		}
	}

	one, _ := rewrite(t, m, fmoefy.Options{NumExperts: 2, Exclude: []string{"1"}})
	for _, name := range []string{w1, w2, zero} {
		if kept := find(one, name); kept == nil || !same(kept, find(m, name)) {
			t.Errorf("%s, which the other block uses, is gone or changed", name)
		}
	}
	compare(t, one, m, 1e-5)
}

// branches returns a decoder whose branches of an If hold the same layers.
func branches() *onnx.Model {
	b := newBuilder(17)
	x := b.tokens()
	b.graph.Inputs = append(b.graph.Inputs, valueInfo("use_cache", onnx.Bool))
	w1, b1, w2 := b.weight(dModel, dHidden), b.weight(dHidden), b.weight(dHidden, dModel)
	branch := func(name string, scale float64) *onnx.Attribute {
		inner := b.subgraph(name)
		h := inner.op("Relu", inner.op("Add", b1, inner.op("MatMul", x, w1)))
		scaled := inner.op("Mul", inner.op("MatMul", h, w2), inner.scalar(scale))
		inner.output(inner.op("Add", x, scaled))
		return onnx.GraphAttribute(name, inner.graph)
	}
	b.output(b.op("If", "use_cache", branch("then_branch", 1), branch("else_branch", 2)))
	return b.model
}

// TestBranches: in a decoder whose branches of an If hold the same layers, the
// outermost graph has one set of experts, which both branches use.
func TestBranches(t *testing.T) {
	m := branches()

	blocks := fmoefy.Find(m)
	if len(blocks) != 2 || !strings.HasSuffix(blocks[0].Graph, ".then_branch") || !strings.HasSuffix(blocks[1].Graph, ".else_branch") {
		t.Fatalf("found %d blocks", len(blocks))
	}
	rewritten := upcycle(t, m, 2, 1e-5)
	if n := len(rewritten.Graph.Initializers); n != 4 {
		t.Errorf("%d initializers in the outermost graph, want the router and three stacks of weights", n)
	}
	_, report := rewrite(t, m, fmoefy.Options{NumExperts: 4})
	if report.Blocks[1].SharesWith != report.Blocks[0].Name {
		t.Errorf("the second block shares with %q", report.Blocks[1].SharesWith)
	}
}

// TestVariants: a model whose experts need several bodies has one function and
// overloads of it.
func TestVariants(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	relu := b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel)
	x = b.op("Add", x, relu)
	tanh := b.linear(b.op("Tanh", b.linear(x, dModel, dHidden)), dHidden, dModel)
	x = b.op("Add", x, tanh)
	again := b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel)
	m := b.residual(x, again)

	rewritten := upcycle(t, m, 3, 1e-5)
	if len(rewritten.Functions) != 2 || rewritten.Functions[0].Overload != "" || rewritten.Functions[1].Overload == "" {
		t.Errorf("%d functions, want one and an overload", len(rewritten.Functions))
	}
	if rewritten.IRVersion != 10 {
		t.Errorf("IR version %d, overloads need 10", rewritten.IRVersion)
	}

	// A second rewriting adds to what the first one made.
	partly, _ := rewrite(t, m, fmoefy.Options{NumExperts: 4, Include: []string{"0"}})
	blocks := fmoefy.Find(partly)
	if len(blocks) != 3 || !strings.Contains(blocks[0].Refused, "already") {
		t.Fatalf("after the first rewriting: %d blocks", len(blocks))
	}
	fully, _ := rewrite(t, partly, fmoefy.Options{NumExperts: 2})
	if mixtures(fully) != 3 || len(fully.Functions) != 2 {
		t.Errorf("%d FMoE nodes and %d functions, want 3 and 2", mixtures(fully), len(fully.Functions))
	}
	compare(t, fully, m, 1e-5)
	compare(t, decomposed(fully), m, 1e-5)
}

// TestNodeAndFile checks what is written besides the weights.
func TestNodeAndFile(t *testing.T) {
	b := newBuilder(17)
	b.model.IRVersion = 4
	m := layers(b, 1)
	block := fmoefy.Find(m)[0]
	inner := m.Graph.Nodes[0].Outputs[0]
	m.Graph.ValueInfo = append(m.Graph.ValueInfo, valueInfo(inner, onnx.Float32))
	m.Graph.Initializers = append(m.Graph.Initializers, tensor.FromSlice([]float32{1}).ToONNX(block.Name+".fc1_weight"))

	rewritten, _ := rewrite(t, m, fmoefy.Options{NumExperts: 4, TopK: 3, GateOptions: fmoefy.GateOptions{Normalize: new(false)}})
	if rewritten.IRVersion != 8 {
		t.Errorf("IR version %d, functions need 8", rewritten.IRVersion)
	}
	if v, ok := rewritten.OpsetVersion(moe.Domain); !ok || v != moe.Version {
		t.Error("the domain is not imported")
	}
	at := slices.IndexFunc(rewritten.Graph.Nodes, func(n *onnx.Node) bool { return n.OpType == moe.OpType })
	node := rewritten.Graph.Nodes[at]
	config, err := moe.ParseConfig(node)
	want := moe.NaiveConfig(3, moe.ReLU)
	want.Normalize = false
	if err != nil || config != want {
		t.Errorf("%+v %v", config, err)
	}
	for slot, dims := range map[int][]int64{
		moe.InputGateWeight: {dModel, 4}, moe.InputFC1Weight: {4, dHidden, dModel}, moe.InputFC1Bias: {4, dHidden},
		moe.InputFC2Weight: {4, dModel, dHidden}, moe.InputFC2Bias: {4, dModel},
	} {
		if w := rewritten.Graph.Initializer(node.Input(slot)); w == nil || !slices.Equal(w.Dims, dims) {
			t.Errorf("%s is %v, want dims %v", moe.InputNames[slot], w, dims)
		}
	}
	if len(rewritten.Graph.ValueInfo) != 1 || rewritten.Graph.ValueInfo[0].Name != node.Outputs[0] {
		t.Fatalf("value_info %v, want the FMoE node's output alone", rewritten.Graph.ValueInfo)
	}
	if got := rewritten.Graph.ValueInfo[0].Type.String(); got != m.Graph.Outputs[0].Type.String() {
		t.Errorf("the FMoE node's output is declared %s", got)
	}
}

// TestRandomExperts may have another width.
func TestRandomExperts(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	gate := b.op("Sigmoid", b.linear(x, dModel, dHidden))
	m := b.residual(x, b.linear(b.op("Mul", gate, b.linear(x, dModel, dHidden)), dHidden, dModel))
	rewritten, report := rewrite(t, m, fmoefy.Options{NumExperts: 4, Init: fmoefy.Random, RandomStd: 0.5, Hidden: 200, GateInit: fmoefy.GateZeros})
	if report.Equal {
		t.Error("random experts are reported as equal")
	}
	compare(t, decomposed(rewritten), rewritten, 1e-4)
	node := rewritten.Graph.Nodes[slices.IndexFunc(rewritten.Graph.Nodes, func(n *onnx.Node) bool { return n.OpType == moe.OpType })]
	for slot, want := range map[int]struct {
		dims []int64
		std  float64
	}{
		moe.InputGateWeight: {[]int64{dModel, 4}, 0},
		moe.InputFC1Weight:  {[]int64{4, 200, dModel}, 0.5}, moe.InputFC1Bias: {[]int64{4, 200}, 0},
		moe.InputFC2Weight: {[]int64{4, dModel, 200}, 0.5 / math.Sqrt2}, moe.InputFC2Bias: {[]int64{4, dModel}, 0},
		moe.InputFC3Weight: {[]int64{4, 200, dModel}, 0.5}, moe.InputFC3Bias: {[]int64{4, 200}, 0},
	} {
		w := rewritten.Graph.Initializer(node.Input(slot))
		if !slices.Equal(w.Dims, want.dims) {
			t.Errorf("%s has dims %v, want %v", w.Name, w.Dims, want.dims)
		}
		x, err := tensor.FromONNX(w)
		if err != nil {
			t.Fatal(err)
		}
		values, err := tensor.Float64s(x)
		if err != nil {
			t.Fatal(err)
		}
		squares := 0.0
		for _, v := range values {
			squares += v * v
		}
		if std := math.Sqrt(squares / float64(len(values))); math.Abs(std-want.std) > 0.05*want.std {
			t.Errorf("%s has standard deviation %g, want %g", w.Name, std, want.std)
		}
	}
}

// TestFunctionsAreInlined: blocks inside model-local functions are found.
func TestFunctionsAreInlined(t *testing.T) {
	body := newBuilder(17)
	h := body.op("Relu", body.op("MatMul", "x", "w1"))
	y := body.op("Add", "x", body.op("MatMul", h, "w2"))
	f := &onnx.Function{Domain: "test", Name: "Layer", Inputs: []string{"x", "w1", "w2"}, Outputs: []string{y},
		Nodes: body.graph.Nodes, OpsetImports: []onnx.OpsetImport{{Version: 17}}}

	b := newBuilder(17)
	b.model.Functions = []*onnx.Function{f}
	b.model.OpsetImports = append(b.model.OpsetImports, onnx.OpsetImport{Domain: "test", Version: 1})
	x := b.tokens()
	for range 2 {
		x = b.node("test", "Layer", x, b.weight(dModel, dHidden), b.weight(dHidden, dModel)).Outputs[0]
	}
	b.output(x)
	if blocks := fmoefy.Find(b.model); len(blocks) != 2 {
		t.Errorf("found %d blocks", len(blocks))
	}
	upcycle(t, b.model, 2, 1e-5)
}

func TestOldOpset(t *testing.T) {
	_, err := fmoefy.Rewrite(layers(newBuilder(10), 1), fmoefy.Options{NumExperts: 2})
	if err == nil || !strings.Contains(err.Error(), "operator set 10") || !strings.Contains(err.Error(), "at least 11") {
		t.Errorf("%v", err)
	}
}

func TestInvalidModel(t *testing.T) {
	b := newBuilder(17)
	b.output(b.op("Abs", "nowhere"))
	if _, err := fmoefy.Rewrite(b.model, fmoefy.Options{NumExperts: 2}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("%v, want an error that names the value", err)
	}
	_ = fmoefy.Find(b.model)
	cyclic := newBuilder(17)
	n := cyclic.node("", "Add", "a", "b")
	m := cyclic.node("", "Reshape", n.Outputs[0], "c")
	n.Inputs = []string{m.Outputs[0], m.Outputs[0]}
	cyclic.linear(n.Outputs[0], dModel, dModel)
	_ = fmoefy.Find(cyclic.model)
}
