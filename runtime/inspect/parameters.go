package inspect

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// share is the part k/T of a tensor that a token uses, where the tensor holds
// one slice for each of T experts.
type share struct{ k, experts int64 }

// parameters gathers the weights of a model: floating-point and quantised
// constants with at least one dimension. Integers of more than 8 bits are
// shapes and indices, scalars are numbers in formulas.
type parameters struct {
	tensors []*onnx.Tensor
	share   map[*onnx.Tensor]share // of experts' weights
	layers  []Layer
}

// scope finds the constant of a name in a graph and those around it.
type scope struct {
	initializers map[string]*onnx.Tensor
	outer        *scope
}

func (s *scope) lookup(name string) *onnx.Tensor {
	for ; s != nil; s = s.outer {
		if t := s.initializers[name]; t != nil {
			return t
		}
	}
	return nil
}

func (p *parameters) graph(g *onnx.Graph, outer *scope) error {
	s := &scope{initializers: map[string]*onnx.Tensor{}, outer: outer}
	for _, t := range g.Initializers {
		s.initializers[t.Name] = t
		p.add(t)
	}
	for _, n := range g.Nodes {
		if value := n.Attribute("value"); n.Is("Constant") && value != nil && value.Tensor != nil {
			s.initializers[n.Output(0)] = value.Tensor
			p.add(value.Tensor)
		}
		if IsFMoE(n) {
			if err := p.layer(n, s); err != nil {
				return fmt.Errorf("FMoE node %q: %w", n.Name, err)
			}
		}
		for _, sub := range n.Subgraphs() {
			if err := p.graph(sub, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *parameters) add(t *onnx.Tensor) {
	if len(t.Dims) > 0 && t.DataType != onnx.Bool && (t.DataType.IsFloat() || t.DataType.Bits() > 0 && t.DataType.Bits() <= 8) {
		p.tensors = append(p.tensors, t)
	}
}

// layer describes an FMoE node and marks its experts' weights.
func (p *parameters) layer(n *onnx.Node, s *scope) error {
	config, err := moe.ParseConfig(n)
	if err != nil {
		return err
	}
	weight := s.lookup(n.Input(moe.InputFC1Weight))
	if weight == nil || len(weight.Dims) != 3 || weight.Dims[0] < 1 {
		return fmt.Errorf("its fc1_weight %q is not a constant of shape [experts, d_hidden, d_model]", n.Input(moe.InputFC1Weight))
	}
	experts := weight.Dims[0]
	p.layers = append(p.layers, Layer{
		Name: n.Name, Experts: experts, TopK: config.TopK, Gate: config.Gate, Activation: string(config.Activation),
		Gated: n.Input(moe.InputFC3Weight) != "", DModel: weight.Dims[2], DHidden: weight.Dims[1],
	})
	for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
		if t := s.lookup(n.Input(slot)); t != nil {
			used := share{min(int64(config.TopK), experts), experts}
			if before, ok := p.share[t]; ok {
				used.k = max(used.k, before.k)
			}
			p.share[t] = used
		}
	}
	return nil
}

func (p *parameters) sum() Parameters {
	var total Parameters
	for _, t := range p.tensors {
		n, err := t.ElementCount()
		if err != nil {
			continue // onnx.Check reports it
		}
		total.Total += n
		if s, ok := p.share[t]; ok {
			n = n / s.experts * s.k
		}
		total.Active += n
	}
	return total
}
