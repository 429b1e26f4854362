// Package routing watches which experts the gates of a model's FMoE layers
// choose, and sums up over any amount of data what can be said of it: the load
// of each expert, what is dropped, how sure the routers are, and how much
// layers agree.
package routing

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/inspect"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Options say how layers are watched. The zero value watches them as they are.
type Options struct {
	// Training lets gates behave as in the given step of training: noise,
	// jitter, random routing and the capacity of training apply. Without it
	// they do what the model says, which is evaluation unless it has an input
	// for the step.
	Training bool
	Step     int64

	// Seed replaces that of the gates' random numbers, unless it is 0.
	Seed int64
}

// Watch looks at the layers of a model. It is not safe for concurrent use.
type Watch struct {
	// Model is a copy of the model that shares its weights. Run this one, and
	// give the outputs of each run to Add. Its first outputs are the model's
	// own; behind them are what the gates decided.
	Model *onnx.Model

	layers []*layer
	pairs  []*pair // of layers a < b, in the order (0, 1), (0, 2), …
	runs   int
}

// ErrNoLayers is what New fails with for a model without FMoE nodes.
var ErrNoLayers = errors.New("the model has no FMoE layers; fmoefy rewrites its MLPs into such layers, and fmoefy import those of other mixtures of experts")

// New prepares a model for being watched, which must stay open for as long as
// the copy is used. The layers are those of the graph, of the functions that
// it calls, and of the branches and bodies of If, Loop and Scan. A layer in a
// loop must have inputs of one shape in all rounds.
func New(m *onnx.Model, o Options) (*Watch, error) {
	if err := onnx.Check(m); err != nil {
		return nil, err
	}
	w := &Watch{Model: m.Clone()}
	if err := inlineLayers(w.Model); err != nil {
		return nil, err
	}
	g := w.Model.Graph
	e := &editor{options: o, watch: w, names: onnx.NewIndex(g)}
	if o.Training {
		e.step = e.names.NewName("routing/step")
		g.Initializers = append(g.Initializers, tensor.Scalar(o.Step).ToONNX(e.step))
	}
	values, err := e.graph(g)
	if err != nil {
		return nil, err
	}
	if len(w.layers) == 0 {
		return nil, ErrNoLayers
	}
	for _, v := range values {
		w.layers[v.layer].values[v.kind] = v.name
		g.Outputs = append(g.Outputs, &onnx.ValueInfo{Name: v.name})
	}
	for b := range w.layers {
		for a := range b {
			w.pairs = append(w.pairs, &pair{a: a, b: b})
		}
	}
	return w, nil
}

// inlineLayers expands the functions that have FMoE nodes, and drops the one
// that says what FMoE is, which has not all of its outputs.
func inlineLayers(m *onnx.Model) error {
	has := map[*onnx.Function]bool{}
	var hasLayer func(nodes []*onnx.Node) bool
	hasLayer = func(nodes []*onnx.Node) bool {
		return slices.ContainsFunc(nodes, func(n *onnx.Node) bool {
			if inspect.IsFMoE(n) {
				return true
			}
			if f := m.Function(n); f != nil {
				known, seen := has[f]
				if !seen {
					known = hasLayer(f.Nodes)
					has[f] = known
				}
				return known
			}
			return slices.ContainsFunc(n.Subgraphs(), func(g *onnx.Graph) bool { return hasLayer(g.Nodes) })
		})
	}
	m.Functions = slices.DeleteFunc(m.Functions, func(f *onnx.Function) bool {
		return f.Domain == moe.Domain && f.Name == moe.OpType
	})
	return m.Inline(func(n *onnx.Node) bool { return !hasLayer([]*onnx.Node{n}) })
}

// kind is something that is watched of a layer.
type kind int

const (
	indices kind = iota
	scores
	logits
	balanceLoss
	zLoss
	mask // the input, of nodes that have one
	kinds
)

// slots are the output slots of an FMoE node that give the kinds before mask.
var slots = [mask]int{moe.OutputExpertIndices, moe.OutputExpertScores, moe.OutputRouterLogits, moe.OutputAuxLoss, moe.OutputZLoss}

// value is a value of a graph that has something of a layer.
type value struct {
	name  string
	layer int
	kind  kind
}

// editor lets graphs give away what is watched.
type editor struct {
	options Options
	watch   *Watch
	names   *onnx.Index
	step    string // the value with the step of training, if there is one
}

// graph returns the values of g that are watched. They are not among its
// outputs yet.
func (e *editor) graph(g *onnx.Graph) ([]value, error) {
	var values []value
	nodes := make([]*onnx.Node, 0, len(g.Nodes))
	for _, n := range g.Nodes {
		nodes = append(nodes, n)
		if inspect.IsFMoE(n) {
			found, copies, err := e.layer(n)
			if err != nil {
				return nil, fmt.Errorf("FMoE node %q: %w", n.Name, err)
			}
			values, nodes = append(values, found...), append(nodes, copies...)
			continue
		}
		found, err := e.control(n)
		if err != nil {
			return nil, err
		}
		values = append(values, found...)
	}
	g.Nodes = nodes
	return values, nil
}

// layer watches an FMoE node. What it returns besides has to follow the node.
func (e *editor) layer(n *onnx.Node) ([]value, []*onnx.Node, error) {
	if e.options.Training {
		n.Inputs = grown(n.Inputs, moe.InputStep)
		n.Inputs[moe.InputStep] = e.step
	}
	if e.options.Seed != 0 {
		n.Attributes = slices.DeleteFunc(n.Attributes, func(a *onnx.Attribute) bool { return a.Name == moe.AttributeSeed })
		n.Attributes = append(n.Attributes, onnx.IntAttribute(moe.AttributeSeed, e.options.Seed))
	}
	config, err := moe.ParseConfig(n)
	if err != nil {
		return nil, nil, err
	}
	number := len(e.watch.layers)
	name := n.Name
	if name == "" {
		name = fmt.Sprintf("FMoE %d", number)
	}
	e.watch.layers = append(e.watch.layers, &layer{name: name, config: config})
	var values []value
	var copies []*onnx.Node
	watch := func(k kind, from string, label string) string {
		to := e.names.NewName(name + "/" + label)
		values = append(values, value{to, number, k})
		if from != "" {
			copies = append(copies, &onnx.Node{OpType: "Identity", Inputs: []string{from}, Outputs: []string{to}})
			return from
		}
		return to
	}
	for k, slot := range slots {
		n.Outputs = grown(n.Outputs, slot)
		n.Outputs[slot] = watch(kind(k), n.Outputs[slot], moe.OutputNames[slot])
	}
	if from := n.Input(moe.InputMask); from != "" {
		watch(mask, from, moe.InputNames[moe.InputMask])
	}
	return values, copies, nil
}

// grown returns a list of names that has one with the given number.
func grown(names []string, number int) []string {
	for len(names) <= number {
		names = append(names, "")
	}
	return names
}

// control lets the graphs in a node give away what is watched in them, as
// outputs of the node. Those of a loop are stacked.
func (e *editor) control(n *onnx.Node) ([]value, error) {
	if !n.Is("If") && !n.Is("Loop") && !n.Is("Scan") {
		return nil, nil
	}
	var values []value
	bodies := n.Subgraphs()
	for _, body := range bodies {
		found, err := e.graph(body)
		if err != nil {
			return nil, err
		}
		for _, v := range found {
			for _, other := range bodies {
				name := v.name
				if other != body { // the branch that is not taken has nothing to tell
					name = e.names.NewName(v.name + "/none")
					other.Nodes = append(other.Nodes, &onnx.Node{OpType: "Constant", Outputs: []string{name},
						Attributes: []*onnx.Attribute{onnx.TensorAttribute("value", onnx.NewTensor("", elementType(v.kind), []int64{0}, nil))}})
				}
				other.Outputs = append(other.Outputs, &onnx.ValueInfo{Name: name})
			}
			v.name = e.names.NewName(v.name + "/out")
			n.Outputs = append(n.Outputs, v.name)
			values = append(values, v)
		}
	}
	return values, nil
}

func elementType(k kind) onnx.DataType {
	switch k {
	case indices:
		return onnx.Int64
	case mask:
		return onnx.Bool
	}
	return onnx.Float32
}

// Add counts what the gates decided in a run, whose outputs have the names of
// the copy's.
func (w *Watch) Add(outputs map[string]*tensor.Tensor) error {
	w.runs++
	for i, l := range w.layers {
		if err := l.add(outputs); err != nil {
			return fmt.Errorf("layer %d, %q: %w", i, l.name, err)
		}
	}
	w.compare()
	return nil
}

// Number is a number that JSON has as null where it is infinite or not a
// number.
type Number float64

// MarshalJSON implements [encoding/json.Marshaler].
func (x Number) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(x), 0) || math.IsNaN(float64(x)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(x))
}

// UnmarshalJSON implements [encoding/json.Unmarshaler].
func (x *Number) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*x = Number(math.NaN())
		return nil
	}
	return json.Unmarshal(text, (*float64)(x))
}
