package op

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// Chain, which no file needs to have: the compiler makes it of
		// elementwise nodes that feed one another. The output is that of the
		// last node of the graph in its attribute body, whose inputs are the
		// Chain's; versions has the operator version of each node.
		Operator{Domain: moe.Domain, Name: "Chain", Since: []int{1}, Inputs: AtLeast(1), Outputs: Exactly(1),
			Attributes: []string{"body", "versions"}, Elementwise: true, Infer: inferNodes},
	)
}

// Chain is the content of a Chain node. Its values are numbered, those of the
// inputs first, then the output of each node.
type Chain struct {
	Inputs int
	Nodes  []*Node
	In     [][]int // the inputs of each node, -1 where it lacks an optional one
}

// Chains reports whether nodes of the operator may be part of a Chain: they
// compute each element of their only output from one of each input.
func (o *Operator) Chains() bool {
	switch o.Name {
	case "Chain", "Dropout", // which numbers elements
		"CastLike": // the shape of whose second input may be any
		return false
	}
	return o.Elementwise && o.Outputs == Exactly(1) && len(o.Parameters) == 0 && !o.Nondeterministic
}

// ChainType reports whether a Chain may have values of the type: the kernels
// of most elementwise operators compute with it as it is.
func ChainType(t onnx.DataType) bool {
	switch t {
	case onnx.Float32, onnx.Float64, onnx.Int32, onnx.Int64, onnx.Bool:
		return true
	}
	return false
}

// NewChain makes a Chain node without inputs and outputs.
func NewChain(c *Chain) *onnx.Node {
	g, versions := &onnx.Graph{}, make([]int64, len(c.Nodes))
	for i := range c.Inputs {
		g.Inputs = append(g.Inputs, &onnx.ValueInfo{Name: strconv.Itoa(i)})
	}
	for i, n := range c.Nodes {
		inner := &onnx.Node{Domain: n.Domain, OpType: n.OpType, Attributes: n.Attributes, Outputs: []string{strconv.Itoa(c.Inputs + i)}}
		for _, v := range c.In[i] {
			name := ""
			if v >= 0 {
				name = strconv.Itoa(v)
			}
			inner.Inputs = append(inner.Inputs, name)
		}
		g.Nodes, versions[i] = append(g.Nodes, inner), int64(n.Since)
	}
	return &onnx.Node{Domain: moe.Domain, OpType: "Chain", Attributes: []*onnx.Attribute{
		onnx.GraphAttribute("body", g), onnx.IntsAttribute("versions", versions...)}}
}

// ParseChain reads a Chain node.
func ParseChain(n *onnx.Node) (*Chain, error) {
	body, versions := n.Attribute("body"), n.Ints("versions")
	if body == nil || body.Graph == nil || len(body.Graph.Nodes) == 0 {
		return nil, errors.New("lacks its attribute body, a graph with nodes")
	}
	g := body.Graph
	if len(g.Inputs) != len(n.Inputs) || len(g.Nodes) != len(versions) {
		return nil, fmt.Errorf("attribute body has %d inputs and %d nodes, but there are %d inputs and %d versions",
			len(g.Inputs), len(g.Nodes), len(n.Inputs), len(versions))
	}
	c := &Chain{Inputs: len(n.Inputs)}
	numbers := make(map[string]int, len(g.Inputs)+len(g.Nodes))
	for i, v := range g.Inputs {
		numbers[v.Name] = i
	}
	for i, inner := range g.Nodes {
		resolved, err := Resolve(inner, versions[i])
		if err == nil && !resolved.Operator.Chains() {
			err = errors.New("cannot be part of a chain")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", inner.OpType, err)
		}
		in := make([]int, len(inner.Inputs))
		for j, name := range inner.Inputs {
			number, ok := numbers[name]
			switch {
			case name == "":
				in[j] = -1
			case !ok:
				return nil, fmt.Errorf("%s: there is no value %q for its input %d", inner.OpType, name, j)
			default:
				in[j] = number
			}
		}
		c.Nodes, c.In = append(c.Nodes, resolved), append(c.In, in)
		numbers[inner.Output(0)] = c.Inputs + i
	}
	return c, nil
}

// Infer returns what is known of all values for given inputs.
func (c *Chain) Infer(inputs []Fact, symbols *Symbols) ([]Fact, error) {
	facts := append(make([]Fact, 0, c.Inputs+len(c.Nodes)), inputs...)
	for i, n := range c.Nodes {
		in := make([]Fact, len(c.In[i]))
		for j, v := range c.In[i] {
			if v >= 0 {
				in[j] = facts[v]
			}
		}
		out, err := Infer(n, in, symbols)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.OpType, err)
		}
		facts = append(facts, out[0])
	}
	return facts, nil
}

func inferNodes(c *Inference) error {
	chain, err := ParseChain(c.Node.Node)
	if err != nil {
		return err
	}
	facts, err := chain.Infer(c.Inputs, c.Symbols)
	if err != nil {
		return err
	}
	for _, f := range facts {
		if f.Type != onnx.Undefined && !ChainType(f.Type) {
			return fmt.Errorf("values of type %s cannot be part of a chain", f.Type)
		}
	}
	last := facts[len(facts)-1]
	c.Set(0, last.Type, last.Shape)
	return nil
}
