package fmoefy

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// GateOptions say how a gate chooses experts. What is nil or empty is not
// given: it is as the gate has it by default, or for [Regate] as a node has it.
// Fields that have the name of one of [moe.Config] mean the same.
type GateOptions struct {
	// Gate names the gate, one of [moe.Gates]. The default is moe.GateNaive.
	Gate string

	CapacityTrain, CapacityEval *float64 // above 0, or moe.Unlimited
	RandomRouting               *bool
	Jitter                      *float64
	Scores                      *moe.Scores
	RoutedScaling               *float64
	Normalize                   *bool
	Groups, TopGroups           *int
	Tile                        *int
	WorkersPerNode              *int
	Fraction                    *float64

	// GateSeed is the seed of the gate's random numbers in training.
	GateSeed *int

	// TokenMask names a value of the outermost graph, bool or integers, with an
	// element for each token, such as attention_mask: no expert computes tokens
	// for which it is false or 0.
	TokenMask string

	// SelectionBias adds the input selection_bias, zeros, with which training
	// balances experts without a loss; false removes it.
	SelectionBias *bool
}

// configure returns the configuration with what is given, for a gate of so
// many workers, 0 where their number is not given, and experts. It fails where
// the gate refuses something.
func (o *GateOptions) configure(c moe.Config, workers, experts int) (moe.Config, error) {
	set(&c.CapacityTrain, o.CapacityTrain)
	set(&c.CapacityEval, o.CapacityEval)
	set(&c.RandomRouting, o.RandomRouting)
	set(&c.Jitter, o.Jitter)
	set(&c.Scores, o.Scores)
	set(&c.RoutedScaling, o.RoutedScaling)
	set(&c.Normalize, o.Normalize)
	set(&c.Groups, o.Groups)
	set(&c.TopGroups, o.TopGroups)
	set(&c.Tile, o.Tile)
	set(&c.WorkersPerNode, o.WorkersPerNode)
	set(&c.Fraction, o.Fraction)
	set(&c.Seed, o.GateSeed)
	kind, err := moe.KindOf(c.Gate)
	switch {
	case err != nil:
		return c, err
	case o.SelectionBias != nil && *o.SelectionBias && !kind.SelectionBias:
		return c, fmt.Errorf("the gate %s takes no selection bias", c.Gate)
	case o.WorkersPerNode != nil && !kind.Workers:
		return c, fmt.Errorf("workers per node mean nothing to the gate %s", c.Gate)
	case !kind.Workers:
		c.Workers, c.WorkersPerNode = 1, 1
	case workers > 0:
		c.Workers = workers
	}
	if err := c.Check(experts); err != nil {
		return c, err
	}
	// What a file holds has the precision of float32.
	c, err = moe.ParseConfig(&onnx.Node{Attributes: c.Encode()})
	return c, err
}

func set[T any](at, value *T) {
	if value != nil {
		*at = *value
	}
}

// addTo adds the inputs that a gate has besides its router's weight to a plan
// of experts.
func (o *GateOptions) addTo(m *expertPlan, s *site) error {
	kind, err := moe.KindOf(s.options.Gate)
	if err != nil {
		return err
	}
	experts := int64(s.options.NumExperts)
	if kind.Noisy && m.slots[moe.InputNoiseWeight].source == nil {
		// Noise of equal size everywhere, as Shazeer et al. (arXiv 1701.06538) and
		// FastMoE begin.
		m.slots[moe.InputNoiseWeight] = zeros(routerType(s.ElementType), s.DModel, experts)
	}
	if o.SelectionBias != nil && *o.SelectionBias {
		m.slots[moe.InputSelectionBias] = zeros(routerType(s.ElementType), experts)
	}
	return nil
}

func zeros(t onnx.DataType, dims ...int64) stack { return gaussian(t, dims, 0, normals{}) }

// checkMask checks that a value can be the token mask of a node whose tokens
// are x, and reports whether it is bool, so that it need not be cast.
func (s *scope) checkMask(mask, x string, node *onnx.Node) (isBool bool, err error) {
	d := s.lookup(mask)
	if d.scope == nil {
		return false, fmt.Errorf("the token mask %q is no value of the graph", mask)
	}
	if d.node != nil {
		nodes := s.graph.Nodes
		if at := slices.Index(nodes, d.node); at < 0 || at > slices.Index(nodes, node) {
			return false, fmt.Errorf("the token mask %q is not computed before the experts are, in their graph: take an input", mask)
		}
	}
	t := onnx.Undefined
	if d.tensor != nil {
		t = d.tensor.DataType
	} else if declared := d.scope.declared[mask]; declared != nil {
		t = declared.ElemType
	}
	switch t {
	case onnx.Undefined, onnx.Bool, onnx.Int8, onnx.Int16, onnx.Int32, onnx.Int64, onnx.Uint8, onnx.Uint16, onnx.Uint32, onnx.Uint64:
	default:
		return false, fmt.Errorf("the token mask %q has type %s, must be bool or integers", mask, t)
	}
	tokens, elements := s.shapeOf(x), d.scope.shapeOf(mask)
	if len(tokens) == 0 || elements == nil {
		return t == onnx.Bool, nil
	}
	want, got := product(tokens[:len(tokens)-1]...), product(elements...)
	if want.symbols == got.symbols && want.factor != got.factor {
		return false, fmt.Errorf("the token mask %q has shape %v, the tokens %q %v: it must have an element for each token", mask, elements, x, tokens)
	}
	return t == onnx.Bool, nil
}

// setInput gives a node a value in a slot, "" for none.
func setInput(n *onnx.Node, slot int, value string) {
	for len(n.Inputs) <= slot {
		n.Inputs = append(n.Inputs, "")
	}
	n.Inputs[slot] = value
	for len(n.Inputs) > 0 && n.Inputs[len(n.Inputs)-1] == "" {
		n.Inputs = n.Inputs[:len(n.Inputs)-1]
	}
}
