package fmoefy

import (
	"errors"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// reshaped returns the shape that a shape-changing node gives to an input of
// shape in, which may be nil.
func (s *scope) reshaped(n *onnx.Node, in []dim) []dim {
	switch n.OpType {
	case "Flatten":
		axis := int(n.Int("axis", 1))
		if axis < 0 {
			axis += len(in)
		}
		if in == nil || axis < 0 || axis > len(in) {
			return []dim{axisOf(n.Output(0), 0), axisOf(n.Output(0), 1)}
		}
		return []dim{product(in[:axis]...), product(in[axis:]...)}
	case "Squeeze", "Unsqueeze":
		return s.resized(n, in)
	}
	target, ok := s.dimsOf(n.Input(1), maxDepth)
	if !ok {
		return nil
	}
	shape := slices.Clone(target)
	inferred := -1
	for i, d := range shape {
		switch {
		case d.is(0) && n.Int("allowzero", 0) == 0:
			shape[i] = axisOf(s.shapeRoot(n.Input(0)), i)
			if i < len(in) {
				shape[i] = in[i]
			}
		case d.is(-1):
			inferred = i
		}
	}
	if inferred >= 0 {
		rest := product(slices.Delete(slices.Clone(shape), inferred, inferred+1)...)
		shape[inferred] = axisOf(n.Output(0), inferred)
		if in != nil {
			if d, ok := product(in...).over(rest); ok {
				shape[inferred] = d
			}
		}
	}
	return shape
}

// resized is reshaped for Squeeze and Unsqueeze.
func (s *scope) resized(n *onnx.Node, in []dim) []dim {
	axes, ok := s.axesOf(n)
	if in == nil || !ok {
		return nil
	}
	rank := len(in)
	if n.OpType == "Unsqueeze" {
		rank += len(axes)
	}
	named := make([]bool, rank)
	for _, a := range axes {
		if a < 0 {
			a += int64(rank)
		}
		if a < 0 || a >= int64(rank) {
			return nil
		}
		named[a] = true
	}
	var shape []dim
	if n.OpType == "Squeeze" {
		for i, d := range in {
			if !named[i] && (len(axes) > 0 || !d.is(1)) {
				shape = append(shape, d)
			}
		}
		return shape
	}
	for _, isNew := range named {
		switch {
		case isNew:
			shape = append(shape, number(1))
		case len(in) == 0:
			return nil
		default:
			shape = append(shape, in[0])
			in = in[1:]
		}
	}
	return shape
}

// reshapedDims is reshaped where every dimension is known.
func (s *scope) reshapedDims(n *onnx.Node, in []int64) ([]int64, error) {
	shape := s.reshaped(n, numbers(in))
	dims := make([]int64, len(shape))
	for i, d := range shape {
		if !d.known() {
			shape = nil
			break
		}
		dims[i] = d.factor
	}
	if shape == nil {
		return nil, errors.New("its shape is not a constant")
	}
	return dims, nil
}

// axesOf returns a node's axes, which are an attribute in older operator sets
// and the second input in newer ones.
func (s *scope) axesOf(n *onnx.Node) ([]int64, bool) {
	if n.Input(1) == "" {
		return n.Ints("axes"), true
	}
	c, err := s.constant(n.Input(1))
	if err != nil {
		return nil, false
	}
	return c.integers()
}

// dimsOf returns the content of an integer vector that holds dimensions:
// a constant, or a computation from Shape nodes.
func (s *scope) dimsOf(value string, depth int) ([]dim, bool) {
	known, done := s.dims[value]
	if !done {
		s.dims[value] = dimensions{} // ends the recursion in a graph with a cycle
		known.list, known.ok = s.computeDims(value, depth)
		s.dims[value] = known
	}
	return known.list, known.ok
}

// dimensions is what dimsOf found.
type dimensions struct {
	list []dim
	ok   bool
}

func (s *scope) computeDims(value string, depth int) ([]dim, bool) {
	if c, err := s.constant(value); err == nil {
		list, ok := c.integers()
		return numbers(list), ok
	}
	d := s.lookup(value)
	n := d.node
	if n == nil || depth == 0 || onnx.CanonicalDomain(n.Domain) != "" {
		return nil, false
	}
	s = d.scope
	switch n.OpType {
	case "Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape":
		return s.dimsOf(n.Input(0), depth-1)
	case "Concat":
		var all []dim
		for _, in := range n.Inputs {
			part, ok := s.dimsOf(in, depth-1)
			if !ok {
				return nil, false
			}
			all = append(all, part...)
		}
		return all, true
	case "Add", "Sub", "Mul", "Div":
		a, okA := s.dimsOf(n.Input(0), depth-1)
		b, okB := s.dimsOf(n.Input(1), depth-1)
		if okA && okB && len(a) == 1 && len(b) == 1 {
			d, ok := arithmetic(n.OpType, a[0], b[0])
			return []dim{d}, ok
		}
	case "Shape", "Gather", "Slice":
		return s.selectedDims(n, depth)
	}
	return nil, false
}

// selectedDims is dimsOf for nodes that take dimensions of a shape.
func (s *scope) selectedDims(n *onnx.Node, depth int) ([]dim, bool) {
	switch n.OpType {
	case "Shape":
		shape := s.shapeOf(n.Input(0))
		start, end := n.Int("start", 0), n.Int("end", int64(len(shape)))
		if shape == nil && (start < 0 || end <= 0 || end > maxDepth) {
			return nil, false // what it takes depends on the rank
		}
		if shape != nil {
			start, end = clampAxis(start, len(shape)), clampAxis(end, len(shape))
		}
		var dims []dim
		for i := start; i < end; i++ {
			d, ok := s.dimAt(n.Input(0), int(i))
			if !ok {
				return nil, false
			}
			dims = append(dims, d)
		}
		return dims, true
	case "Gather":
		c, err := s.constant(n.Input(1))
		if err != nil || n.Int("axis", 0) != 0 {
			return nil, false
		}
		indices, ok := c.integers()
		if !ok {
			return nil, false
		}
		source := s.lookup(n.Input(0)).node
		if ok := source != nil && source.Is("Shape") && source.Int("start", 0) == 0 && source.Attribute("end") == nil; ok {
			var dims []dim
			for _, i := range indices {
				d, ok := s.dimAt(source.Input(0), int(i))
				if !ok {
					return nil, false
				}
				dims = append(dims, d)
			}
			return dims, true
		}
		all, ok := s.dimsOf(n.Input(0), depth-1)
		var dims []dim
		for _, i := range indices {
			if i < 0 {
				i += int64(len(all))
			}
			if i < 0 || i >= int64(len(all)) {
				return nil, false
			}
			dims = append(dims, all[i])
		}
		return dims, ok
	default: // Slice
		all, ok := s.dimsOf(n.Input(0), depth-1)
		p, okSlice := s.sliceOf(n, int64(len(all)))
		if !ok || !okSlice || p.step < 1 {
			return nil, false
		}
		var dims []dim
		for i := range p.count {
			dims = append(dims, all[p.start+i*p.step])
		}
		return dims, true
	}
}

// clampAxis turns a bound of Shape's range into 0 … rank.
func clampAxis(i int64, rank int) int64 {
	if i < 0 {
		i += int64(rank)
	}
	return max(0, min(i, int64(rank)))
}
