package fmoefy

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// findEnds chooses the values between which the block is cut out: Input,
// which the first projections take, and Output, the second projection's
// result with its bias.
//
// Where shapes change on the way (an exporter that flattens tokens to a
// matrix for each product), both ends must lie on the same side of the
// flattening, so that the FMoE node gives what it takes. Ends as close to the
// projections as possible are preferred, and a cut that takes in the second
// projection's bias to one that leaves it behind. A bias left behind is right
// as well, since it is the same for every expert and their weights sum to
// one.
func (b *Block) findEnds(s *scope) error {
	inputs := s.origins(b.fc1.input)
	if b.fc3 != nil {
		inputs = common(inputs, s.origins(b.fc3.input))
		if len(inputs) == 0 {
			return errors.New("its two branches have different inputs")
		}
	}
	var firstErr error
	withBias, without := s.endings(b.fc2)
	for _, endings := range [][]ending{withBias, without} {
		for distance := range len(inputs) + len(endings) {
			for i, input := range inputs {
				if j := distance - i; j >= 0 && j < len(endings) {
					err := b.cut(s, input, endings[j])
					if err == nil {
						return nil
					}
					if firstErr == nil {
						firstErr = err
					}
				}
			}
		}
	}
	return firstErr
}

// origins returns value and the values before it that have the same elements
// and type in other shapes.
func (s *scope) origins(value string) []string {
	list := []string{value}
	for {
		n := s.producer(value)
		input, ok := s.keepsElements(n)
		if !ok || n.OpType == "Cast" || len(list) == maxDepth {
			return list
		}
		value = input
		list = append(list, value)
	}
}

// common returns the tail that two lists of origins share.
func common(a, b []string) []string {
	for i, x := range a {
		for _, y := range b {
			if x == y {
				return a[i:]
			}
		}
	}
	return nil
}

// ending is a value where a block may end.
type ending struct {
	value string
	bias  *constant // what has been added since the product, [d_model], or nil
	kind  onnx.DataType
}

// endings returns the values that hold the result of the second projection
// with its bias, and without, the nearest first.
func (s *scope) endings(fc2 *linear) (withBias, without []ending) {
	at := ending{fc2.output, fc2.bias, fc2.weight.elementType()}
	for range maxDepth {
		if at.bias != nil {
			withBias = append(withBias, at)
		} else {
			without = append(without, at)
		}
		n := s.soleConsumer(at.value)
		if n == nil {
			break
		}
		if input, ok := s.keepsElements(n); ok && input == at.value {
			if n.OpType == "Cast" {
				at.kind = onnx.DataType(n.Int("to", 0))
			}
		} else if bias := s.addedBias(n, at.value, fc2.out()); bias != nil && at.bias == nil && computable(at.kind) {
			at.bias = bias
			fc2.names = append(fc2.names, n.Inputs...)
		} else {
			break
		}
		at.value = n.Output(0)
	}
	return withBias, without
}

// addedBias returns the constant vector of n elements that an Add adds to
// value, or nil.
func (s *scope) addedBias(n *onnx.Node, value string, size int64) *constant {
	if !n.Is("Add") {
		return nil
	}
	data, bias, ok := s.biasAdd(n)
	if !ok || data != value {
		return nil
	}
	c, err := s.constant(bias)
	if err != nil || !computable(c.elementType()) {
		return nil
	}
	return c.vector(size)
}

// cut tries one pair of ends. The error says why the block cannot be cut out
// there.
func (b *Block) cut(s *scope, input string, end ending) error {
	if !computable(end.kind) {
		return fmt.Errorf("its result has type %s", end.kind)
	}
	nodes, reshapes, err := s.between(input, end.value)
	if err != nil {
		return err
	}
	if reshapes && !s.sameShapes(input, end.value) {
		return fmt.Errorf("%q and %q may have different shapes", input, end.value)
	}
	if err := s.canRemove(nodes, input, end.value); err != nil {
		return err
	}
	b.Input, b.Output, b.fc2Bias, b.outputType = input, end.value, end.bias, end.kind
	b.Nodes, b.removed = nil, nodes
	for _, n := range s.graph.Nodes {
		if nodes[n] {
			b.Nodes = append(b.Nodes, n)
		}
	}
	return nil
}

// between returns the nodes that compute output from input, following data
// and not the weights, constants and shapes that they take besides, and
// whether some of them change the shape.
func (s *scope) between(input, output string) (nodes map[*onnx.Node]bool, reshapes bool, err error) {
	nodes = map[*onnx.Node]bool{}
	pending := []string{output}
	for len(pending) > 0 {
		value := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		n := s.producer(value)
		if value == input || n != nil && nodes[n] {
			continue
		}
		if n == nil {
			return nil, false, fmt.Errorf("its output depends on %q besides its input", value)
		}
		nodes[n] = true
		reshapes = reshapes || changesShape(n)
		for i, in := range n.Inputs {
			if i > 0 && (isProduct(n) || takesPart(n) || changesShape(n) || n.Is("Dropout") || n.Is("Clip")) {
				break
			}
			if _, err := s.constant(in); err == nil || in == "" {
				continue
			}
			if _, ok := s.scalar(in); ok {
				continue
			}
			pending = append(pending, in)
		}
	}
	return nodes, reshapes, nil
}

// canRemove reports whether the nodes may go when output is computed from
// input in another way: nothing that stays may use what they compute. What
// only serves removed nodes, such as the computation of a shape, goes too.
func (s *scope) canRemove(nodes map[*onnx.Node]bool, input, output string) error {
	gone := map[*onnx.Node]bool{}
	var pending []*onnx.Node
	remove := func(n *onnx.Node) {
		gone[n] = true
		pending = append(pending, n)
	}
	for n := range nodes {
		remove(n)
	}
	usedBy := func(value string) string {
		if s.index.IsOutput(value) {
			return "is an output of the graph"
		}
		for _, use := range s.index.Consumers(value) {
			if use.Nested() || !gone[use.Node] {
				return "is used by " + nodeName(use.Node)
			}
		}
		return ""
	}
	for len(pending) > 0 {
		n := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		for _, in := range n.Inputs {
			p := s.producer(in)
			if p == nil || gone[p] {
				continue
			}
			unused := true
			for _, out := range p.Outputs {
				unused = unused && out != input && usedBy(out) == ""
			}
			if unused {
				remove(p)
			}
		}
	}
	for _, n := range s.graph.Nodes {
		if !nodes[n] {
			continue
		}
		for _, out := range n.Outputs {
			if out == "" || out == output {
				continue
			}
			if use := usedBy(out); use != "" {
				return fmt.Errorf("its inner value %q %s", out, use)
			}
		}
	}
	return nil
}
