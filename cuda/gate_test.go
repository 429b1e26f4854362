//go:build fmoecuda

package cuda_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/cuda"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// router is an FMoE node of small experts: what is tested is its gate.
type router struct {
	attributes []*onnx.Attribute
	in         [moe.InputCount]*tensor.Tensor
}

// model returns the node with all outputs that tell of the gate, all of its
// inputs being the model's, but for the weights.
func (r router) model() (*onnx.Model, map[string]*tensor.Tensor) {
	n := &onnx.Node{Name: "moe", Domain: moe.Domain, OpType: moe.OpType, Attributes: r.attributes,
		Inputs: make([]string, moe.InputCount), Outputs: moe.OutputNames[:moe.OutputHidden]}
	g := &onnx.Graph{Name: "gate", Nodes: []*onnx.Node{n}}
	inputs := map[string]*tensor.Tensor{}
	value := func(name string, x *tensor.Tensor) *onnx.ValueInfo {
		shape := &onnx.Shape{}
		for _, d := range x.Shape {
			shape.Dims = append(shape.Dims, onnx.Dim{Known: true, Value: int64(d)})
		}
		return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: x.Type, Shape: shape}}
	}
	for slot, x := range r.in {
		if x == nil {
			continue
		}
		n.Inputs[slot] = moe.InputNames[slot]
		switch slot {
		case moe.InputX, moe.InputMask, moe.InputStep:
			inputs[n.Inputs[slot]] = x
			g.Inputs = append(g.Inputs, value(n.Inputs[slot], x))
		default:
			g.Initializers = append(g.Initializers, x.ToONNX(n.Inputs[slot]))
		}
	}
	for _, name := range n.Outputs {
		g.Outputs = append(g.Outputs, &onnx.ValueInfo{Name: name})
	}
	m := &onnx.Model{IRVersion: 10, Graph: g, OpsetImports: []onnx.OpsetImport{{Version: 23}, {Domain: moe.Domain, Version: moe.Version}}}
	return m, inputs
}

// experts gives the node experts whose weights do not matter.
func (r *router) experts(t onnx.DataType, experts, d int) {
	random := rand.New(rand.NewPCG(3, 4))
	r.in[moe.InputFC1Weight] = numbers(random, t, 1, experts, 2, d)
	r.in[moe.InputFC2Weight] = numbers(random, t, 1, experts, d, 2)
}

// onGPU runs a model on the GPU, twice, and expects the same bits, and that it
// was the GPU that computed: inputs are uploaded then.
func onGPU(t *testing.T, m *onnx.Model, inputs map[string]*tensor.Tensor) map[string]*tensor.Tensor {
	t.Helper()
	s, err := runtime.New(m, runtime.Options{Device: cuda.Name, Profile: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Run(context.Background(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.Profile(), func(n runtime.NodeTime) bool { return n.OpType == "Upload" }) {
		t.Error("the CPU computed it")
	}
	again := run(t, m, cuda.Name, inputs)
	for name, x := range got {
		if string(x.Data) != string(again[name].Data) {
			t.Errorf("%s has other bits in a second run", name)
		}
	}
	return got
}

// wantEqual compares integers.
func wantEqual(t *testing.T, name string, got *tensor.Tensor, want []int64) {
	t.Helper()
	for i, x := range tensor.Of[int64](got) {
		if x != want[i] {
			t.Fatalf("%s: element %d is %d, want %d", name, i, x, want[i])
		}
	}
}

// wantNear compares numbers, whose error may be tolerance times what they are,
// at least tolerance.
func wantNear(t *testing.T, name string, got *tensor.Tensor, want []float64, tolerance float64) {
	t.Helper()
	have, err := tensor.Float64s(got)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range have {
		if !(math.Abs(x-want[i]) <= tolerance*max(1, math.Abs(want[i]))) {
			t.Fatalf("%s: element %d is %v, want %v", name, i, x, want[i])
		}
	}
}

// TestGatesAsReferences: gates decide as the references in package moe's test
// data do.
func TestGatesAsReferences(t *testing.T) {
	needGPU(t)
	files, err := filepath.Glob(filepath.Join("..", "runtime", "moe", "testdata", "gates", "*.json"))
	if len(files) == 0 || err != nil {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if filepath.Base(file) == "random.json" {
			continue // numbers, not cases
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []reference
		if err := json.Unmarshal(data, &cases); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			if c.Tokens == 0 || c.Training && c.First != 0 || c.Sequence > 0 && c.Tokens%c.Sequence != 0 {
				continue // the CPU's, or not a batch of one worker, or of whole sequences
			}
			t.Run(c.Name, c.test)
		}
	}
}

// reference is a case of runtime/moe/testdata/gates.py.
type reference struct {
	Name                        string
	Tokens, Experts             int
	Training                    bool
	Step, First                 int64
	Sequence                    int
	Attributes                  map[string]any
	Logits, Noise, Bias, Scores []float64
	Mask                        []bool
	Indices                     []int64
	Loss                        float64
	ZLoss                       float64 `json:"z_loss"`
}

// test has tokens that are their logits, followed by what the noisy gate's
// second projection gives: routers pick their halves.
func (c reference) test(t *testing.T) {
	d := 2 * c.Experts
	var r router
	fractional := []string{moe.AttributeCapacityTrain, moe.AttributeCapacityEval, moe.AttributeJitter, moe.AttributeFraction, moe.AttributeRoutedScaling}
	for name, value := range c.Attributes {
		switch x := value.(type) {
		case string:
			r.attributes = append(r.attributes, onnx.StringAttribute(name, x))
		case float64:
			if slices.Contains(fractional, name) {
				r.attributes = append(r.attributes, onnx.FloatAttribute(name, float32(x)))
			} else {
				r.attributes = append(r.attributes, onnx.IntAttribute(name, int64(x)))
			}
		}
	}
	shape := []int{c.Tokens}
	if c.Sequence > 0 {
		shape = []int{c.Tokens / c.Sequence, c.Sequence}
	}
	x, gate, noise := tensor.New(onnx.Float32, append(shape, d)...), tensor.New(onnx.Float32, d, c.Experts), tensor.New(onnx.Float32, d, c.Experts)
	for n := range c.Tokens {
		row := tensor.Of[float32](x)[n*d:]
		for e := range c.Experts {
			row[e] = float32(c.Logits[n*c.Experts+e])
			if c.Noise != nil {
				row[c.Experts+e] = float32(c.Noise[n*c.Experts+e])
			}
		}
	}
	for e := range c.Experts {
		tensor.Of[float32](gate)[e*c.Experts+e], tensor.Of[float32](noise)[(c.Experts+e)*c.Experts+e] = 1, 1
	}
	r.experts(onnx.Float32, c.Experts, d)
	r.in[moe.InputX], r.in[moe.InputGateWeight] = x, gate
	if c.Noise != nil {
		r.in[moe.InputNoiseWeight] = noise
	}
	if c.Bias != nil {
		bias := tensor.New(onnx.Float32, c.Experts)
		tensor.ConvertFloat(bias, tensor.FromSlice(c.Bias, c.Experts))
		r.in[moe.InputSelectionBias] = bias
	}
	if c.Mask != nil {
		r.in[moe.InputMask] = tensor.FromSlice(c.Mask, shape...)
	}
	if c.Training {
		r.in[moe.InputStep] = tensor.Scalar(c.Step)
	}
	m, inputs := r.model()
	out := onGPU(t, m, inputs)
	wantEqual(t, "expert_indices", out["expert_indices"], c.Indices)
	count := make([]int64, c.Experts)
	for _, e := range c.Indices {
		if e >= 0 {
			count[e]++
		}
	}
	wantEqual(t, "expert_count", out["expert_count"], count)
	wantNear(t, "expert_scores", out["expert_scores"], c.Scores, 1e-6)
	wantNear(t, "aux_loss", out["aux_loss"], []float64{c.Loss}, 1e-6)
	wantNear(t, "z_loss", out["z_loss"], []float64{c.ZLoss}, 1e-6)
}

// gateTest is a gate with options before tokens and experts.
type gateTest struct {
	moe.Config
	tokens, sequences, experts int
	training, mask, bias       bool
	t, router                  onnx.DataType
}

// gateTests are those of every gate, in evaluation and in training, with and
// without a mask and a bias.
func gateTests() []gateTest {
	var list []gateTest
	for _, gate := range moe.Gates() {
		if gate == ownGate {
			continue
		}
		for i, size := range []struct{ tokens, experts, k int }{{1, 4, 1}, {333, 8, 2}, {1027, 33, 5}, {259, 256, 8}} {
			for _, training := range []bool{false, true} {
				c := moe.DefaultConfig(gate)
				c.TopK, c.Tile, c.Layer, c.Seed = size.k, min(c.Tile, 16), 3, 1<<33+5
				for _, k := range []int{size.k, 2, 1} { // what the gate takes
					if c.TopK = k; c.Check(size.experts) == nil {
						break
					}
				}
				kind := kindOf(gate)
				if workers := []int{1, 4, 3, 16}[i]; kind.Workers {
					c.Workers = workers
					c.WorkersPerNode = max(1, workers/2)
					if workers%c.WorkersPerNode != 0 {
						c.WorkersPerNode = 1
					}
				}
				if gate == moe.GateSigmoid && size.experts%4 == 0 {
					c.Groups, c.TopGroups = size.experts/4, max(1, size.experts/8)
				}
				list = append(list, gateTest{Config: c, tokens: size.tokens, sequences: 1 + 2*(i%2), experts: size.experts,
					training: training, mask: i%2 == 1, bias: i > 1, t: onnx.Float32, router: onnx.Float32})
				if i == 1 {
					half := list[len(list)-1]
					half.t, half.bias = onnx.BFloat16, true
					list = append(list, half)
					half.t, half.router = onnx.Float16, onnx.Float16
					list = append(list, half)
				}
			}
		}
	}
	return list
}

func (g gateTest) String() string {
	return fmt.Sprintf("%s N=%d T=%d k=%d workers=%d training=%t mask=%t bias=%t %s %s", g.Gate, g.tokens, g.experts, g.TopK, g.Workers, g.training, g.mask, g.bias, g.t, g.router)
}

// node returns one whose logits are multiples of 1/64, so that they are
// exact in whatever order a product is computed.
func (g gateTest) node() router {
	random := rand.New(rand.NewPCG(5, uint64(g.tokens)))
	const d = 6
	exact := func(t onnx.DataType, steps int, size float32, shape ...int) *tensor.Tensor {
		x := tensor.New(onnx.Float32, shape...)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(random.IntN(2*steps+1)-steps) * size
		}
		y := tensor.New(t, shape...)
		tensor.ConvertFloat(y, x)
		return y
	}
	r := router{attributes: g.Encode()}
	r.experts(g.t, g.experts, d)
	shape := []int{g.tokens, d}
	if g.tokens%g.sequences == 0 {
		shape = []int{g.sequences, g.tokens / g.sequences, d}
	}
	r.in[moe.InputX] = exact(g.t, 31, 1./8, shape...)
	r.in[moe.InputGateWeight] = exact(g.router, 5, 1./8, d, g.experts)
	kind := kindOf(g.Gate)
	if g.bias {
		r.in[moe.InputGateBias] = exact(g.router, 9, 1./64, g.experts)
		if kind.SelectionBias {
			r.in[moe.InputSelectionBias] = exact(g.router, 9, 1./64, g.experts)
		}
	}
	if g.mask {
		mask := tensor.New(onnx.Bool, shape[:len(shape)-1]...)
		for i := range mask.Data {
			mask.Data[i] = byte(min(1, i%5))
		}
		r.in[moe.InputMask] = mask
	}
	if g.training {
		r.in[moe.InputStep] = tensor.Scalar(int64(7))
		if kind.Noisy {
			r.in[moe.InputNoiseWeight] = exact(g.router, 5, 1./8, d, g.experts)
		}
	}
	return r
}

// TestGatesAsCPU: gates choose exactly as on the CPU.
func TestGatesAsCPU(t *testing.T) {
	needGPU(t)
	for _, g := range gateTests() {
		t.Run(g.String(), func(t *testing.T) {
			m, inputs := g.node().model()
			want, got := run(t, m, "cpu", inputs), onGPU(t, m, inputs)
			for name, w := range want {
				if w.Type == onnx.Int64 {
					wantEqual(t, name, got[name], tensor.Of[int64](w))
					continue
				}
				numbers, err := tensor.Float64s(w)
				if err != nil {
					t.Fatal(err)
				}
				tolerance := 1e-5
				if w.Type != onnx.Float32 {
					tolerance = 0.05
				}
				wantNear(t, name, got[name], numbers, tolerance)
			}
		})
	}
}

// gradient returns FMoEGradient behind an FMoE node that gives it the logits,
// with random gradients by all outputs of the node, that of Y where it is to have
// one, and random hidden values.
func (g gateTest) gradient(withY bool) (*onnx.Model, map[string]*tensor.Tensor) {
	r := g.node()
	m, inputs := r.model()
	forward := m.Graph.Nodes[0]
	random := rand.New(rand.NewPCG(6, 7))
	n := &onnx.Node{Name: "gradient", Domain: moe.Domain, OpType: moe.GradientOpType, Attributes: r.attributes, Inputs: make([]string, moe.GradientInputCount)}
	copy(n.Inputs, forward.Inputs)
	given := func(slot int, name string, x *tensor.Tensor) {
		n.Inputs[slot] = name
		m.Graph.Initializers = append(m.Graph.Initializers, x.ToONNX(name))
	}
	x, kind := r.in[moe.InputX], kindOf(g.Gate)
	leading := x.Shape[:x.Rank()-1]
	of := func(last int) []int { return append(slices.Clone(leading), last) }
	if withY {
		given(moe.GradientY, "by_Y", numbers(random, g.t, 1, x.Shape...))
	}
	given(moe.GradientAuxLoss, "by_aux_loss", numbers(random, onnx.Float32, 1))
	given(moe.GradientZLoss, "by_z_loss", numbers(random, onnx.Float32, 1))
	given(moe.GradientExpertScores, "by_expert_scores", numbers(random, onnx.Float32, 1, of(kind.Slots(g.Config, g.experts))...))
	given(moe.GradientRouterLogits, "by_router_logits", numbers(random, onnx.Float32, 1, of(g.experts)...))
	given(moe.SavedHidden, "hidden", numbers(random, g.t, 1, g.Rows(g.tokens, g.experts), r.in[moe.InputFC1Weight].Shape[1]))
	n.Inputs[moe.SavedRouterLogits] = forward.Outputs[moe.OutputRouterLogits]
	n.Outputs = make([]string, moe.GradientCount)
	m.Graph.Outputs = nil
	for slot := range n.Outputs {
		if r.in[slot] != nil && (withY || slot == moe.InputX || slot == moe.InputGateWeight || slot == moe.InputGateBias || slot == moe.InputNoiseWeight) {
			n.Outputs[slot] = "by_" + moe.InputNames[slot]
			m.Graph.Outputs = append(m.Graph.Outputs, &onnx.ValueInfo{Name: n.Outputs[slot]})
		}
	}
	m.Graph.Nodes = append(m.Graph.Nodes, n)
	return m, inputs
}

func kindOf(gate string) moe.Kind {
	kind, err := moe.KindOf(gate)
	if err != nil {
		panic(err)
	}
	return kind
}

// TestGateGradients: gradients are the CPU's, with and without one by Y.
func TestGateGradients(t *testing.T) {
	needGPU(t)
	for _, g := range gateTests() {
		t.Run(g.String(), func(t *testing.T) {
			for _, withY := range []bool{false, true} {
				m, inputs := g.gradient(withY)
				want, got := run(t, m, "cpu", inputs), onGPU(t, m, inputs)
				for name, w := range want {
					tolerance := map[onnx.DataType]float64{onnx.Float32: 1e-5, onnx.Float16: 4e-3, onnx.BFloat16: 2e-2}[g.t]
					if e := difference(t, got[name], w); !(e < tolerance) {
						t.Errorf("with the gradient by Y %t: the relative difference of %s is %.3g", withY, name, e)
					}
				}
			}
		})
	}
}

// ownGate is a gate that a program brings along: it has no kernel.
const ownGate = "cuda-test"

type firstExperts struct{ k int }

func (g firstExperts) Slots() int { return g.k }

func (g firstExperts) Choose(b *moe.Batch, lo, hi int) {
	for s := lo * g.k; s < hi*g.k; s++ {
		b.Indices[s], b.Scores[s] = int32(s%g.k), 1/float64(g.k)
	}
}

func (g firstExperts) Settle(*moe.Batch) {}

// TestOwnGate: the CPU computes layers whose gates have no kernel, whatever the
// device.
func TestOwnGate(t *testing.T) {
	needGPU(t)
	moe.Register(moe.Kind{Name: ownGate, New: func(c moe.Config, experts int) moe.Gate { return firstExperts{c.TopK} }})
	c := moe.DefaultConfig(ownGate)
	c.TopK = 2
	m, inputs := gateTest{Config: c, tokens: 5, sequences: 1, experts: 4, t: onnx.Float32, router: onnx.Float32}.node().model()
	want, got := run(t, m, "cpu", inputs), run(t, m, cuda.Name, inputs)
	wantEqual(t, "expert_indices", got["expert_indices"], tensor.Of[int64](want["expert_indices"]))
	if e := difference(t, got["Y"], want["Y"]); !(e < 1e-6) {
		t.Errorf("the relative difference of Y is %.3g", e)
	}
}

// BenchmarkGates runs layers whose experts are small: most of what they do is
// routing.
func BenchmarkGates(b *testing.B) {
	needGPU(b)
	for _, gate := range moe.Gates() {
		for _, training := range []bool{false, true} {
			c := moe.DefaultConfig(gate)
			for _, c.TopK = range []int{8, 2, 1} {
				if c.Check(128) == nil {
					break
				}
			}
			if kindOf(gate).Workers {
				c.Workers, c.WorkersPerNode = 8, 4
			}
			g := gateTest{Config: c, tokens: 24576, sequences: 12, experts: 128, training: training, t: onnx.BFloat16, router: onnx.BFloat16}
			b.Run(g.String(), func(b *testing.B) {
				m, inputs := g.node().model()
				m.Graph.Outputs = m.Graph.Outputs[:4]
				s, err := runtime.New(m, runtime.Options{Device: cuda.Name, Profile: true})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				run := func() {
					if _, err := s.Run(context.Background(), inputs); err != nil {
						b.Fatal(err)
					}
				}
				run()
				s.ResetProfile()
				for b.Loop() {
					run()
				}
				for _, n := range s.Profile() {
					if n.OpType == moe.OpType {
						b.ReportMetric(n.Time.Seconds()/float64(n.Calls)*1e6, "µs/layer")
					}
				}
			})
		}
	}
}
