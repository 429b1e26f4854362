// Package megatron splits the sample GPT as Megatron-LM would, for tests of the
// way back and for trying it.
package megatron

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Options are the choices of an export for tensor-parallel ranks.
type Options struct {
	Vocabulary    bool // the embedding is split by tokens, with the mask that Megatron puts around it
	Collectives   bool // communication is in the graph, as com.microsoft's operators
	PartialBiases bool // the ranks hold parts of the biases of row-parallel products
}

// The sizes of the sample GPT.
const (
	width = 128
	heads = 4
)

// Split returns the ranks of the sample GPT, models/gpt-megatron, as an
// exporter would have written them for a number of ranks that divides its
// heads. It goes by the names of the sample's nodes.
func Split(m *onnx.Model, size int64, o Options) ([]*onnx.Model, error) {
	if size < 2 || heads%size != 0 {
		return nil, fmt.Errorf("%d heads cannot be split over %d ranks", heads, size)
	}
	ranks := make([]*onnx.Model, size)
	for rank := range ranks {
		r := m.Clone()
		s := &splitter{graph: r.Graph, index: onnx.NewIndex(r.Graph), rank: int64(rank), size: size}
		nodes := slices.Clone(r.Graph.Nodes)
		for _, n := range nodes {
			switch {
			case !n.Is("MatMul") && !n.Is("Add"):
			case strings.Contains(n.Name, "query_key_value") || strings.Contains(n.Name, "dense_h_to_4h"):
				s.piece(n, -1)
			case n.Is("MatMul") && (strings.Contains(n.Name, "/dense/") || strings.Contains(n.Name, "dense_4h_to_h")):
				s.piece(n, 0)
				if o.Collectives {
					s.after(n, &onnx.Node{Domain: "com.microsoft", OpType: "AllReduce", Name: n.Name + "/AllReduce",
						Attributes: []*onnx.Attribute{onnx.IntAttribute("group_size", size)}})
				}
			case n.Is("Add") && o.PartialBiases && (strings.Contains(n.Name, "/dense/") || strings.Contains(n.Name, "dense_4h_to_h")):
				s.share(n)
			case n.Name == "/MatMul" && o.Vocabulary:
				s.piece(n, -1)
				if o.Collectives {
					s.after(n, &onnx.Node{Domain: "com.microsoft", OpType: "AllGather", Name: "gather logits",
						Attributes: []*onnx.Attribute{onnx.IntAttribute("group_size", size), onnx.IntAttribute("axis", 2)}})
				} else {
					r.Graph.Outputs[0].Type.Shape.Dims[2].Value /= size
				}
			}
		}
		for _, n := range nodes {
			if n.Is("Concat") {
				s.localShape(n)
			}
		}
		if o.Vocabulary {
			s.splitVocabulary(o.Collectives)
		}
		if o.Collectives {
			r.OpsetImports = append(r.OpsetImports, onnx.OpsetImport{Domain: "com.microsoft", Version: 1})
		}
		if s.err != nil {
			return nil, s.err
		}
		if err := onnx.Check(r); err != nil {
			return nil, err
		}
		ranks[rank] = r
	}
	return ranks, nil
}

// splitter turns a model into one of its ranks.
type splitter struct {
	graph      *onnx.Graph
	index      *onnx.Index
	rank, size int64
	err        error // the first
}

// weight returns which input of a node is a constant, and the constant.
func (s *splitter) weight(n *onnx.Node) (int, *tensor.Tensor) {
	for i, in := range n.Inputs {
		for p := s.index.Producer(in); p != nil && p.Is("Identity"); p = s.index.Producer(in) {
			in = p.Input(0)
		}
		if w := s.graph.Initializer(in); w != nil {
			x, err := tensor.FromONNX(w)
			if err == nil && x.Type == onnx.Float32 && len(x.Shape) > 0 {
				return i, x
			}
		}
	}
	if s.err == nil {
		s.err = fmt.Errorf("node %q has no weight: this is not the sample GPT", n.Name)
	}
	return 0, tensor.New(onnx.Float32, int(s.size))
}

// put gives a node a weight of its own.
func (s *splitter) put(n *onnx.Node, input int, x *tensor.Tensor) {
	name := n.Name + ".weight"
	n.Inputs[input] = name
	s.graph.Initializers = append(s.graph.Initializers, x.ToONNX(name))
}

// piece replaces a node's weight by this rank's piece of it along an axis.
func (s *splitter) piece(n *onnx.Node, axis int) {
	i, x := s.weight(n)
	if axis < 0 {
		axis += len(x.Shape)
	}
	shape := slices.Clone(x.Shape)
	shape[axis] /= int(s.size)
	out := tensor.New(x.Type, shape...)
	outer, inner := tensor.Count(shape[:axis]), tensor.Count(shape[axis:])
	from, to := tensor.Of[float32](x), tensor.Of[float32](out)
	for o := range outer {
		copy(to[o*inner:][:inner], from[(o*int(s.size)+int(s.rank))*inner:])
	}
	s.put(n, i, out)
}

// share replaces a bias by this rank's share of it.
func (s *splitter) share(n *onnx.Node) {
	i, x := s.weight(n)
	out := x.Clone()
	for j, v := range tensor.Of[float32](x) {
		tensor.Of[float32](out)[j] = v * float32(1+s.rank) / float32(s.size*(s.size+1)/2)
	}
	s.put(n, i, out)
}

// after puts a node behind another one.
func (s *splitter) after(n, next *onnx.Node) {
	next.Outputs = []string{n.Outputs[0]}
	n.Outputs[0] += ".rank"
	next.Inputs = []string{n.Outputs[0]}
	s.graph.Nodes = slices.Insert(s.graph.Nodes, slices.Index(s.graph.Nodes, n)+1, next)
}

// localShape changes the target of a reshape of heads to this rank's.
func (s *splitter) localShape(n *onnx.Node) {
	for i, want := range map[int]int64{2: heads, -1: width} {
		if i < 0 {
			i = len(n.Inputs) - 1
		}
		c := s.index.Producer(n.Inputs[i])
		if c == nil || c.Attribute("value") == nil {
			continue
		}
		data, err := c.Attribute("value").Tensor.Bytes()
		if err != nil || len(data) != 8 || int64(binary.LittleEndian.Uint64(data)) != want || want == width && len(n.Inputs) != 3 {
			continue
		}
		n.Inputs[i] = n.Name + ".local"
		s.graph.Initializers = append(s.graph.Initializers, tensor.FromSlice([]int64{want / s.size}).ToONNX(n.Inputs[i]))
	}
}

// splitVocabulary gives the rank its rows of the embedding, with the mask that
// Megatron's VocabParallelEmbedding has for tokens of other ranks.
func (s *splitter) splitVocabulary(collectives bool) {
	at := slices.IndexFunc(s.graph.Nodes, func(n *onnx.Node) bool { return n.Name == "/embedding/word_embeddings/Gather" })
	if at < 0 {
		s.err = errors.New("there is no embedding: this is not the sample GPT")
		return
	}
	gather := s.graph.Nodes[at]
	_, x := s.weight(gather)
	rows := int64(x.Shape[0]) / s.size
	s.piece(gather, 0)
	ids := gather.Inputs[1]
	scalar := func(name string, v int64) string {
		s.graph.Initializers = append(s.graph.Initializers, tensor.Scalar(v).ToONNX(name))
		return name
	}
	start, end := scalar("vocabulary_start", s.rank*rows), scalar("vocabulary_end", (s.rank+1)*rows)
	op := func(opType, out string, in ...string) *onnx.Node {
		return &onnx.Node{Name: "vocabulary/" + out, OpType: opType, Inputs: in, Outputs: []string{out}}
	}
	zero := scalar("first_row", 0)
	s.graph.Initializers = append(s.graph.Initializers, tensor.Scalar(float32(0)).ToONNX("nothing"))
	axes := tensor.FromSlice([]int64{-1}).ToONNX("last_axis")
	s.graph.Initializers = append(s.graph.Initializers, axes)
	before := []*onnx.Node{
		op("Less", "below", ids, start), op("GreaterOrEqual", "above", ids, end), op("Or", "elsewhere", "below", "above"),
		op("Sub", "shifted", ids, start), op("Where", "row", "elsewhere", zero, "shifted"), op("Unsqueeze", "masked", "elsewhere", "last_axis"),
	}
	result := gather.Outputs[0]
	gather.Inputs[1], gather.Outputs[0] = "row", "rows"
	where := op("Where", result, "masked", "nothing", "rows")
	s.graph.Nodes = slices.Concat(s.graph.Nodes[:at], before, []*onnx.Node{gather, where}, s.graph.Nodes[at+1:])
	if collectives {
		s.after(where, &onnx.Node{Domain: "com.microsoft", OpType: "AllReduce", Name: "add embeddings",
			Attributes: []*onnx.Attribute{onnx.IntAttribute("group_size", s.size)}})
	}
}
