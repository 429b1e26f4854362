package onnx

import "strconv"

// Index answers who produces and who uses each value of one graph. It
// describes the graph as it was when the index was made; make a new one after
// changing the graph.
type Index struct {
	producers    map[string]*Node
	uses         map[string][]Use
	initializers map[string]*Tensor
	inputs       map[string]bool
	outputs      map[string]bool
	valueNames   names
	nodeNames    names
}

// Use is one use of a value by a node of the indexed graph: as its input
// number Input or, where Input is [Captured], inside one of its subgraphs.
type Use struct {
	Node  *Node
	Input int
}

// Captured is the Input of a [Use] inside a subgraph, however deep.
const Captured = -1

// Nested reports whether the use is inside a subgraph of u.Node.
func (u Use) Nested() bool { return u.Input == Captured }

// NewIndex indexes g. Names that g and the graphs nested in it use are known
// to the index; those of a graph around g are not.
func NewIndex(g *Graph) *Index {
	x := &Index{
		producers:    make(map[string]*Node),
		uses:         make(map[string][]Use),
		initializers: make(map[string]*Tensor),
		inputs:       make(map[string]bool),
		outputs:      make(map[string]bool),
		valueNames:   make(names),
		nodeNames:    make(names),
	}
	for _, v := range g.Inputs {
		x.inputs[v.Name] = true
	}
	for _, v := range g.Outputs {
		x.outputs[v.Name] = true
	}
	for _, t := range g.Initializers {
		if x.initializers[t.Name] == nil {
			x.initializers[t.Name] = t
		}
	}
	for _, n := range g.Nodes {
		for i, in := range n.Inputs {
			if in != "" {
				x.uses[in] = append(x.uses[in], Use{n, i})
			}
		}
		for _, name := range captures(n) {
			x.uses[name] = append(x.uses[name], Use{n, Captured})
		}
		for _, out := range n.Outputs {
			if out != "" && x.producers[out] == nil && x.uses[out] == nil {
				x.producers[out] = n
			}
		}
	}
	x.collectNames(g)
	return x
}

// Producer returns the node whose output value is, or nil for a graph input,
// an initializer and an unknown value. It is nil too where the value is used
// before it is computed, so that there is no way back to a node from itself.
func (x *Index) Producer(value string) *Node { return x.producers[value] }

// Consumers returns the uses of value in the order of the nodes. That the
// graph returns it, see IsOutput, is not among them.
func (x *Index) Consumers(value string) []Use { return x.uses[value] }

// Initializer returns the initializer of that name, or nil.
func (x *Index) Initializer(value string) *Tensor { return x.initializers[value] }

// IsInput reports whether value is an input of the graph; it may be an
// initializer too, which is then the input's default.
func (x *Index) IsInput(value string) bool { return x.inputs[value] }

// IsOutput reports whether value is an output of the graph.
func (x *Index) IsOutput(value string) bool { return x.outputs[value] }

// NewName returns prefix, or prefix with a number appended, such that no value
// of the graph and of those nested in it has the name, and reserves it.
func (x *Index) NewName(prefix string) string { return x.valueNames.reserve(prefix) }

// NewNodeName is NewName for the names of nodes.
func (x *Index) NewNodeName(prefix string) string { return x.nodeNames.reserve(prefix) }

func (x *Index) collectNames(g *Graph) {
	_ = g.Walk(func(g *Graph) error {
		for name := range definitions(g) {
			x.valueNames[name] = 0
		}
		for _, v := range g.Outputs {
			x.valueNames[v.Name] = 0
		}
		for _, v := range g.ValueInfo {
			x.valueNames[v.Name] = 0
		}
		for _, n := range g.Nodes {
			x.nodeNames[n.Name] = 0
			for _, in := range n.Inputs {
				x.valueNames[in] = 0
			}
		}
		return nil
	})
}

// names holds names in use, each with the number to try next after it.
type names map[string]int

func (s names) reserve(prefix string) string {
	name := prefix
	for {
		if _, used := s[name]; !used && name != "" {
			s[name] = 0
			return name
		}
		s[prefix]++
		name = prefix + "_" + strconv.Itoa(s[prefix])
	}
}

// definitions returns the names that g itself gives values.
func definitions(g *Graph) map[string]bool {
	defined := make(map[string]bool)
	for _, v := range g.Inputs {
		defined[v.Name] = true
	}
	for _, t := range g.Initializers {
		defined[t.Name] = true
	}
	for _, t := range g.SparseInitializers {
		if t.Values != nil {
			defined[t.Values.Name] = true
		}
	}
	for _, n := range g.Nodes {
		for _, out := range n.Outputs {
			defined[out] = true
		}
	}
	return defined
}

// captures returns, each once, the values of outer graphs that the subgraphs
// of n use.
func captures(n *Node) []string {
	var found []string
	seen := map[string]bool{"": true}
	for _, g := range n.Subgraphs() {
		defined := definitions(g)
		use := func(name string) {
			if !defined[name] && !seen[name] {
				seen[name] = true
				found = append(found, name)
			}
		}
		for _, inner := range g.Nodes {
			for _, in := range inner.Inputs {
				use(in)
			}
			for _, name := range captures(inner) {
				use(name)
			}
		}
		for _, v := range g.Outputs {
			use(v.Name)
		}
	}
	return found
}
