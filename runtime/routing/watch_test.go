package routing_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/routing"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// model builds models whose layers have as many experts as their tokens have
// elements, and a unit matrix as router: the tokens are the logits.
type model struct{ onnx.Model }

func newModel(inputs ...string) *model {
	m := &model{onnx.Model{IRVersion: 10, OpsetImports: []onnx.OpsetImport{{Version: 21}, {Domain: moe.Domain, Version: moe.Version}}, Graph: &onnx.Graph{Name: "g"}}}
	for _, name := range inputs {
		m.Graph.Inputs = append(m.Graph.Inputs, input(name, onnx.Float32, -1, -1))
	}
	return m
}

func input(name string, t onnx.DataType, dims ...int64) *onnx.ValueInfo {
	shape := &onnx.Shape{}
	for _, d := range dims {
		shape.Dims = append(shape.Dims, onnx.Dim{Value: d, Known: d >= 0})
	}
	return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t, Shape: shape}}
}

// layer makes a node with T experts, whose weights it adds to the main graph.
func (m *model) layer(name, x, y string, experts int, c moe.Config) *onnx.Node {
	unit := tensor.New(onnx.Float32, experts, experts)
	for i := range experts {
		tensor.Of[float32](unit)[i*experts+i] = 1
	}
	n := &onnx.Node{Name: name, Domain: moe.Domain, OpType: moe.OpType, Outputs: []string{y}, Attributes: c.Encode(),
		Inputs: []string{x, name + ".gate", "", name + ".fc1", "", name + ".fc2"}}
	for slot, w := range map[int]*tensor.Tensor{
		moe.InputGateWeight: unit,
		moe.InputFC1Weight:  tensor.New(onnx.Float32, experts, 1, experts),
		moe.InputFC2Weight:  tensor.New(onnx.Float32, experts, experts, 1),
	} {
		m.Graph.Initializers = append(m.Graph.Initializers, w.ToONNX(n.Inputs[slot]))
	}
	return n
}

// add appends a node, whose first output is one of the model's.
func (m *model) add(n *onnx.Node) {
	m.Graph.Nodes = append(m.Graph.Nodes, n)
	m.Graph.Outputs = append(m.Graph.Outputs, &onnx.ValueInfo{Name: n.Outputs[0]})
}

// prefers returns tokens each of which wants the expert of its number.
func prefers(experts int, choices ...int) *tensor.Tensor {
	x := tensor.New(onnx.Float32, len(choices), experts)
	for n, e := range choices {
		tensor.Of[float32](x)[n*experts+e] = 5
	}
	return x
}

// watch runs a model on several batches.
func watch(t *testing.T, m *onnx.Model, o routing.Options, batches ...map[string]*tensor.Tensor) *routing.Statistics {
	t.Helper()
	w, err := routing.New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := runtime.New(w.Model, runtime.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, inputs := range batches {
		outputs, err := s.Run(t.Context(), inputs)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(outputs); err != nil {
			t.Fatal(err)
		}
	}
	return w.Statistics()
}

type batch = map[string]*tensor.Tensor

// near reports whether numbers are equal up to the rounding of float32.
func near(a routing.Number, b float64) bool { return math.Abs(float64(a)-b) <= 1e-6 }

func top(k int) moe.Config { return moe.NaiveConfig(k, moe.ReLU) }

// TestLoad compares what is counted with what tokens were made to choose.
func TestLoad(t *testing.T) {
	even, share := 0.25, 1/(1+3*math.Exp(-5)) // share is the probability of the preferred one of 4 experts
	rest := (1 - share) / 3
	router := -share*math.Log(share) - 3*rest*math.Log(rest)
	for _, test := range []struct {
		name                         string
		experts                      int
		batches                      [][]int
		rows                         []int64
		entropy, evenness, variation float64
	}{
		{"even", 4, [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}}, []int64{2, 2, 2, 2}, -4 * even * math.Log(even), 1, 0},
		{"one expert", 4, [][]int{{2, 2}, {2}}, []int64{0, 0, 3, 0}, 0, 0, math.Sqrt(3)},
		{"half of them", 4, [][]int{{0, 1, 1, 0}}, []int64{2, 2, 0, 0}, math.Ln2, 0.5, 1},
		{"uneven", 4, [][]int{{0, 1, 1, 1}}, []int64{1, 3, 0, 0}, 0.75*math.Log(4./3) + 0.25*math.Log(4), 0.40563906222956647, math.Sqrt(1.5)},
		{"only one", 1, [][]int{{0, 0, 0}}, []int64{3}, 0, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newModel("x")
			m.add(m.layer("layer", "x", "y", test.experts, top(1)))
			var batches []batch
			tokens := 0
			for _, choices := range test.batches {
				batches = append(batches, batch{"x": prefers(test.experts, choices...)})
				tokens += len(choices)
			}
			s := watch(t, &m.Model, routing.Options{}, batches...)
			l := s.Layers[0]
			if s.Runs != len(batches) || l.Name != "layer" || l.Gate != moe.GateNaive || l.Tokens != int64(tokens) {
				t.Errorf("got %+v", l)
			}
			if fmt.Sprint(l.Rows) != fmt.Sprint(test.rows) {
				t.Errorf("rows %v, want %v", l.Rows, test.rows)
			}
			if !near(l.LoadEntropy, test.entropy) || !near(l.Evenness, test.evenness) || !near(l.Variation, test.variation) || l.Dropped != 0 || l.Unserved != 0 {
				t.Errorf("entropy %v, evenness %v, variation %v, dropped %v, want %+v", l.LoadEntropy, l.Evenness, l.Variation, l.Dropped, test)
			}
			if test.experts == 4 && tokens > 0 {
				z := 5 - math.Log(share)
				if !near(l.RouterEntropy, router) || !near(l.Indecision, router/math.Log(4)) || !near(l.FirstScore, 1) || !near(l.ZLoss/10, z*z/10) {
					t.Errorf("router entropy %v, first score %v, z-loss %v, want %v, 1, %v", l.RouterEntropy, l.FirstScore, l.ZLoss, router, z*z)
				}
			}
		})
	}
}

// TestNothingSeen: what there was nothing of is not a number.
func TestNothingSeen(t *testing.T) {
	m := newModel("x")
	m.add(m.layer("layer", "x", "y", 4, top(1)))
	l := watch(t, &m.Model, routing.Options{}, batch{"x": prefers(4)}).Layers[0]
	for name, x := range map[string]routing.Number{"dropped": l.Dropped, "unserved": l.Unserved, "load entropy": l.LoadEntropy, "evenness": l.Evenness,
		"variation": l.Variation, "router entropy": l.RouterEntropy, "indecision": l.Indecision, "first score": l.FirstScore, "z-loss": l.ZLoss} {
		if !math.IsNaN(float64(x)) {
			t.Errorf("%s is %v", name, x)
		}
	}
	if l.Tokens != 0 || len(l.Rows) != 0 {
		t.Errorf("got %+v", l)
	}
}

// TestDrops compares with what capacities leave, by hand: an expert of the
// switch gate computes ⌈c·N/T⌉ tokens, one of the expert-choice gate takes
// ⌈c·N·k/T⌉, the first ones where it prefers none.
func TestDrops(t *testing.T) {
	with := func(gate string, k int, capacity float64) moe.Config {
		c := moe.DefaultConfig(gate)
		c.TopK, c.Activation, c.CapacityTrain, c.CapacityEval = k, moe.ReLU, capacity/2, capacity
		return c
	}
	masked := []bool{true, false, true, true, true, true}
	for _, test := range []struct {
		name              string
		config            moe.Config
		training          bool
		choices           []int
		mask              []bool
		rows              string
		dropped, unserved float64
	}{
		{"all fit", with(moe.GateSwitch, 1, 1), false, []int{0, 1, 2, 3, 0, 1, 2, 3}, nil, "[2 2 2 2]", 0, 0},
		{"all on one", with(moe.GateSwitch, 1, 1), false, []int{1, 1, 1, 1}, nil, "[0 1 0 0]", 0.75, 0.75},
		{"capacity is rounded up", with(moe.GateSwitch, 1, 1), false, []int{1, 1, 1, 1, 1}, nil, "[0 2 0 0]", 0.6, 0.6},
		{"masked tokens do not count", with(moe.GateSwitch, 1, 1), false, []int{1, 1, 1, 1, 1, 1}, masked, "[0 2 0 0]", 0.6, 0.6},
		{"capacity of training", with(moe.GateSwitch, 1, 2), true, []int{1, 1, 1, 1}, nil, "[0 1 0 0]", 0.75, 0.75},
		{"experts choose", with(moe.GateExpertChoice, 2, 1), false, []int{0, 0, 1, 1, 2, 2, 3, 3}, nil, "[4 4 4 4]", 0, 0},
		{"nobody chooses some", with(moe.GateExpertChoice, 1, 1), false, []int{2, 2, 1, 1}, nil, "[1 1 1 1]", 0.5, 0.5},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newModel("x")
			n := m.layer("layer", "x", "y", 4, test.config)
			inputs := batch{"x": prefers(4, test.choices...)}
			if test.mask != nil {
				m.Graph.Inputs = append(m.Graph.Inputs, input("keep", onnx.Bool, -1))
				for len(n.Inputs) <= moe.InputMask {
					n.Inputs = append(n.Inputs, "")
				}
				n.Inputs[moe.InputMask] = "keep"
				inputs["keep"] = tensor.FromSlice(test.mask, len(test.mask))
			}
			m.add(n)
			l := watch(t, &m.Model, routing.Options{Training: test.training}, inputs).Layers[0]
			if fmt.Sprint(l.Rows) != test.rows || !near(l.Dropped, test.dropped) || !near(l.Unserved, test.unserved) {
				t.Errorf("rows %v, dropped %v, unserved %v, want %+v", l.Rows, l.Dropped, l.Unserved, test)
			}
		})
	}
}

// TestFirstScore: with the softmax over all experts, and two choices.
func TestFirstScore(t *testing.T) {
	c := top(2)
	c.Normalize = false
	m := newModel("x")
	m.add(m.layer("layer", "x", "y", 3, c))
	x := tensor.FromSlice([]float32{2, 1, 0, 0, 1, 2}, 2, 3)
	l := watch(t, &m.Model, routing.Options{}, batch{"x": x}).Layers[0]
	want := math.Exp(2) / (math.Exp(2) + math.E + 1)
	if !near(l.FirstScore, want) || l.Slots != 2 || fmt.Sprint(l.Rows) != "[1 2 1]" {
		t.Errorf("got %+v, want the first score %v", l, want)
	}
}

// TestMask: masked tokens count nowhere, in no batch.
func TestMask(t *testing.T) {
	m := newModel("x")
	m.Graph.Inputs = append(m.Graph.Inputs, input("keep", onnx.Bool, -1))
	n := m.layer("layer", "x", "y", 4, top(1))
	for len(n.Inputs) <= moe.InputMask {
		n.Inputs = append(n.Inputs, "")
	}
	n.Inputs[moe.InputMask] = "keep"
	m.add(n)
	s := watch(t, &m.Model, routing.Options{}, batch{
		"x":    prefers(4, 0, 1, 2, 3, 3),
		"keep": tensor.FromSlice([]bool{true, false, true, false, true}, 5),
	})
	l := s.Layers[0]
	if l.Tokens != 3 || l.Masked != 2 || fmt.Sprint(l.Rows) != "[1 0 1 1]" || l.Dropped != 0 || l.Unserved != 0 || !near(l.FirstScore, 1) {
		t.Errorf("got %+v", l)
	}
}

func TestAgreement(t *testing.T) {
	ln := math.Log
	for _, test := range []struct {
		name string
		a, b []int
		want float64
	}{
		{"the same", []int{0, 1, 2, 3, 1}, []int{0, 1, 2, 3, 1}, 1},
		{"other numbers", []int{0, 1, 2, 3, 1}, []int{3, 2, 0, 1, 2}, 1},
		{"independent", []int{0, 0, 1, 1}, []int{2, 3, 2, 3}, 0},
		{"one tells half", []int{0, 0, 1, 1}, []int{0, 1, 2, 3}, 2 * ln(2) / (ln(2) + ln(4))},
		{"one is constant", []int{0, 1, 2, 3}, []int{2, 2, 2, 2}, 0},
		{"both are constant", []int{1, 1}, []int{3, 3}, 1},
		{"other lengths", []int{1, 2}, []int{1, 2, 3}, math.NaN()},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newModel("a", "b")
			m.add(m.layer("A", "a", "ya", 4, top(1)))
			m.add(m.layer("B", "b", "yb", 4, top(1)))
			got := watch(t, &m.Model, routing.Options{}, batch{"a": prefers(4, test.a...), "b": prefers(4, test.b...)}).Agreement
			if len(got) != 2 || got[0][0] != 1 || got[1][1] != 1 {
				t.Fatalf("got %v, a layer agrees with itself", got)
			}
			if got := float64(got[0][1]); !(math.Abs(got-test.want) < 1e-12 || math.IsNaN(got) && math.IsNaN(test.want)) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if fmt.Sprint(got[0][1]) != fmt.Sprint(got[1][0]) {
				t.Errorf("got %v, which is not symmetric", got)
			}
		})
	}
}

func body(g *onnx.Graph, nodes ...*onnx.Node) *onnx.Graph {
	g.Name, g.Nodes = "body", nodes
	return g
}

func output(names ...string) (list []*onnx.ValueInfo) {
	for _, name := range names {
		list = append(list, &onnx.ValueInfo{Name: name})
	}
	return list
}

var threeTokens = prefers(4, 0, 1, 1)

// nestedModels have layers in branches, loops, scans and functions.
var nestedModels = []struct {
	name   string
	build  func(m *model)
	inputs batch
	want   string // the rows of each layer
}{
	{"if", func(m *model) {
		m.Graph.Inputs = append(m.Graph.Inputs, input("cond", onnx.Bool))
		then := body(&onnx.Graph{Outputs: output("yt")}, m.layer("then", "x", "yt", 4, top(1)))
		other := body(&onnx.Graph{Outputs: output("ye")}, m.layer("else", "x", "ye", 4, top(2)))
		m.add(&onnx.Node{Name: "if", OpType: "If", Inputs: []string{"cond"}, Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{onnx.GraphAttribute("then_branch", then), onnx.GraphAttribute("else_branch", other)}})
	}, batch{"x": threeTokens, "cond": tensor.Scalar(true)}, "[[1 2 0 0] []]"},
	{"loop", func(m *model) {
		m.Graph.Inputs = append(m.Graph.Inputs, input("rounds", onnx.Int64))
		g := body(&onnx.Graph{Inputs: []*onnx.ValueInfo{input("i", onnx.Int64), input("go", onnx.Bool), input("v", onnx.Float32, -1, 4)}, Outputs: output("gone", "w")},
			&onnx.Node{OpType: "Identity", Inputs: []string{"go"}, Outputs: []string{"gone"}},
			m.layer("layer", "v", "z", 4, top(1)),
			&onnx.Node{OpType: "Add", Inputs: []string{"z", "v"}, Outputs: []string{"w"}})
		m.add(&onnx.Node{Name: "loop", OpType: "Loop", Inputs: []string{"rounds", "", "x"}, Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{onnx.GraphAttribute("body", g)}})
	}, batch{"x": threeTokens, "rounds": tensor.Scalar(int64(3))}, "[[3 6 0 0]]"},
	{"scan", func(m *model) {
		g := body(&onnx.Graph{Inputs: []*onnx.ValueInfo{input("v", onnx.Float32, 4)}, Outputs: output("w")}, m.layer("layer", "v", "w", 4, top(1)))
		m.add(&onnx.Node{Name: "scan", OpType: "Scan", Inputs: []string{"x"}, Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{onnx.GraphAttribute("body", g), onnx.IntAttribute("num_scan_inputs", 1)}})
	}, batch{"x": threeTokens}, "[[1 2 0 0]]"},
	{"function", func(m *model) {
		n := m.layer("layer", "v", "w", 4, top(1))
		weights := n.Inputs[1:]
		n.Inputs = []string{"v", "gate", "", "fc1", "", "fc2"}
		m.Functions = append(m.Functions, &onnx.Function{Domain: "local", Name: "F", Inputs: []string{"v", "gate", "fc1", "fc2"}, Outputs: []string{"w"},
			Nodes: []*onnx.Node{n}, OpsetImports: m.OpsetImports})
		m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: "local", Version: 1})
		m.add(&onnx.Node{Name: "call", Domain: "local", OpType: "F", Inputs: []string{"x", weights[0], weights[2], weights[4]}, Outputs: []string{"y"}})
		m.add(&onnx.Node{Name: "again", Domain: "local", OpType: "F", Inputs: []string{"x", weights[0], weights[2], weights[4]}, Outputs: []string{"y2"}})
	}, batch{"x": threeTokens}, "[[1 2 0 0] [1 2 0 0]]"},
	{"outputs that are there already", func(m *model) {
		n := m.layer("layer", "x", "y", 4, top(1))
		n.Outputs = []string{"y", "", "", "", "chosen"}
		m.add(n)
		m.Graph.Outputs = append(m.Graph.Outputs, output("chosen")...)
	}, batch{"x": threeTokens}, "[[1 2 0 0]]"},
}

// TestSubgraphs: layers are watched where they are, those of a loop in all
// rounds.
func TestSubgraphs(t *testing.T) {
	for _, test := range nestedModels {
		t.Run(test.name, func(t *testing.T) {
			m := newModel("x")
			test.build(m)
			before := m.Clone()
			s := watch(t, &m.Model, routing.Options{}, test.inputs)
			var rows [][]int64
			for _, l := range s.Layers {
				rows = append(rows, l.Rows)
			}
			if fmt.Sprint(rows) != test.want {
				t.Errorf("rows %v, want %s", rows, test.want)
			}
			if len(m.Graph.Outputs) != len(before.Graph.Outputs) || len(m.Functions) != len(before.Functions) {
				t.Error("the model itself was changed")
			}
		})
	}
}

// TestTraining: the step and the seed reach the gates.
func TestTraining(t *testing.T) {
	c := moe.DefaultConfig(moe.GateNaive)
	c.TopK, c.Activation, c.Seed = 1, moe.ReLU, 3
	m := newModel("x")
	m.add(m.layer("layer", "x", "y", 4, c))
	w, err := routing.New(&m.Model, routing.Options{Training: true, Step: 7, Seed: 5})
	if err != nil {
		t.Fatal(err)
	}
	n := w.Model.Graph.Nodes[0]
	config, err := moe.ParseConfig(n)
	if err != nil || config.Seed != 5 {
		t.Errorf("seed %d, %v", config.Seed, err)
	}
	step, err := tensor.FromONNX(w.Model.Graph.Initializer(n.Input(moe.InputStep)))
	if err != nil || step.String() != "int64[]" || tensor.Of[int64](step)[0] != 7 {
		t.Errorf("step %v, %v", step, err)
	}
	if m.Graph.Nodes[0].Input(moe.InputStep) != "" {
		t.Error("the model itself was changed")
	}
}

func TestErrors(t *testing.T) {
	if _, err := routing.New(&newModel("x").Model, routing.Options{}); err == nil || !strings.Contains(err.Error(), "fmoefy") {
		t.Errorf("a model without layers: %v", err)
	}
	m := newModel("x")
	n := m.layer("layer", "x", "y", 4, top(1))
	n.Attributes = append(n.Attributes, onnx.IntAttribute("unknown", 1))
	m.add(n)
	if _, err := routing.New(&m.Model, routing.Options{}); err == nil || !strings.Contains(err.Error(), `FMoE node "layer"`) {
		t.Errorf("an attribute that is not known: %v", err)
	}
	m = newModel("x")
	m.add(m.layer("layer", "x", "y", 4, top(1)))
	w, err := routing.New(&m.Model, routing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(batch{"y": prefers(4)}); err == nil || !strings.Contains(err.Error(), `layer 0, "layer"`) {
		t.Errorf("outputs of the model itself: %v", err)
	}
}

// TestJSON: what is not a number is null.
func TestJSON(t *testing.T) {
	m := newModel("a", "b")
	m.add(m.layer("A", "a", "ya", 2, top(1)))
	m.add(m.layer("B", "b", "yb", 2, top(1)))
	nan := tensor.FromSlice([]float32{float32(math.NaN()), 0}, 1, 2)
	s := watch(t, &m.Model, routing.Options{}, batch{"a": nan, "b": prefers(2, 0, 1)})
	text, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(text), `"agreement":[[1,null],[null,1]]`) || !strings.Contains(string(text), `"router_entropy":null`) {
		t.Errorf("%v: %s", err, text)
	}
}
