package onnx

import (
	"errors"
	"fmt"
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
	imports := c.imports("the model", m.OpsetImports)
	if len(m.OpsetImports) == 0 {
		if m.IRVersion >= 3 {
			c.problem("the model imports no operator set")
		}
		imports[""] = true // what IR versions 1 and 2 mean
	}
	if len(m.Functions) > 0 && m.IRVersion < 8 {
		c.problem("the model has functions, for which it needs IR version 8 or newer, not %d", m.IRVersion)
	}
	for _, f := range m.Functions {
		c.declare(f)
	}
	for _, f := range m.Functions {
		c.function(f)
	}
	c.recursion()
	c.graph(m.Graph, &scope{
		path:    fmt.Sprintf("graph %q", m.Graph.Name),
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

func (c *checker) problem(format string, args ...any) {
	if len(c.problems) == maxProblems {
		c.more++
		return
	}
	c.problems = append(c.problems, fmt.Errorf(format, args...))
}

// imports returns the domains that a model or function imports.
func (c *checker) imports(who string, list []OpsetImport) map[string]bool {
	domains := make(map[string]bool, len(list))
	for _, o := range list {
		domain := CanonicalDomain(o.Domain)
		if domains[domain] {
			c.problem("%s imports operator domain %q twice", who, o.Domain)
		}
		if o.Version < 1 {
			c.problem("%s imports operator domain %q in version %d, versions start at 1", who, o.Domain, o.Version)
		}
		domains[domain] = true
	}
	return domains
}

// scope is the values that a node may use: those that its graph has defined
// so far, and those of the graphs around it.
type scope struct {
	outer     *scope
	path      string           // where it is, for messages
	values    map[string]bool  // defined so far
	later     map[string]*Node // outputs of nodes that have not been checked
	misplaced []error          // uses of values in later
	imports   map[string]bool
	function  *Function // whose body this is in, nil in the main graph
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
			c.problem("%s: input %d has no name", s.path, i)
		case !s.define(v.Name):
			c.problem("%s: there are two inputs %q", s.path, v.Name)
		}
	}
	initializers := make(map[string]bool, len(g.Initializers))
	initializer := func(name string) {
		switch {
		case name == "":
			c.problem("%s: an initializer has no name", s.path)
		case initializers[name]:
			c.problem("%s: there are two initializers %q", s.path, name)
		}
		initializers[name] = true
		s.define(name) // an input of that name has this as its default
	}
	for _, t := range g.Initializers {
		initializer(t.Name)
		if err := t.check(); err != nil {
			c.problem("%s: initializer %w", s.path, err)
		}
	}
	for i, t := range g.SparseInitializers {
		if t.Values != nil {
			initializer(t.Values.Name)
		}
		if err := t.check(); err != nil {
			c.problem("%s: sparse initializer %d: %w", s.path, i, err)
		}
	}
	c.nodes(g.Nodes, s)
	for i, v := range g.Outputs {
		if !s.visible(v.Name) {
			c.problem("%s: output %d, %q, is produced by no node", s.path, i, v.Name)
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
		c.node(n, i, s)
		for _, out := range n.Outputs {
			if out == "" {
				continue
			}
			if s.visible(out) {
				c.problem("%s: %s: there is another value of the name of its output %q", s.path, label(n, i), out)
			}
			s.define(out)
			delete(s.later, out)
		}
	}
	if len(s.misplaced) == 0 {
		return
	}
	if cycle := findCycle(nodes); cycle != "" {
		c.problem("%s: nodes depend on one another in a cycle: %s", s.path, cycle)
		return
	}
	for _, err := range s.misplaced {
		c.problem("%w", err)
	}
}

func (c *checker) node(n *Node, i int, s *scope) {
	if n.OpType == "" {
		c.problem("%s: %s has no operator", s.path, label(n, i))
	}
	if domain := CanonicalDomain(n.Domain); !s.imports[domain] {
		c.problem("%s: %s: no version of its operator domain %q is imported", s.path, label(n, i), n.Domain)
		s.imports[domain] = true // one report for each domain will do
	}
	for slot, in := range n.Inputs {
		c.use(in, s, func() string { return fmt.Sprintf("%s: %s: input %d", s.path, label(n, i), slot) })
	}
	if f := c.functions[n.calls()]; f != nil {
		if len(n.Inputs) > len(f.Inputs) || len(n.Outputs) > len(f.Outputs) {
			c.problem("%s: %s has %d inputs and %d outputs, the function that it calls %d and %d",
				s.path, label(n, i), len(n.Inputs), len(n.Outputs), len(f.Inputs), len(f.Outputs))
		}
	}
	c.attributes(n.Attributes, s, func() string { return fmt.Sprintf("%s: %s", s.path, label(n, i)) })
}

// use reports a value that cannot be used in s.
func (c *checker) use(name string, s *scope, where func() string) {
	if name == "" || s.visible(name) {
		return
	}
	for ; s != nil; s = s.outer {
		if producer := s.later[name]; producer != nil {
			if len(s.misplaced) < maxProblems {
				s.misplaced = append(s.misplaced, fmt.Errorf("%s: %q is only produced by a later node, %s; sort the nodes", where(), name, label(producer, -1)))
			}
			return
		}
	}
	c.problem("%s: there is no value %q", where(), name)
}

// label names a node for messages; i is its number in its graph, -1 when
// unknown.
func label(n *Node, i int) string {
	switch {
	case n.Name != "":
		return fmt.Sprintf("node %q (%s)", n.Name, n.OpType)
	case i >= 0:
		return fmt.Sprintf("node %d (%s)", i, n.OpType)
	}
	return fmt.Sprintf("a node without name (%s)", n.OpType)
}
