package fmoefy

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// maxDepth bounds how far values are followed through a graph.
const maxDepth = 64

// constant resolves a value that does not depend on the model's inputs. The
// error says what stands in the way.
func (s *scope) constant(value string) (*constant, error) {
	if s.effort.nesting == 0 {
		s.effort.visited = 0
	}
	s.effort.nesting++
	defer func() { s.effort.nesting-- }()
	return s.resolve(value, maxDepth)
}

// maxVisited bounds the nodes behind one constant.
const maxVisited = 1024

func (s *scope) resolve(value string, depth int) (*constant, error) {
	if s.effort.visited++; s.effort.visited > maxVisited {
		return nil, fmt.Errorf("%q depends on more than %d computations", value, maxVisited)
	}
	d := s.lookup(value)
	switch {
	case d.tensor != nil:
		if _, err := d.tensor.ElementCount(); err != nil {
			return nil, err
		}
		return newConstant(d.tensor), nil
	case d.node == nil || depth == 0:
		return nil, fmt.Errorf("%q is not a constant", value)
	case d.node.Is("DequantizeLinear"):
		return d.scope.dequantize(d.node, depth)
	case onnx.CanonicalDomain(d.node.Domain) != "":
		return nil, fmt.Errorf("%q is computed by %s", value, nodeName(d.node))
	case d.node.OpType == "Constant":
		return constantNode(d.node)
	}
	n := d.node
	var apply func(*constant) error
	switch n.OpType {
	case "Identity":
		apply = func(*constant) error { return nil }
	case "Cast":
		apply = func(c *constant) error { return c.cast(onnx.DataType(n.Int("to", 0))) }
	case "Transpose":
		apply = func(c *constant) error { return c.transpose(n.Ints("perm")) }
	case "Reshape", "Flatten", "Squeeze", "Unsqueeze":
		apply = func(c *constant) error {
			dims, err := d.scope.reshapedDims(n, c.dims)
			if err != nil {
				return err
			}
			return c.reshape(dims)
		}
	default:
		return nil, fmt.Errorf("%q is computed by %s", value, nodeName(n))
	}
	c, err := d.scope.resolve(n.Input(0), depth-1)
	if err != nil {
		return nil, err
	}
	if err := apply(c); err != nil {
		return nil, fmt.Errorf("%q: %s: %w", value, nodeName(n), err)
	}
	return c, nil
}

// constantNode returns the value of a Constant node that holds numbers.
func constantNode(n *onnx.Node) (*constant, error) {
	for _, a := range n.Attributes {
		var t *onnx.Tensor
		switch a.Type {
		case onnx.AttributeTensor:
			t = a.Tensor
		case onnx.AttributeFloat:
			t = tensor.Scalar(a.Float).ToONNX("")
		case onnx.AttributeInt:
			t = tensor.Scalar(a.Int).ToONNX("")
		case onnx.AttributeFloats:
			t = tensor.FromSlice(a.Floats).ToONNX("")
		case onnx.AttributeInts:
			t = tensor.FromSlice(a.Ints).ToONNX("")
		}
		if t != nil {
			if _, err := t.ElementCount(); err != nil {
				return nil, err
			}
			return newConstant(t), nil
		}
	}
	return nil, fmt.Errorf("%s holds no tensor of numbers", nodeName(n))
}

// scalar returns the number that value always is, where it has one element:
// a constant, or simple arithmetic on constants.
func (s *scope) scalar(value string) (float64, bool) { return s.evaluate(value, 8) }

func (s *scope) evaluate(value string, depth int) (float64, bool) {
	if c, err := s.constant(value); err == nil {
		return c.number()
	}
	d := s.lookup(value)
	if d.node == nil || depth == 0 || onnx.CanonicalDomain(d.node.Domain) != "" || len(d.node.Inputs) == 0 {
		return 0, false
	}
	x, ok := d.scope.evaluate(d.node.Inputs[0], depth-1)
	if !ok {
		return 0, false
	}
	switch d.node.OpType {
	case "Sqrt":
		return math.Sqrt(x), true
	case "Reciprocal":
		return 1 / x, true
	case "Neg":
		return -x, true
	case "CastLike":
		return x, true
	}
	if len(d.node.Inputs) != 2 {
		return 0, false
	}
	y, ok := d.scope.evaluate(d.node.Inputs[1], depth-1)
	if !ok {
		return 0, false
	}
	switch d.node.OpType {
	case "Add":
		return x + y, true
	case "Sub":
		return x - y, true
	case "Mul":
		return x * y, true
	case "Div":
		return x / y, true
	case "Pow":
		return math.Pow(x, y), true
	}
	return 0, false
}
