package onnx

import (
	"slices"
	"strings"
)

// maxCallDepth bounds how deep functions may call one another.
const maxCallDepth = 100

// functionID identifies a model-local function.
type functionID struct{ domain, name, overload string }

func (f *Function) id() functionID {
	return functionID{CanonicalDomain(f.Domain), f.Name, f.Overload}
}

// calls is the function that n calls, if the model has it.
func (n *Node) calls() functionID {
	return functionID{CanonicalDomain(n.Domain), n.OpType, n.Overload}
}

// String writes the id as domain::name or domain::name:overload.
func (id functionID) String() string {
	s := clip(id.domain) + "::" + clip(id.name)
	if id.overload != "" {
		s += ":" + clip(id.overload)
	}
	return s
}

// declare makes f known to the nodes that call it.
func (c *checker) declare(f *Function) {
	id := f.id()
	switch {
	case f.Name == "":
		c.problem(id.String, "the function has no name")
	case c.functions[id] != nil:
		c.problem(id.String, "there are two such functions")
	}
	if c.functions[id] == nil {
		c.functions[id] = f
	}
}

func (c *checker) function(f *Function) {
	at := func() string { return "function " + f.id().String() }
	s := &scope{
		at:         at,
		values:     make(map[string]bool, len(f.Inputs)+len(f.Nodes)),
		imports:    c.imports(f.OpsetImports, at),
		attributes: make(map[string]bool),
	}
	for _, in := range f.Inputs {
		if !s.define(in) {
			c.problem(at, "there are two inputs %s", quote(in))
		}
	}
	attribute := func(name string) {
		if s.attributes[name] {
			c.problem(at, "there are two attributes %s", quote(name))
		}
		s.attributes[name] = true
	}
	for _, name := range f.Attributes {
		attribute(name)
	}
	for _, a := range f.AttributeDefaults {
		attribute(a.Name)
		if err := a.check(nil); err != nil {
			c.problem(at, "attribute %s %w", quote(a.Name), err)
		}
	}
	c.nodes(f.Nodes, s)
	for _, out := range f.Outputs {
		if !s.visible(out) {
			c.problem(at, "output %s is produced by no node", quote(out))
		}
	}
}

// recursion reports a function that calls itself, directly or through others,
// and calls that nest too deep.
func (c *checker) recursion() {
	depth := make(map[*Function]int) // of calls below a function that is done
	var stack []*Function
	var visit func(f *Function) bool
	visit = func(f *Function) bool {
		if i := slices.Index(stack, f); i >= 0 {
			var names []string
			for _, g := range append(stack[i:], f) {
				names = append(names, g.id().String())
			}
			c.problem(f.id().String, "the function calls itself: %s", strings.Join(names, " calls "))
			return false
		}
		if len(stack)+depth[f] >= maxCallDepth {
			c.problem(stack[0].id().String, "calls of functions nest more than %d deep", maxCallDepth)
			return false
		}
		if _, done := depth[f]; done {
			return true
		}
		stack = append(stack, f)
		deepest := 0
		for _, callee := range c.callees(f.Nodes) {
			if !visit(callee) {
				return false
			}
			deepest = max(deepest, depth[callee]+1)
		}
		stack = stack[:len(stack)-1]
		depth[f] = deepest
		return true
	}
	for _, f := range c.model.Functions {
		if !visit(f) {
			return
		}
	}
}

// callees returns the functions, each once, that the nodes and the graphs in
// them call.
func (c *checker) callees(nodes []*Node) []*Function {
	var found []*Function
	seen := make(map[*Function]bool)
	var collect func(nodes []*Node)
	collect = func(nodes []*Node) {
		for _, n := range nodes {
			if f := c.functions[n.calls()]; f != nil && !seen[f] {
				seen[f] = true
				found = append(found, f)
			}
			for _, g := range n.Subgraphs() {
				collect(g.Nodes)
			}
		}
	}
	collect(nodes)
	return found
}
