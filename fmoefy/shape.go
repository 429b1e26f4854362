package fmoefy

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// shapeOf returns the shape of a value as far as it is declared or follows
// from the nodes before it, nil when not even the rank is known.
func (s *scope) shapeOf(value string) []dim {
	if shape, done := s.shapes[value]; done {
		return shape
	}
	s.shapes[value] = nil // ends the recursion in a graph with a cycle
	d := s.lookup(value)
	var shape []dim
	switch {
	case d.tensor != nil:
		shape = numbers(d.tensor.Dims)
	case d.scope != nil && d.scope != s:
		shape = d.scope.shapeOf(value)
	default:
		if d.node != nil {
			shape = s.outputShape(d.node, value)
		}
		shape = s.mergeDeclared(value, shape)
	}
	s.shapes[value] = shape
	return shape
}

// mergeDeclared combines what the file states about a value with what was
// derived.
func (s *scope) mergeDeclared(value string, derived []dim) []dim {
	t := s.declared[value]
	if t == nil || t.Shape == nil {
		return derived
	}
	shape := make([]dim, len(t.Shape.Dims))
	for i, d := range t.Shape.Dims {
		switch {
		case d.Known:
			shape[i] = number(d.Value)
		case len(derived) == len(shape):
			shape[i] = derived[i]
		case d.Param != "":
			shape[i] = symbol("$" + d.Param)
		default:
			shape[i] = axisOf(value, i)
		}
	}
	return shape
}

// sameShape lists operators whose first output has the shape of their first
// input.
var sameShape = map[string]bool{
	"Identity": true, "Cast": true, "CastLike": true, "Dropout": true, "Softmax": true, "LogSoftmax": true,
	"LayerNormalization": true, "SimplifiedLayerNormalization": true, "RMSNormalization": true,
	"SkipLayerNormalization": true, "SkipSimplifiedLayerNormalization": true,
	"FastGelu": true, "BiasGelu": true, "QuickGelu": true, "FMoE": true,
}

// shapeSource returns the value whose shape the first output of n has, where
// that follows from the operator alone.
func (s *scope) shapeSource(n *onnx.Node) string {
	if sameShape[n.OpType] || unary[n.OpType] {
		return n.Input(0)
	}
	switch n.OpType {
	case "Add", "Sub", "Mul", "Div", "Pow":
		a, b := n.Input(0), n.Input(1)
		switch {
		case s.isParameter(b):
			return a
		case s.isParameter(a):
			return b
		case s.shapeRoot(a) == s.shapeRoot(b):
			return a
		}
	}
	return ""
}

// isParameter reports whether value is a constant scalar or vector, which
// elementwise operators broadcast along the last axis.
func (s *scope) isParameter(value string) bool {
	if c, err := s.constant(value); err == nil {
		return len(c.dims) <= 1 || c.elements() == 1
	}
	_, ok := s.scalar(value)
	return ok
}

// shapeRoot follows value back through nodes that keep the shape.
func (s *scope) shapeRoot(value string) string {
	if root, done := s.roots[value]; done {
		return root
	}
	s.roots[value] = value // ends the recursion in a graph with a cycle
	if n := s.producer(value); n != nil && n.Output(0) == value {
		if source := s.shapeSource(n); source != "" {
			s.roots[value] = s.shapeRoot(source)
		}
	}
	return s.roots[value]
}

// outputShape derives the shape of an output of n from its inputs' shapes.
func (s *scope) outputShape(n *onnx.Node, value string) []dim {
	if n.Output(0) != value {
		return nil
	}
	if source := s.shapeSource(n); source != "" {
		return s.shapeOf(source)
	}
	switch n.OpType {
	case "Add", "Sub", "Mul", "Div", "Pow":
		return broadcast(s.shapeOf(n.Input(0)), s.shapeOf(n.Input(1)), value)
	case "Gather":
		return gathered(s.shapeOf(n.Input(0)), s.shapeOf(n.Input(1)), int(n.Int("axis", 0)))
	case "Slice":
		shape := slices.Clone(s.shapeOf(n.Input(0)))
		for i := range shape {
			shape[i] = axisOf(value, i)
		}
		return shape
	case "Constant":
		if c, err := constantNode(n); err == nil {
			return numbers(c.dims)
		}
	case "MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulNBits":
		l := s.product(n)
		if l == nil || l.weight == nil {
			return nil
		}
		in := s.shapeOf(l.input)
		if in == nil && l.rank2 {
			in = []dim{axisOf(s.shapeRoot(l.input), 0), {}}
		}
		if len(in) < 1 {
			return nil
		}
		out := slices.Clone(in)
		out[len(out)-1] = number(l.weight.dims[0])
		return out
	case "Reshape", "Flatten", "Squeeze", "Unsqueeze":
		return s.reshaped(n, s.shapeOf(n.Input(0)))
	case "ReduceMean", "ReduceSum":
		return s.reduced(n)
	}
	return nil
}

// reduced returns the shape of a reduction that keeps its axes, as norms have
// it.
func (s *scope) reduced(n *onnx.Node) []dim {
	shape := slices.Clone(s.shapeOf(n.Input(0)))
	axes, ok := s.axesOf(n)
	if shape == nil || !ok || len(axes) == 0 || n.Int("keepdims", 1) == 0 {
		return nil
	}
	for _, a := range axes {
		if a < 0 {
			a += int64(len(shape))
		}
		if a < 0 || a >= int64(len(shape)) {
			return nil
		}
		shape[a] = number(1)
	}
	return shape
}

// dimAt returns dimension i of a value; a negative i counts from the end. It
// fails where i is outside, and for a negative i where neither the rank nor
// the last dimension is known.
func (s *scope) dimAt(value string, i int) (dim, bool) {
	shape := s.shapeOf(value)
	switch {
	case shape != nil && i < 0:
		i += len(shape)
		fallthrough
	case shape != nil:
		if i < 0 || i >= len(shape) {
			return dim{}, false
		}
		return shape[i], true
	case i >= 0:
		return axisOf(s.shapeRoot(value), i), true
	case i == -1:
		if l := s.product(s.producer(s.shapeRoot(value))); l != nil && l.weight != nil {
			return number(l.out()), true
		}
	}
	return dim{}, false
}

// sameShapes reports whether two values with the same number of elements and
// the same last dimension have the same shape in every run.
func (s *scope) sameShapes(a, b string) bool {
	x, y := s.shapeOf(a), s.shapeOf(b)
	switch {
	case s.isMatrix(a, x) && s.isMatrix(b, y):
		return true
	case x == nil && y == nil:
		return s.shapeRoot(a) == s.shapeRoot(b)
	case x == nil:
		return s.leadsLike(y, a)
	case y == nil:
		return s.leadsLike(x, b)
	case len(x) != len(y) || len(x) == 0:
		return false
	}
	different := 0
	for i := range x[:len(x)-1] {
		if x[i] != y[i] {
			different++
		}
	}
	return different <= 1 // the equal number of elements settles one
}

// isMatrix reports whether a value has rank 2: its shape says so, or a Gemm
// takes it.
func (s *scope) isMatrix(value string, shape []dim) bool {
	if shape != nil {
		return len(shape) == 2
	}
	return slices.ContainsFunc(s.index.Consumers(value), func(use onnx.Use) bool {
		return use.Input == 0 && (use.Node.OpType == "Gemm" || use.Node.OpType == "FusedGemm")
	})
}

// leadsLike reports whether all dimensions of shape but the last are those of
// value, whose rank is not known.
func (s *scope) leadsLike(shape []dim, value string) bool {
	for i := range len(shape) - 1 {
		if d, ok := s.dimAt(value, i); !ok || shape[i] != d {
			return false
		}
	}
	return len(shape) > 1
}
