package fmoefy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

// dim is a dimension as far as the graph tells it: the product of a number
// and symbols. Equal dims are equal in every run.
type dim struct {
	factor  int64
	symbols string // sorted, joined by "·"
}

func number(n int64) dim         { return dim{factor: n} }
func symbol(name string) dim     { return dim{factor: 1, symbols: name} }
func (d dim) known() bool        { return d.symbols == "" }
func (d dim) is(n int64) bool    { return d.known() && d.factor == n }
func axisOf(v string, i int) dim { return symbol(fmt.Sprintf("%s#%d", v, i)) }

// declared returns d as a file states it.
func (d dim) declared() onnx.Dim {
	name, isParam := strings.CutPrefix(d.symbols, "$")
	switch {
	case d.known():
		return onnx.Dim{Known: true, Value: d.factor}
	case isParam && d.factor == 1 && !strings.Contains(name, "·"):
		return onnx.Dim{Param: name}
	}
	return onnx.Dim{}
}

func (d dim) list() []string {
	if d.symbols == "" {
		return nil
	}
	return strings.Split(d.symbols, "·")
}

func product(dims ...dim) dim {
	n, symbols := int64(1), []string(nil)
	for _, d := range dims {
		n *= d.factor
		symbols = append(symbols, d.list()...)
	}
	slices.Sort(symbols)
	return dim{n, strings.Join(symbols, "·")}
}

// over returns d divided by e, and false where that is not a dim.
func (d dim) over(e dim) (dim, bool) {
	if e.factor == 0 || d.factor%e.factor != 0 {
		return dim{}, false
	}
	symbols := d.list()
	for _, s := range e.list() {
		i := slices.Index(symbols, s)
		if i < 0 {
			return dim{}, false
		}
		symbols = slices.Delete(symbols, i, i+1)
	}
	return dim{d.factor / e.factor, strings.Join(symbols, "·")}, true
}

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

func numbers(list []int64) []dim {
	dims := make([]dim, len(list))
	for i, n := range list {
		dims[i] = number(n)
	}
	return dims
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
	case "MatMul", "Gemm", "FusedMatMul", "FusedGemm":
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
	}
	return nil
}

// broadcast returns the shape of an elementwise operation that gives value.
func broadcast(a, b []dim, value string) []dim {
	if a == nil || b == nil {
		return nil
	}
	if len(a) < len(b) {
		a, b = b, a
	}
	shape := slices.Clone(a)
	for i, y := range b {
		i += len(a) - len(b)
		switch x := shape[i]; {
		case x == y || y.is(1):
		case x.is(1) || y.known():
			shape[i] = y
		case !x.known():
			shape[i] = axisOf(value, i)
		}
	}
	return shape
}

// gathered returns the shape of Gather's output.
func gathered(data, indices []dim, axis int) []dim {
	if axis < 0 {
		axis += len(data)
	}
	if data == nil || indices == nil || axis < 0 || axis >= len(data) {
		return nil
	}
	return slices.Concat(data[:axis], indices, data[axis+1:])
}

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
	axes := n.Ints("axes")
	if name := n.Input(1); name != "" {
		c, err := s.constant(name)
		if err != nil {
			return nil
		}
		axes, _ = c.integers()
	}
	if in == nil {
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
		return nil, fmt.Errorf("its shape is not a constant")
	}
	return dims, nil
}

// dimsOf returns the content of an integer vector that holds dimensions:
// a constant, or a computation from Shape nodes.
func (s *scope) dimsOf(value string, depth int) ([]dim, bool) {
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

// arithmetic computes with two dimensions; only a product is one again where
// they are not numbers.
func arithmetic(opType string, a, b dim) (dim, bool) {
	switch {
	case opType == "Mul":
		return product(a, b), true
	case !a.known() || !b.known() || opType == "Div" && b.factor == 0:
		return dim{}, false
	case opType == "Add":
		return number(a.factor + b.factor), true
	case opType == "Sub":
		return number(a.factor - b.factor), true
	}
	return number(a.factor / b.factor), true
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
			dims = append(dims, s.dimAt(n.Input(0), int(i)))
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
		if ok := source != nil && source.Is("Shape") && len(source.Attributes) == 0; ok {
			var dims []dim
			for _, i := range indices {
				if i < 0 && s.shapeOf(source.Input(0)) == nil {
					return nil, false
				}
				dims = append(dims, s.dimAt(source.Input(0), int(i)))
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

// dimAt returns dimension i of a value; a negative i counts from the end and
// needs a known rank.
func (s *scope) dimAt(value string, i int) dim {
	shape := s.shapeOf(value)
	if shape == nil {
		return axisOf(s.shapeRoot(value), i)
	}
	if i < 0 {
		i += len(shape)
	}
	if i < 0 || i >= len(shape) {
		return axisOf(value, i)
	}
	return shape[i]
}

// sameShapes reports whether two values with the same number of elements and
// the same last dimension have the same shape in every run.
func (s *scope) sameShapes(a, b string) bool {
	x, y := s.shapeOf(a), s.shapeOf(b)
	switch {
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

// leadsLike reports whether all dimensions of shape but the last are those of
// value, whose rank is not known.
func (s *scope) leadsLike(shape []dim, value string) bool {
	for i := range len(shape) - 1 {
		if shape[i] != s.dimAt(value, i) {
			return false
		}
	}
	return len(shape) > 1
}
