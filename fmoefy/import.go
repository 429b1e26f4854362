package fmoefy

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// ImportOptions say how Import recognises mixtures of experts.
type ImportOptions struct {
	// Run computes the outputs of a model that has no functions but may have
	// FMoE nodes, as runtime.Session does. A mixture that an exporter wrote out
	// in many nodes is imported only where Run gives the same for it and for
	// the FMoE node; where Run is nil, none is.
	Run func(m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error)
}

// Form says how a mixture of experts was written that Import found.
type Form string

// The forms.
const (
	Microsoft Form = "com.microsoft::MoE"
	Unrolled  Form = "unrolled" // a router, TopK and the experts as nodes of their own
)

// Imported describes a mixture of experts that Import found.
type Imported struct {
	Name       string         `json:"name"`
	Graph      string         `json:"graph"`
	Form       Form           `json:"form"`
	Experts    int64          `json:"experts,omitempty"`
	TopK       int            `json:"top_k,omitempty"`
	Normalize  bool           `json:"normalize"`
	Gated      bool           `json:"gated"`
	Activation moe.Activation `json:"activation,omitempty"`
	DModel     int64          `json:"d_model,omitempty"`
	DHidden    int64          `json:"d_hidden,omitempty"`
	Reason     string         `json:"reason,omitempty"` // why it is left as it is; empty for those that became FMoE nodes
}

// Import turns mixtures of experts that are written in other ways into FMoE
// nodes that compute the same, with their function body: com.microsoft::MoE
// nodes whose router is a linear layer of the same tokens, and the unrolled
// mixtures that exports of Mixtral, Qwen-MoE, OLMoE and their kin contain.
// Where several experts have equal logits, ONNX Runtime takes the last ones,
// FMoE the first.
//
// Import lists all that it found. m changes only if one of them can be
// imported and everything succeeded; the result passes onnx.Check. As after
// [Rewrite], a model that was read from a file must stay open until the
// result is written.
func Import(m *onnx.Model, o ImportOptions) ([]Imported, error) {
	if err := onnx.Check(m); err != nil {
		return nil, fmt.Errorf("the model is not valid: %w", err)
	}
	opset, ok := m.OpsetVersion("")
	if !ok || opset < minOpset {
		return nil, errOpset(opset)
	}
	w := m.Clone()
	if hasCalls(w) {
		if err := inline(w); err != nil {
			return nil, err
		}
	}
	i := &importer{model: w, options: o, opset: opset, names: onnx.NewIndex(w.Graph)}
	var list []Imported
	for _, s := range scopes(w) {
		r := &reader{scope: s, done: map[string]*expression{}}
		var found []*mixture
		for _, n := range s.graph.Nodes {
			x, err := i.read(r, n)
			if x == nil {
				continue
			}
			if x.Graph = s.path; err != nil {
				x.Reason = err.Error()
			} else {
				found = append(found, x)
			}
			list = append(list, x.Imported)
		}
		i.replace(s, found)
	}
	if i.count == 0 {
		if len(list) == 0 {
			return nil, errors.New("the model has no mixture of experts")
		}
		return list, fmt.Errorf("none of the %d mixtures of experts can be imported; the first, %s: %s", len(list), list[0].Name, list[0].Reason)
	}
	if err := onnx.Check(w); err != nil {
		return list, fmt.Errorf("the model with FMoE nodes is not valid, which is an error in fmoefy: %w", err)
	}
	m.IRVersion, m.OpsetImports, m.Graph, m.Functions = w.IRVersion, w.OpsetImports, w.Graph, w.Functions
	return list, nil
}

// read returns the mixture of experts to which n belongs, n being its
// MoE node or its router's TopK, and nil for any other node. The error says
// why the mixture cannot be imported.
func (i *importer) read(r *reader, n *onnx.Node) (*mixture, error) {
	switch {
	case isContrib(n, "MoE") || isContrib(n, "QMoE") || isContrib(n, "ShardedMoE"):
		return readMicrosoft(r.scope, n)
	case n.Is("TopK"):
		return readUnrolled(r, n, i.prove)
	}
	return nil, nil
}

// mixture is what is known of a mixture of experts before it becomes an FMoE
// node.
type mixture struct {
	Imported
	scope         *scope
	input, output string                      // […, d_model]
	nodes         []*onnx.Node                // what computes output from input, in order
	weights       [moe.InputCount][]*constant // a stacked tensor each, or one for each expert
	elementType   onnx.DataType
	stored        storage // of the experts' weights
	refused       error   // why it cannot be imported
}

// setRouter takes over a router's weight [T, d] and bias.
func (x *mixture) setRouter(l *linear) {
	for slot, c := range map[int]*constant{moe.InputGateWeight: l.weight.permuted(1, 0), moe.InputGateBias: l.bias} {
		if c == nil {
			continue
		}
		if t := routerType(x.elementType); c.elementType() != x.elementType && c.elementType() != t {
			c = c.as(t)
		}
		x.weights[slot] = []*constant{c}
	}
}

func (x *mixture) config() moe.Config {
	c := moe.NaiveConfig(x.TopK, x.Activation)
	c.Normalize, c.Quantization = x.Normalize, x.stored.Quantization
	return c
}

// stackedDims returns the dims of an input's tensor.
func stackedDims(parts []*constant) []int64 {
	if len(parts) == 1 {
		return parts[0].dims
	}
	return append([]int64{int64(len(parts))}, parts[0].dims...)
}

// initializer returns a tensor of an input's elements.
func (x *mixture) initializer(slot int, name string) *onnx.Tensor {
	parts := x.weights[slot]
	t := &onnx.Tensor{Name: name, DataType: parts[0].elementType(), Dims: stackedDims(parts)}
	t.SetSource(stackedParts(parts))
	return t
}

// stackedParts is the source of a tensor that consists of others, one after
// the other. One is in memory at a time.
type stackedParts []*constant

func (s stackedParts) Size() int64 {
	n := int64(0)
	for _, c := range s {
		n += c.elements() * int64(c.elementType().Bits()/8)
	}
	return n
}

// WriteTo implements [onnx.Source].
func (s stackedParts) WriteTo(w io.Writer) (written int64, err error) {
	for _, c := range s {
		elements, err := c.bytes()
		if err != nil {
			return written, err
		}
		n, err := w.Write(elements)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// node returns the FMoE node of the mixture. name says what an input's tensor
// is called.
func (x *mixture) node(name func(slot int) string) *onnx.Node {
	n := &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Inputs: []string{x.input}, Outputs: []string{x.output}, Attributes: x.config().Encode()}
	for slot := 1; slot < moe.InputCount; slot++ {
		n.Inputs = append(n.Inputs, "")
		if x.weights[slot] != nil {
			n.Inputs[slot] = name(slot)
		}
	}
	for n.Inputs[len(n.Inputs)-1] == "" {
		n.Inputs = n.Inputs[:len(n.Inputs)-1]
	}
	return n
}

// importer edits a model.
type importer struct {
	model   *onnx.Model
	options ImportOptions
	opset   int64
	names   *onnx.Index
	count   int // of mixtures imported
}

// replace puts FMoE nodes in the place of the mixtures found in a graph.
func (i *importer) replace(s *scope, found []*mixture) {
	var replaced []replacement
	for _, x := range found {
		i.count++
		n := x.node(func(slot int) string {
			parts := x.weights[slot]
			first := parts[0]
			if held := s.lookup(first.tensor.Name).tensor; len(parts) == 1 && held == first.tensor && first.untouched() && slices.Equal(first.dims, held.Dims) {
				return first.tensor.Name
			}
			t := x.initializer(slot, i.names.NewName(x.Name+"."+moe.InputNames[slot]))
			i.model.Graph.Initializers = append(i.model.Graph.Initializers, t)
			return t.Name
		})
		n.Name = i.names.NewNodeName(x.Name + "." + moe.OpType)
		_ = functions{i.model}.give(n, x.config(), x.elementType, x.stored, i.opset) // the gate naive has one
		b := &Block{Input: x.input, Output: x.output, DModel: x.DModel, outputType: x.elementType, removed: s.removable(x.nodes, x.output)}
		replaced = append(replaced, replacement{block: b, nodes: []*onnx.Node{n}, removed: b.removed})
	}
	if len(replaced) == 0 {
		return
	}
	if _, ok := i.model.OpsetVersion(moe.Domain); !ok {
		i.model.OpsetImports = append(i.model.OpsetImports, onnx.OpsetImport{Domain: moe.Domain, Version: moe.Version})
	}
	dropped := map[*onnx.Graph]map[string]bool{s.graph: {}}
	for _, p := range replaced {
		for n := range p.block.removed {
			for _, out := range n.Outputs {
				dropped[s.graph][out] = out != p.block.Output
			}
		}
	}
	prune(i.model, splice(s, replaced), dropped)
	for g, names := range dropped {
		g.ValueInfo = slices.DeleteFunc(g.ValueInfo, func(v *onnx.ValueInfo) bool { return names[v.Name] })
	}
	for _, p := range replaced {
		s.declareOutput(p.block)
	}
}

// removable returns those of the nodes, given in order, that nothing needs any
// more when output is computed in another way.
func (s *scope) removable(nodes []*onnx.Node, output string) map[*onnx.Node]bool {
	gone := map[*onnx.Node]bool{}
	for _, n := range slices.Backward(nodes) {
		needed := slices.ContainsFunc(n.Outputs, func(out string) bool {
			return out != output && (s.index.IsOutput(out) || slices.ContainsFunc(s.index.Consumers(out), func(u onnx.Use) bool { return u.Nested() || !gone[u.Node] }))
		})
		if !needed {
			gone[n] = true
		}
	}
	return gone
}
