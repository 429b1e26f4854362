package fmoefy

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// scope is one graph of a model together with the graphs around it, whose
// values its nodes can see.
type scope struct {
	model  *onnx.Model
	graph  *onnx.Graph
	parent *scope // nil for the model's own graph
	path   string // where the graph is, such as "main/If_3.then_branch"
	index  *onnx.Index

	dequantizer *dequantizer // of the whole model; nil where quantised weights are refused

	declared map[string]*onnx.Type // types stated by inputs, outputs and value_info
	shapes   map[string][]dim      // what shapeOf found
	dims     map[string]dimensions // what dimsOf found
	roots    map[string]string     // what shapeRoot found

	effort *effort // of the whole model
}

// effort counts the nodes that resolving one constant visits, so that a graph
// with a cycle, or one in which a value is used twice at each of many steps,
// ends in an error.
type effort struct{ nesting, visited int }

func newScope(m *onnx.Model, g *onnx.Graph, parent *scope, path string) *scope {
	s := &scope{model: m, graph: g, parent: parent, path: path, index: onnx.NewIndex(g),
		declared: map[string]*onnx.Type{}, shapes: map[string][]dim{}, dims: map[string]dimensions{}, roots: map[string]string{}, effort: &effort{}}
	if parent != nil {
		s.effort = parent.effort
	}
	for _, list := range [][]*onnx.ValueInfo{g.ValueInfo, g.Outputs, g.Inputs} {
		for _, v := range list {
			if v.Type != nil && v.Type.Kind == onnx.KindTensor {
				s.declared[v.Name] = v.Type
			}
		}
	}
	return s
}

// scopes returns the scope of the model's graph and those of all graphs
// nested in it, each before the ones inside it.
func scopes(m *onnx.Model) []*scope {
	var all []*scope
	var add func(s *scope)
	add = func(s *scope) {
		all = append(all, s)
		for i, n := range s.graph.Nodes {
			name := n.Name
			if name == "" {
				name = fmt.Sprintf("%s_%d", n.OpType, i)
			}
			for _, a := range n.Attributes {
				for _, g := range append(a.Graphs[:len(a.Graphs):len(a.Graphs)], a.Graph) {
					if g != nil {
						add(newScope(m, g, s, s.path+"/"+name+"."+a.Name))
					}
				}
			}
		}
	}
	add(newScope(m, m.Graph, nil, "main"))
	return all
}

// definition is where a value comes from; at most one of its fields node and
// tensor is set, and neither for a graph input or an unknown value.
type definition struct {
	scope  *scope
	node   *onnx.Node
	tensor *onnx.Tensor
}

// lookup finds what defines a value in s or, if it is captured, in a graph
// around s.
func (s *scope) lookup(value string) definition {
	for at := s; at != nil; at = at.parent {
		if t := at.index.Initializer(value); t != nil {
			return definition{scope: at, tensor: t}
		}
		if n := at.index.Producer(value); n != nil {
			return definition{scope: at, node: n}
		}
		if at.index.IsInput(value) {
			return definition{scope: at}
		}
	}
	return definition{}
}

// producer returns the node of this very graph that computes value, or nil.
func (s *scope) producer(value string) *onnx.Node { return s.index.Producer(value) }

// soleConsumer returns the one node that uses value, or nil where several do,
// a subgraph does, or the graph returns the value.
func (s *scope) soleConsumer(value string) *onnx.Node {
	uses := s.index.Consumers(value)
	if len(uses) != 1 || uses[0].Nested() || s.index.IsOutput(value) {
		return nil
	}
	return uses[0].Node
}

const contrib = "com.microsoft"

// isContrib reports whether n is ONNX Runtime's operator opType.
func isContrib(n *onnx.Node, opType string) bool { return n.Domain == contrib && n.OpType == opType }

// keepsElements returns the data input of a node whose output has the
// elements of that input, in the same order and of the same value: nodes that
// only change the shape, change the float type, or do nothing. It returns
// false for any other node.
func (s *scope) keepsElements(n *onnx.Node) (input string, ok bool) {
	if n == nil || onnx.CanonicalDomain(n.Domain) != "" {
		return "", false
	}
	switch n.OpType {
	case "Identity":
	case "Cast":
		if !computable(onnx.DataType(n.Int("to", 0))) {
			return "", false
		}
	case "Dropout":
		if s.drops(n) {
			return "", false
		}
	default:
		if !changesShape(n) {
			return "", false
		}
	}
	return n.Input(0), true
}

// drops reports whether a Dropout may drop elements: in training mode, unless
// its ratio is 0.
func (s *scope) drops(n *onnx.Node) bool {
	if n.Input(2) == "" {
		return false
	}
	if c, err := s.constant(n.Input(2)); err == nil {
		if b, err := c.bytes(); err == nil && len(b) == 1 && b[0] == 0 {
			return false
		}
	}
	ratio, ok := s.scalar(n.Input(1))
	return !ok || ratio != 0
}

// changesShape reports whether n gives its input's elements another shape.
func changesShape(n *onnx.Node) bool {
	return n.Is("Reshape") || n.Is("Flatten") || n.Is("Squeeze") || n.Is("Unsqueeze")
}

// beyond follows value back through nodes that keep its elements.
func (s *scope) beyond(value string) string {
	for {
		input, ok := s.keepsElements(s.producer(value))
		if !ok {
			return value
		}
		value = input
	}
}
