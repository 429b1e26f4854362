package runtime

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/cpu"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Infer calls visit for every node of a model, as the file has it, with what
// is known of its inputs and outputs for inputs of the given types and shapes.
// Constants and what is small and follows from them have their content. The
// nodes of an If's branch are visited where its condition is known; those of
// loops are not.
func Infer(m *onnx.Model, inputs map[string]*tensor.Tensor, visit func(n *op.Node, in, out []op.Fact)) error {
	d, err := device.Open(cpu.Name, device.Options{Threads: 1})
	if err != nil {
		return err
	}
	defer d.Close()
	m = m.Clone()
	if err := m.Inline(func(n *onnx.Node) bool { return d.Supports(n.Domain, n.OpType) }); err != nil {
		return err
	}
	t := &tracer{model: m, host: &evaluator{device: d, memory: newBudget(0)}, visit: visit}
	facts := map[string]op.Fact{}
	for _, v := range m.Graph.Inputs {
		if x := inputs[v.Name]; x != nil {
			facts[v.Name] = op.Fact{Type: x.Type, Shape: op.Dims(x.Shape...)}
		}
	}
	return t.graph(m.Graph, facts)
}

// tracer infers a model's values one node after the other.
type tracer struct {
	model   *onnx.Model
	host    *evaluator
	symbols op.Symbols
	visit   func(n *op.Node, in, out []op.Fact)
}

// graph adds the values of a graph to facts, which has those of its inputs and
// of the graphs around it.
func (t *tracer) graph(g *onnx.Graph, facts map[string]op.Fact) error {
	for _, w := range g.Initializers {
		if _, given := facts[w.Name]; given {
			continue
		}
		v, err := tensor.FromONNX(w)
		if err != nil {
			return fmt.Errorf("initializer %q: %w", w.Name, err)
		}
		facts[w.Name] = op.FactOf(v)
	}
	for _, n := range g.Nodes {
		var taken *onnx.Graph
		err := guard(n, func() (err error) {
			taken, err = t.node(n, facts)
			return err
		})
		if err == nil && taken != nil {
			err = t.graph(taken, facts)
		}
		if err != nil {
			return err
		}
		if taken != nil {
			for i, v := range taken.Outputs {
				facts[n.Output(i)] = facts[v.Name]
			}
		}
	}
	return nil
}

// node infers a node's outputs, or returns the branch that an If takes.
func (t *tracer) node(n *onnx.Node, facts map[string]op.Fact) (taken *onnx.Graph, err error) {
	in := make([]op.Fact, len(n.Inputs))
	for i, name := range n.Inputs {
		in[i] = facts[name]
	}
	if controls[n.OpType] != nil && onnx.CanonicalDomain(n.Domain) == "" {
		return branch(n, in), nil
	}
	version, _ := t.model.OpsetVersion(n.Domain)
	resolved, err := op.Resolve(n, version)
	if err != nil {
		return nil, err
	}
	out, err := op.Infer(resolved, in, &t.symbols)
	if err != nil {
		return nil, err
	}
	if err := t.host.fold(resolved, nil, in, out, bindFoldLimit); err != nil {
		return nil, err
	}
	t.visit(resolved, in, out)
	for i, name := range n.Outputs {
		facts[name] = out[i]
	}
	return nil, nil
}

// branch returns the branch that a node is known to take, if it is an If.
func branch(n *onnx.Node, in []op.Fact) *onnx.Graph {
	if n.OpType != "If" || len(in) != 1 || in[0].Value == nil || in[0].Type != onnx.Bool || in[0].Value.Len() != 1 {
		return nil
	}
	name := "else_branch"
	if tensor.Of[bool](in[0].Value)[0] {
		name = "then_branch"
	}
	a := n.Attribute(name)
	if a == nil || a.Graph == nil || len(a.Graph.Outputs) < len(n.Outputs) {
		return nil
	}
	return a.Graph
}
