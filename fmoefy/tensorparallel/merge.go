// Package tensorparallel merges the ranks of a tensor-parallel model, as
// Megatron-LM splits it, into the whole model.
package tensorparallel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// Report names the weights that Merge joined.
type Report struct {
	Ranks      int      `json:"ranks"`
	Column     []string `json:"column"`     // split by outputs: first projections, queries, keys and values, logits
	Row        []string `json:"row"`        // split by inputs: second projections, attention's output
	Vocabulary []string `json:"vocabulary"` // embeddings, split by tokens
	Biases     []string `json:"biases"`     // split with their product, or parts of a sum
}

// Merge joins the ranks of a model that was exported once for each
// tensor-parallel rank, in the order of the ranks ("Megatron-LM: Training
// Multi-Billion Parameter Language Models Using Model Parallelism", Shoeybi et
// al. 2019). The ranks' graphs must be the same but for what their weights
// hold, and may have collective operators where Megatron communicates.
//
// What is split, and how, follows from the graph and not from names: a product
// of a whole value with weights that differ between the ranks is
// column-parallel, so that its result is split along the last axis; a product
// of such a value is row-parallel and its result, in the merged model, whole.
// In between, each head and each hidden unit belongs to one rank: reshapes to
// a number of heads are given all of them. Weights that are equal on all ranks
// stay as they are. An embedding that differs is split by tokens, and the
// integers that bound a rank's tokens become those of the whole vocabulary.
//
// The result passes onnx.Check. Its weights are read when it is written or
// run: the ranks must stay open until then. The error names the node that
// cannot be merged.
func Merge(ranks []*onnx.Model) (*onnx.Model, Report, error) {
	if len(ranks) < 2 {
		return nil, Report{}, errors.New("a merge needs two ranks at least")
	}
	m := &merger{size: int64(len(ranks)), layouts: map[string]*layout{}, partial: map[string]bool{}, whole: map[string]string{}, embedded: map[int64]bool{}}
	for i, rank := range ranks {
		if err := onnx.Check(rank); err != nil {
			return nil, Report{}, fmt.Errorf("rank %d: %w", i, err)
		}
		if len(rank.Functions) > 0 {
			rank = rank.Clone()
			if err := rank.Inline(func(*onnx.Node) bool { return false }); err != nil {
				return nil, Report{}, fmt.Errorf("rank %d: %w", i, err)
			}
		}
		m.ranks = append(m.ranks, rank)
	}
	if err := m.compareGraphs(); err != nil {
		return nil, Report{}, err
	}
	m.model = m.ranks[0].Clone()
	m.graph = m.model.Graph
	m.names = onnx.NewIndex(m.graph)
	m.position = map[string]int{}
	nodes := m.graph.Nodes
	for i, n := range nodes {
		for _, out := range n.Outputs {
			m.position[out] = i
		}
	}
	m.graph.Nodes = nil
	for _, n := range nodes {
		if err := m.node(n); err != nil {
			return nil, Report{}, fmt.Errorf("node %s: %w", describe(n), err)
		}
	}
	if err := m.finish(); err != nil {
		return nil, Report{}, err
	}
	if err := onnx.Check(m.model); err != nil {
		return nil, Report{}, fmt.Errorf("the merged model is not valid, which is an error in the merge: %w", err)
	}
	return m.model, m.report, nil
}

// merger builds the merged model node by node.
type merger struct {
	ranks []*onnx.Model
	size  int64 // number of ranks
	model *onnx.Model
	graph *onnx.Graph // of model
	names *onnx.Index // of the first rank

	position map[string]int // of the nodes that make each value, in every rank

	layouts  map[string]*layout // of the values that are split
	partial  map[string]bool    // sums over the ranks, before their bias
	whole    map[string]string  // values that collectives gave, by what they stand for now
	uses     []*use
	bounds   []bound
	embedded map[int64]bool // rows of the embeddings that are split by tokens, on each rank

	report Report
}

func describe(n *onnx.Node) string {
	if n.Name != "" {
		return fmt.Sprintf("%q (%s)", n.Name, n.OpType)
	}
	return fmt.Sprintf("that makes %q (%s)", n.Output(0), n.OpType)
}

// compareGraphs checks that the ranks compute in the same way.
func (m *merger) compareGraphs() error {
	first := m.ranks[0].Graph
	for i, rank := range m.ranks[1:] {
		g := rank.Graph
		if len(g.Nodes) != len(first.Nodes) || len(g.Initializers) != len(first.Initializers) {
			return fmt.Errorf("rank %d has %d nodes and %d weights, rank 0 has %d and %d: they are not ranks of one model",
				i+1, len(g.Nodes), len(g.Initializers), len(first.Nodes), len(first.Initializers))
		}
		if !reflect.DeepEqual(rank.OpsetImports, m.ranks[0].OpsetImports) {
			return fmt.Errorf("rank %d imports other operator sets than rank 0", i+1)
		}
		for j, n := range g.Nodes {
			o := first.Nodes[j]
			if n.OpType != o.OpType || n.Domain != o.Domain || !slices.Equal(n.Inputs, o.Inputs) || !slices.Equal(n.Outputs, o.Outputs) ||
				!n.Is("Constant") && !isCollective(n) && !reflect.DeepEqual(n.Attributes, o.Attributes) {
				return fmt.Errorf("node %s of rank %d is another than %s of rank 0: they are not ranks of one model", describe(n), i+1, describe(o))
			}
		}
	}
	return nil
}

// constant is a value that does not depend on the model's inputs.
type constant struct {
	name       string         // of the initializer or Constant node
	parts      []*onnx.Tensor // on each rank, as stored
	transposed bool           // seen through a Transpose of a matrix
}

// constant resolves a value through Identity and Transpose nodes; nil where it
// is none.
func (m *merger) constant(value string) *constant {
	c := &constant{}
	for range 16 {
		if t := m.ranks[0].Graph.Initializer(value); t != nil {
			for _, rank := range m.ranks {
				t := rank.Graph.Initializer(value)
				if t == nil {
					return nil
				}
				c.parts = append(c.parts, t)
			}
			c.name = value
			return c
		}
		n := m.names.Producer(value)
		switch {
		case n == nil:
			return nil
		case n.Is("Constant"):
			for _, rank := range m.ranks {
				t := constantTensor(rank.Graph.Nodes[m.position[value]])
				if t == nil {
					return nil
				}
				c.parts = append(c.parts, t)
			}
			c.name = value
			return c
		case n.Is("Identity"):
		case n.Is("Transpose") && (len(n.Ints("perm")) == 0 || slices.Equal(n.Ints("perm"), []int64{1, 0})):
			c.transposed = !c.transposed
		default:
			return nil
		}
		value = n.Input(0)
	}
	return nil
}

// constantTensor returns the numbers of a Constant node, nil for any other.
func constantTensor(n *onnx.Node) *onnx.Tensor {
	if a := n.Attribute("value"); a != nil {
		return a.Tensor
	}
	var list []int64
	dims := []int64{}
	if a := n.Attribute("value_int"); a != nil {
		list = []int64{a.Int}
	} else if list = n.Ints("value_ints"); list != nil {
		dims = []int64{int64(len(list))}
	} else {
		return nil
	}
	return integers("", list, dims)
}

// integers returns a tensor of integers.
func integers(name string, list, dims []int64) *onnx.Tensor {
	var data []byte
	for _, v := range list {
		data = binary.LittleEndian.AppendUint64(data, uint64(v))
	}
	return onnx.NewTensor(name, onnx.Int64, dims, data)
}

// dims returns the shape of a constant on each rank.
func (c *constant) dims() []int64 {
	dims := slices.Clone(c.parts[0].Dims)
	if c.transposed {
		slices.Reverse(dims)
	}
	return dims
}

// equal reports whether a constant is the same on all ranks.
func (c *constant) equal() (bool, error) {
	first, err := c.parts[0].Bytes()
	if err != nil {
		return false, err
	}
	for _, t := range c.parts[1:] {
		if t.DataType != c.parts[0].DataType || !slices.Equal(t.Dims, c.parts[0].Dims) {
			return false, fmt.Errorf("%q is %s%v on one rank and %s%v on another", c.name, t.DataType, t.Dims, c.parts[0].DataType, c.parts[0].Dims)
		}
		b, err := t.Bytes()
		if err != nil {
			return false, err
		}
		if !bytes.Equal(b, first) {
			return false, nil
		}
	}
	return true, nil
}

// mustBeEqual checks that a constant, if value is one, is equal on all ranks.
func (m *merger) mustBeEqual(value string) error {
	c := m.constant(value)
	if c == nil {
		return nil
	}
	same, err := c.equal()
	if err == nil && !same {
		err = fmt.Errorf("its input %q differs between the ranks, and nothing tells how it is split", c.name)
	}
	return err
}
