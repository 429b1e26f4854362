package fmoefy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// RegateOptions say what Regate changes. What is not given stays as it is.
type RegateOptions struct {
	// TopK is the number of experts for each token. Where another gate refuses
	// what a node has, the default is what that gate takes.
	TopK int

	// Workers is the number of workers that share the experts, for gates to
	// which it matters.
	Workers int

	GateOptions

	// Include and Exclude select FMoE nodes as [Options] select blocks.
	Include, Exclude []string
}

// RegateReport says what Regate did.
type RegateReport struct {
	Nodes []RegatedNode `json:"nodes"`

	// Equal: in evaluation the model computes the same function as before.
	Equal bool `json:"equal"`
}

// RegatedNode describes an FMoE node and what became of it.
type RegatedNode struct {
	Index   int    `json:"index"`
	Name    string `json:"name"`
	Graph   string `json:"graph"`
	Experts int    `json:"experts"`
	TopK    int    `json:"top_k"`
	Gate    string `json:"gate"`

	Changes []Change `json:"changes"`
	Reason  string   `json:"reason,omitempty"` // why it was left as it is

	// Equal: in evaluation the node computes the same function as before.
	Equal bool `json:"equal"`

	// NoBody says why the node has no function as its body, so that other
	// runtimes cannot run it.
	NoBody string `json:"no_body,omitempty"`
}

// Change is an attribute or an input of a node that is another than before.
// An input that is not there is "".
type Change struct {
	Name   string `json:"name"`
	Before any    `json:"before"`
	After  any    `json:"after"`
}

// Regate changes the gate, the top-k or the capacity of FMoE nodes, in
// subgraphs too, and leaves their experts alone. With another gate, what a node
// says stays where the new gate takes it, and all else becomes that gate's
// default. m changes only if everything succeeded; the result passes
// onnx.Check. As after [Rewrite], a model that was read from a file must stay
// open until the result is written.
func Regate(m *onnx.Model, o RegateOptions) (RegateReport, error) {
	if err := onnx.Check(m); err != nil {
		return RegateReport{}, fmt.Errorf("the model is not valid: %w", err)
	}
	opset, ok := m.OpsetVersion("")
	if !ok || opset < minOpset {
		return RegateReport{}, errOpset(opset)
	}
	w := m.Clone()
	if hasCalls(w) {
		if err := inline(w); err != nil {
			return RegateReport{}, err
		}
	}
	r := &regater{model: w, options: o, opset: opset, names: onnx.NewIndex(w.Graph), added: map[string]string{}}
	if err := r.regate(); err != nil {
		return RegateReport{}, err
	}
	if err := onnx.Check(w); err != nil {
		return RegateReport{}, fmt.Errorf("the model with other gates is not valid, which is an error in fmoefy: %w", err)
	}
	m.IRVersion, m.OpsetImports, m.Graph, m.Functions = w.IRVersion, w.OpsetImports, w.Graph, w.Functions
	return r.report, nil
}

// regater edits a model.
type regater struct {
	model   *onnx.Model
	options RegateOptions
	opset   int64
	names   *onnx.Index
	added   map[string]string // names of values, by what they are made of
	report  RegateReport
}

func (r *regater) regate() error {
	var nodes []*exportedNode
	other := false
	for _, s := range scopes(r.model) {
		for _, n := range s.graph.Nodes {
			other = other || isContrib(n, "MoE") || isContrib(n, "QMoE")
			if n.Domain != moe.Domain || n.OpType != moe.OpType {
				continue
			}
			e, err := readFMoE(s, n)
			if err != nil && !errors.Is(err, moe.ErrUnknownGate) {
				return fmt.Errorf("%s: %w", nodeName(n), err)
			}
			nodes = append(nodes, e)
		}
	}
	switch {
	case len(nodes) == 0 && other:
		return errors.New("the model has ONNX Runtime's mixtures of experts: turn them into FMoE nodes with fmoefy import first")
	case len(nodes) == 0:
		return errors.New("the model has no FMoE node: make some with fmoefy, or of other mixtures of experts with fmoefy import")
	}
	blocks := make([]Block, len(nodes))
	for i, e := range nodes {
		blocks[i] = Block{Index: i, Name: e.name(), scope: e.scope}
	}
	reasons, err := Options{Include: r.options.Include, Exclude: r.options.Exclude, EveryN: 1}.choose(blocks)
	if err != nil {
		return err
	}
	// The functions that the changed nodes call may be gone.
	r.model.Functions = slices.DeleteFunc(r.model.Functions, func(f *onnx.Function) bool { return f.Domain == moe.Domain })
	before := inputsOf(nodes)
	r.report.Equal = true
	for i, e := range nodes {
		d := RegatedNode{Index: i, Name: e.name(), Graph: e.scope.path, Experts: e.experts, Changes: []Change{}, Reason: reasons[i], Equal: true}
		if d.Reason == "" {
			if err := r.change(e, &d); err != nil {
				return fmt.Errorf("%s: %w", nodeName(e.node), err)
			}
		}
		if err := (functions{r.model}).give(e.node, e.config, e.elementType, e.stored, r.opset); err != nil {
			d.NoBody = err.Error()
		}
		d.Gate, d.TopK = e.config.Gate, e.config.TopK
		r.report.Equal = r.report.Equal && d.Equal
		r.report.Nodes = append(r.report.Nodes, d)
	}
	prune(r.model, before, map[*onnx.Graph]map[string]bool{})
	return nil
}

// change gives a node its new configuration and inputs.
func (r *regater) change(e *exportedNode, d *RegatedNode) error {
	n, before := e.node, e.config
	was, unknown := newVariant(n, before, e.elementType, e.stored, r.opset)
	config, err := r.options.settle(before, e.experts)
	if err != nil {
		return err
	}
	after := maps.Collect(config.All())
	for name, value := range before.All() {
		if after[name] != value {
			d.Changes = append(d.Changes, Change{name, value, after[name]})
		}
	}
	e.config, n.Attributes = config, config.Encode()
	d.Equal = len(d.Changes) == 0
	if is, err := newVariant(n, config, e.elementType, e.stored, r.opset); unknown == nil && err == nil {
		d.Equal = was.routing == is.routing && (before.TopK == config.TopK || !is.routing.countsTopK())
	}
	return r.changeInputs(e, d)
}

// settle returns a configuration with what the options change.
func (o *RegateOptions) settle(c moe.Config, experts int) (moe.Config, error) {
	if o.Gate != "" && o.Gate != c.Gate {
		c = c.WithGate(o.Gate)
	}
	if o.TopK != 0 {
		c.TopK = o.TopK
		return o.configure(c, o.Workers, experts)
	}
	settled, refused := o.configure(c, o.Workers, experts)
	for c.TopK = min(2, experts); refused != nil && c.TopK > 0; c.TopK-- {
		if other, err := o.configure(c, o.Workers, experts); err == nil {
			return other, nil
		}
	}
	return settled, refused
}

// changeInputs adds and removes the inputs that depend on the gate.
func (r *regater) changeInputs(e *exportedNode, d *RegatedNode) error {
	n, o := e.node, r.options
	kind, err := moe.KindOf(e.config.Gate)
	if err != nil {
		return err
	}
	put := func(slot int, value string) {
		if before := n.Input(slot); before != value {
			setInput(n, slot, value)
			d.Changes = append(d.Changes, Change{moe.InputNames[slot], before, value})
		}
	}
	wanted := func(slot int, wanted bool) error {
		switch {
		case !wanted:
			d.Equal = d.Equal && (slot != moe.InputSelectionBias || e.isZero(n.Input(slot)))
			put(slot, "")
		case n.Input(slot) == "":
			value, err := r.zeros(e, slot)
			if err != nil {
				return err
			}
			put(slot, value)
		}
		return nil
	}
	if err := wanted(moe.InputNoiseWeight, kind.Noisy); err != nil {
		return err
	}
	biased := n.Input(moe.InputSelectionBias) != "" && kind.SelectionBias
	set(&biased, o.SelectionBias)
	if err := wanted(moe.InputSelectionBias, biased); err != nil {
		return err
	}
	if o.TokenMask == "" {
		return nil
	}
	mask, err := r.mask(e)
	if err != nil {
		return err
	}
	d.Equal = d.Equal && mask == n.Input(moe.InputMask)
	put(moe.InputMask, mask)
	return nil
}

// isZero reports whether a value is a tensor of zeros, or none at all.
func (e *exportedNode) isZero(value string) bool {
	if value == "" {
		return true
	}
	c, err := e.scope.constant(value)
	if err != nil {
		return false
	}
	elements, err := c.bytes()
	return err == nil && !slices.ContainsFunc(widen(c.elementType(), elements), func(x float64) bool { return x != 0 })
}

// zeros returns the name of an initializer of zeros for noise_weight or
// selection_bias, one for each router.
func (r *regater) zeros(e *exportedNode, slot int) (string, error) {
	gate := e.node.Input(moe.InputGateWeight)
	key := moe.InputNames[slot] + " of " + gate
	if name, done := r.added[key]; done {
		return name, nil
	}
	weight, err := e.scope.constant(gate)
	if err != nil || len(weight.dims) != 2 {
		return "", fmt.Errorf("gate_weight is no constant matrix, so that %s cannot be made", moe.InputNames[slot])
	}
	dims := weight.dims
	if slot == moe.InputSelectionBias {
		dims = dims[1:]
	}
	name := strings.TrimSuffix(gate, moe.InputNames[moe.InputGateWeight]) + moe.InputNames[slot]
	t := zeros(weight.elementType(), dims...).whole(r.names.NewName(name))
	r.model.Graph.Initializers = append(r.model.Graph.Initializers, t)
	r.added[key] = t.Name
	return t.Name, nil
}

// mask returns the token mask as a value of bool, which it adds to the graph
// before the node.
func (r *regater) mask(e *exportedNode) (string, error) {
	mask := r.options.TokenMask
	isBool, err := e.scope.checkMask(mask, e.node.Input(moe.InputX), e.node)
	if err != nil || isBool {
		return mask, err
	}
	key := e.scope.path + " has " + mask
	if name, done := r.added[key]; done {
		return name, nil
	}
	g := e.scope.graph
	cast := &onnx.Node{Name: r.names.NewNodeName(mask + ".Cast"), OpType: "Cast", Inputs: []string{mask}, Outputs: []string{r.names.NewName(mask + ".bool")},
		Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Bool))}}
	g.Nodes = slices.Insert(g.Nodes, slices.Index(g.Nodes, e.node), cast)
	r.added[key] = cast.Outputs[0]
	return cast.Outputs[0], nil
}
