package inspect

import (
	"errors"
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

	// elements are the numbers that quantised experts stand for; their scales
	// stand for none.
	elements map[*onnx.Tensor]int64
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
	if err != nil && !errors.Is(err, moe.ErrUnknownGate) {
		return err
	}
	fc1, fc2 := s.lookup(n.Input(moe.InputFC1Weight)), s.lookup(n.Input(moe.InputFC2Weight))
	rank := 3
	if config.Quantization.Bits != 0 {
		rank = 4 // with blocks and their bytes
	}
	for i, weight := range []*onnx.Tensor{fc1, fc2} {
		if weight == nil || len(weight.Dims) != rank || weight.Dims[0] < 1 {
			slot := []int{moe.InputFC1Weight, moe.InputFC2Weight}[i]
			return fmt.Errorf("its %s %q is not a constant of %d dimensions, the experts and their outputs first", moe.InputNames[slot], n.Input(slot), rank)
		}
	}
	l := Layer{
		Name: n.Name, Experts: fc1.Dims[0], TopK: config.TopK, Gate: config.Gate, Activation: string(config.Activation),
		Gated: n.Input(moe.InputFC3Weight) != "", DModel: fc2.Dims[1], DHidden: fc1.Dims[1], Weights: fc1.DataType.String(),
	}
	if config.CapacityTrain != moe.Unlimited || config.CapacityEval != moe.Unlimited {
		l.Capacity = &Capacity{Train: config.CapacityTrain, Evaluation: config.CapacityEval}
	}
	if q := config.Quantization; q.Bits != 0 {
		l.Weights, l.BlockSize = fmt.Sprintf("int%d", q.Bits), q.Block
		for _, slot := range []int{moe.InputFC1Weight, moe.InputFC2Weight, moe.InputFC3Weight} {
			if t := s.lookup(n.Input(slot)); t != nil {
				p.elements[t] = l.Experts * l.DModel * l.DHidden
			}
			if t := s.lookup(n.Input(moe.Scales(slot))); t != nil {
				p.elements[t] = 0
			}
		}
	}
	p.layers = append(p.layers, l)
	for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
		if t := s.lookup(n.Input(slot)); t != nil {
			used := share{min(int64(config.TopK), l.Experts), l.Experts}
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
		if stored, ok := p.elements[t]; ok {
			n = stored
		}
		total.Total += n
		if s, ok := p.share[t]; ok {
			n = n / s.experts * s.k
		}
		total.Active += n
	}
	return total
}
