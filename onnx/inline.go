package onnx

import (
	"fmt"
	"slices"
)

// maxInlined bounds the nodes that Inline may create, for models whose
// functions call one another many times over.
const maxInlined = 1 << 20

// Inline replaces calls of model-local functions by the functions' bodies, in
// the graph and all its subgraphs, except calls for which keep returns true.
// Functions that are no longer called are removed. The model must have passed
// [Check]; a function that is written in another operator set version than
// the model is an error.
func (m *Model) Inline(keep func(*Node) bool) error {
	if len(m.Functions) == 0 {
		return nil
	}
	in := &inliner{model: m, keep: keep, names: NewIndex(m.Graph)}
	if err := in.graph(m.Graph); err != nil {
		return err
	}
	called := map[*Function]bool{}
	var mark func(nodes []*Node)
	mark = func(nodes []*Node) {
		for _, n := range nodes {
			if f := m.Function(n); f != nil && !called[f] {
				called[f] = true
				mark(f.Nodes)
			}
			for _, g := range n.Subgraphs() {
				mark(g.Nodes)
			}
		}
	}
	mark(m.Graph.Nodes)
	m.Functions = slices.DeleteFunc(m.Functions, func(f *Function) bool { return !called[f] })
	return nil
}

type inliner struct {
	model   *Model
	keep    func(*Node) bool
	names   *Index
	created int
	depth   int
}

func (in *inliner) graph(g *Graph) error {
	nodes := make([]*Node, 0, len(g.Nodes))
	for _, n := range g.Nodes {
		body, err := in.node(n)
		if err != nil {
			return err
		}
		nodes = append(nodes, body...)
	}
	g.Nodes = nodes
	return nil
}

// node returns what n becomes: itself, or the body of the function it calls.
func (in *inliner) node(n *Node) ([]*Node, error) {
	f := in.model.Function(n)
	if f == nil || in.keep(n) {
		for _, g := range n.Subgraphs() {
			if err := in.graph(g); err != nil {
				return nil, err
			}
		}
		return []*Node{n}, nil
	}
	if in.depth++; in.depth > 100 {
		return nil, fmt.Errorf("function %s::%s calls itself or nests deeper than 100", f.Domain, f.Name)
	}
	defer func() { in.depth-- }()
	if err := in.matchOpsets(f); err != nil {
		return nil, err
	}
	if len(n.Inputs) > len(f.Inputs) || len(n.Outputs) > len(f.Outputs) {
		return nil, fmt.Errorf("node %q has more inputs or outputs than the function %s::%s that it calls", n.Name, f.Domain, f.Name)
	}
	call := &call{node: n, function: f, index: in.names, values: map[string]string{"": ""}}
	for i, name := range f.Inputs {
		call.values[name] = n.Input(i)
	}
	for i, name := range f.Outputs {
		if out := n.Output(i); out != "" {
			if _, isInput := call.values[name]; isInput {
				return nil, fmt.Errorf("function %s::%s returns its input %q unchanged, which cannot be inlined", f.Domain, f.Name, name)
			}
			call.values[name] = out
		}
	}
	var nodes []*Node
	for _, inner := range f.Nodes {
		body, err := in.node(call.copyNode(inner))
		if err != nil {
			return nil, err
		}
		if in.created += len(body); in.created > maxInlined {
			return nil, fmt.Errorf("the model's functions expand to more than %d nodes", maxInlined)
		}
		nodes = append(nodes, body...)
	}
	return nodes, nil
}

// matchOpsets makes sure that the function's nodes mean the same in the
// model, importing domains that only the function used.
func (in *inliner) matchOpsets(f *Function) error {
	for _, o := range f.OpsetImports {
		v, ok := in.model.OpsetVersion(o.Domain)
		if !ok {
			in.model.OpsetImports = append(in.model.OpsetImports, o)
		} else if v != o.Version {
			return fmt.Errorf("function %s::%s is written in version %d of domain %q, the model in version %d; convert one of them",
				f.Domain, f.Name, o.Version, o.Domain, v)
		}
	}
	return nil
}

// call is the expansion of one function call.
type call struct {
	node     *Node
	function *Function
	index    *Index
	values   map[string]string // names of the body → names in the graph
}

func (c *call) rename(name string) string {
	if to, ok := c.values[name]; ok {
		return to
	}
	to := c.index.NewName(c.prefix() + name)
	c.values[name] = to
	return to
}

func (c *call) prefix() string {
	if c.node.Name != "" {
		return c.node.Name + "/"
	}
	return c.function.Name + "/"
}

// copyNode copies a node of the body with the caller's names and attributes.
func (c *call) copyNode(n *Node) *Node {
	out := n.Clone()
	out.Name = c.index.NewNodeName(c.prefix() + n.Name)
	c.adapt(out)
	return out
}

// adapt gives a copied node, and what is nested in it, the caller's names and
// attributes.
func (c *call) adapt(n *Node) {
	for i, name := range n.Inputs {
		n.Inputs[i] = c.rename(name)
	}
	for i, name := range n.Outputs {
		n.Outputs[i] = c.rename(name)
	}
	c.attributes(n)
	for _, g := range n.Subgraphs() {
		for _, v := range slices.Concat(g.Inputs, g.Outputs, g.ValueInfo) {
			v.Name = c.rename(v.Name)
		}
		for _, t := range g.Initializers {
			t.Name = c.rename(t.Name)
		}
		for _, inner := range g.Nodes {
			c.adapt(inner)
		}
	}
}

// attributes replaces references to the function's attributes by what the
// caller gave, else by the default; a reference to nothing is dropped.
func (c *call) attributes(n *Node) {
	n.Attributes = slices.DeleteFunc(n.Attributes, func(a *Attribute) bool {
		if a.RefName == "" {
			return false
		}
		given := c.node.Attribute(a.RefName)
		if given == nil {
			for _, d := range c.function.AttributeDefaults {
				if d.Name == a.RefName {
					given = d
				}
			}
		}
		if given == nil {
			return true
		}
		name := a.Name
		*a = *given
		a.Name = name
		return false
	})
}
