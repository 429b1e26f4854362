package onnx

import (
	"errors"
	"fmt"
	"strconv"
)

// maxProblems is how many problems Check lists before it only counts them.
const maxProblems = 100

// Check reports what is wrong with a model beyond its encoding, all problems
// joined into one error, each naming the graph and the node, value or
// initializer that it is about:
//
//   - the operator domain of each node is imported, and each domain once;
//   - each value is defined once in its graph, node outputs in no graph around
//     it either, and before it is used: nodes are in topological order;
//   - the outputs of graphs and functions are defined;
//   - tensors have as many bytes as their types and dims take;
//   - attributes have a name and a value, and refer to another attribute only
//     in a function that has it;
//   - functions are defined once, do not call themselves, and are called with
//     no more inputs and outputs than they have.
//
// It does not know operators, so not whether a node's inputs, attributes and
// types suit it.
func Check(m *Model) error {
	if m.Graph == nil {
		return errors.New("the model has no graph")
	}
	c := &checker{model: m, functions: make(map[functionID]*Function, len(m.Functions))}
	model := func() string { return "model" }
	imports := c.imports(m.OpsetImports, model)
	if len(m.OpsetImports) == 0 {
		if m.IRVersion >= 3 {
			c.problem(model, "it imports no operator set")
		}
		imports[""] = true // what IR versions 1 and 2 mean
	}
	if len(m.Functions) > 0 && m.IRVersion < 8 {
		c.problem(model, "it has functions, for which it needs IR version 8 or newer, not %d", m.IRVersion)
	}
	for _, f := range m.Functions {
		c.declare(f)
	}
	for _, f := range m.Functions {
		c.function(f)
	}
	c.recursion()
	c.graph(m.Graph, &scope{
		at:      func() string { return "graph " + quote(m.Graph.Name) },
		imports: imports,
	})
	if c.more > 0 {
		c.problems = append(c.problems, fmt.Errorf("and %d problems more", c.more))
	}
	return errors.Join(c.problems...)
}

// checker is the state of one check.
type checker struct {
	model     *Model
	functions map[functionID]*Function
	problems  []error
	more      int // problems beyond maxProblems
}

// place says where in a model something is. It is a function as most places
// are never needed.
type place func() string

func (p place) of(n *Node, i int) place {
	return func() string { return p() + ": " + label(n, i) }
}

func (c *checker) problem(at place, format string, args ...any) {
	if len(c.problems) == maxProblems {
		c.more++
		return
	}
	c.problems = append(c.problems, fmt.Errorf("%s: %w", at(), fmt.Errorf(format, args...)))
}

// imports returns the domains that a model or function imports.
func (c *checker) imports(list []OpsetImport, at place) map[string]bool {
	domains := make(map[string]bool, len(list))
	for _, o := range list {
		domain := CanonicalDomain(o.Domain)
		if domains[domain] {
			c.problem(at, "it imports the operator domain %s twice", quote(o.Domain))
		}
		if o.Version < 1 {
			c.problem(at, "it imports version %d of the operator domain %s, versions start at 1", o.Version, quote(o.Domain))
		}
		domains[domain] = true
	}
	return domains
}

// scope is the values that a node may use: those that its graph has defined
// so far, and those of the graphs around it.
type scope struct {
	outer      *scope
	at         place
	values     map[string]bool  // defined so far
	later      map[string]*Node // the producers of what its nodes define, sooner or later
	misplaced  []error          // uses of values that a later node defines
	imports    map[string]bool
	attributes map[string]bool // of the function whose body this is in, nil in the main graph
}

// define adds a value and reports whether its graph did not have it.
func (s *scope) define(name string) bool {
	if s.values[name] {
		return false
	}
	s.values[name] = true
	return true
}

func (s *scope) visible(name string) bool {
	for ; s != nil; s = s.outer {
		if s.values[name] {
			return true
		}
	}
	return false
}

// graph checks g in s, which is new.
func (c *checker) graph(g *Graph, s *scope) {
	s.values = make(map[string]bool, len(g.Inputs)+len(g.Initializers)+len(g.Nodes))
	for i, v := range g.Inputs {
		switch {
		case v.Name == "":
			c.problem(s.at, "input %d has no name", i)
		case !s.define(v.Name):
			c.problem(s.at, "there are two inputs %s", quote(v.Name))
		}
	}
	initializers := make(map[string]bool, len(g.Initializers))
	initializer := func(name string) {
		switch {
		case name == "":
			c.problem(s.at, "an initializer has no name")
		case initializers[name]:
			c.problem(s.at, "there are two initializers %s", quote(name))
		}
		initializers[name] = true
		s.define(name) // an input of that name has this as its default
	}
	for _, t := range g.Initializers {
		initializer(t.Name)
		if err := t.check(); err != nil {
			c.problem(s.at, "initializer %w", err)
		}
	}
	for i, t := range g.SparseInitializers {
		if t.Values != nil {
			initializer(t.Values.Name)
		}
		if err := t.check(); err != nil {
			c.problem(s.at, "sparse initializer %d: %w", i, err)
		}
	}
	c.nodes(g.Nodes, s)
	for i, v := range g.Outputs {
		if !s.visible(v.Name) {
			c.problem(s.at, "output %d, %s, is produced by no node", i, quote(v.Name))
		}
	}
}

// nodes checks the nodes of a graph or function.
func (c *checker) nodes(nodes []*Node, s *scope) {
	s.later = make(map[string]*Node, len(nodes))
	for _, n := range nodes {
		for _, out := range n.Outputs {
			if out != "" && s.later[out] == nil {
				s.later[out] = n
			}
		}
	}
	for i, n := range nodes {
		at := s.at.of(n, i)
		c.node(n, s, at)
		for _, out := range n.Outputs {
			if out == "" {
				continue
			}
			if s.visible(out) {
				c.problem(at, "its output %s has the name of another value", quote(out))
			}
			s.define(out)
		}
	}
	if len(s.misplaced) == 0 {
		return
	}
	if cycle := findCycle(nodes); cycle != "" {
		c.problem(s.at, "nodes depend on one another in a cycle: %s", cycle)
		return
	}
	for _, err := range s.misplaced {
		c.problem(s.at, "%w", err)
	}
}

func (c *checker) node(n *Node, s *scope, at place) {
	if n.OpType == "" {
		c.problem(at, "it has no operator")
	}
	if domain := CanonicalDomain(n.Domain); !s.imports[domain] {
		c.problem(at, "no version of its operator domain %s is imported", quote(n.Domain))
		s.imports[domain] = true // one report for each domain will do
	}
	for slot, in := range n.Inputs {
		if in != "" && !s.visible(in) {
			c.undefined(n, slot, s, at)
		}
	}
	if f := c.functions[n.calls()]; f != nil {
		if len(n.Inputs) > len(f.Inputs) || len(n.Outputs) > len(f.Outputs) {
			c.problem(at, "it has %d inputs and %d outputs, the function that it calls %d and %d",
				len(n.Inputs), len(n.Outputs), len(f.Inputs), len(f.Outputs))
		}
	}
	c.attributes(n.Attributes, s, at)
}

// undefined reports an input of n that is not defined where it is used.
func (c *checker) undefined(n *Node, slot int, s *scope, at place) {
	name := n.Inputs[slot]
	for around := s; around != nil; around = around.outer {
		if producer := around.later[name]; producer != nil {
			if len(around.misplaced) < maxProblems {
				around.misplaced = append(around.misplaced, fmt.Errorf("%s: its input %d, %s, is produced by a later node, %s: sort the nodes",
					label(n, -1), slot, quote(name), label(producer, -1)))
			}
			return
		}
	}
	c.problem(at, "there is no value %s for its input %d", quote(name), slot)
}

// label names a node for messages; i is its number in its graph, -1 when
// unknown.
func label(n *Node, i int) string {
	switch {
	case n.Name != "":
		return fmt.Sprintf("node %s (%s)", quote(n.Name), clip(n.OpType))
	case i >= 0:
		return fmt.Sprintf("node %d (%s)", i, clip(n.OpType))
	}
	return fmt.Sprintf("a node without name (%s)", clip(n.OpType))
}

// quote writes a name of a file for messages.
func quote(name string) string { return strconv.Quote(clip(name)) }

// clip shortens a name that would make a message unreadable.
func clip(name string) string {
	const most = 200
	if len(name) <= most {
		return name
	}
	return name[:most] + "…"
}
