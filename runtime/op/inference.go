package op

import (
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Dim is a dimension as it is known before a run: a number, or a symbol.
// Symbols are negative; equal symbols are equal dimensions.
type Dim int

// Known reports whether d is a number.
func (d Dim) Known() bool { return d >= 0 }

// Fact is what is known of a value before it is computed.
type Fact struct {
	// Type is Undefined when unknown.
	Type onnx.DataType
	// Shape is nil when the rank is unknown, and empty but not nil for a
	// scalar.
	Shape []Dim
	// Value is the content, where that is known too. Its type and shape
	// agree with the fact's.
	Value *tensor.Tensor
	// Numbers are the elements of a scalar or vector of integers, where the
	// content is not known but some of it is: the dimensions of a shape.
	Numbers []Number
}

// FactOf returns what a tensor with known content is.
func FactOf(t *tensor.Tensor) Fact {
	return Fact{Type: t.Type, Shape: Dims(t.Shape...), Value: t}
}

// Concrete reports whether type and every dimension are known.
func (f *Fact) Concrete() bool {
	if f.Type == onnx.Undefined || f.Shape == nil {
		return false
	}
	for _, d := range f.Shape {
		if d < 0 {
			return false
		}
	}
	return true
}

// Ints returns a concrete fact's shape.
func (f *Fact) Ints() []int {
	shape := make([]int, len(f.Shape))
	for i, d := range f.Shape {
		shape[i] = int(d)
	}
	return shape
}

// Dims makes a shape, never nil.
func Dims[T int | int64](shape ...T) []Dim {
	dims := make([]Dim, len(shape), len(shape)+1)
	for i, d := range shape {
		dims[i] = Dim(d)
	}
	return dims
}

// JoinDims makes a shape of the dimensions of several, never nil. A shape
// that may be empty must come from here or from Dims: go1.26 turns an empty
// slice that append or slices.Clone made into a nil one when it moves it off
// the stack, and nil means that the rank is unknown.
func JoinDims(parts ...[]Dim) []Dim {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	dims := make([]Dim, n, n+1)
	n = 0
	for _, p := range parts {
		n += copy(dims[n:], p)
	}
	return dims
}

// Inference is the setting in which an operator's Infer runs: the node, what
// is known of its inputs, and the outputs to state.
type Inference struct {
	Node    *Node
	Inputs  []Fact // an absent input is a zero Fact
	Outputs []Fact // stated by Set
	Symbols *Symbols
}

// Infer runs the operator's inference. Outputs that it leaves unstated are
// unknown.
func Infer(n *Node, inputs []Fact, symbols *Symbols) ([]Fact, error) {
	return (&Inference{Symbols: symbols}).Infer(n, inputs)
}

// Infer is the function Infer for one node after another, without memory for
// each: the outputs hold until the next call.
func (c *Inference) Infer(n *Node, inputs []Fact) ([]Fact, error) {
	if cap(c.Outputs) < len(n.Outputs) {
		c.Outputs = make([]Fact, len(n.Outputs))
	}
	c.Node, c.Inputs, c.Outputs = n, inputs, c.Outputs[:len(n.Outputs)]
	clear(c.Outputs)
	if err := n.Operator.Infer(c); err != nil {
		return nil, err
	}
	c.inferNumbers()
	return c.Outputs, nil
}

// Has reports whether input i is there.
func (c *Inference) Has(i int) bool { return c.Node.Input(i) != "" }

// Type returns the element type of input i, Undefined when absent or unknown.
func (c *Inference) Type(i int) onnx.DataType {
	if i < len(c.Inputs) {
		return c.Inputs[i].Type
	}
	return onnx.Undefined
}

// Shape returns the shape of input i, nil when the rank is unknown or the
// input absent. The caller must not change it.
func (c *Inference) Shape(i int) []Dim {
	if i < len(c.Inputs) {
		return c.Inputs[i].Shape
	}
	return nil
}

// Value returns the content of input i, or nil when it is not known.
func (c *Inference) Value(i int) *tensor.Tensor {
	if i < len(c.Inputs) {
		return c.Inputs[i].Value
	}
	return nil
}

// Ints returns the content of an integer input, and false when it is not
// known (or not of integers).
func (c *Inference) Ints(i int) ([]int64, bool) {
	v := c.Value(i)
	if v == nil {
		return nil, false
	}
	ints, err := v.Ints()
	return ints, err == nil
}

// Set states output i. A nil shape means that its rank is unknown. Outputs
// that the node does not have are ignored.
func (c *Inference) Set(i int, t onnx.DataType, shape []Dim) {
	if i < len(c.Outputs) {
		c.Outputs[i] = Fact{Type: t, Shape: shape}
	}
}

// Fresh returns a dimension about which nothing is known.
func (c *Inference) Fresh() Dim { return c.Symbols.Fresh() }

// Unknown returns a shape of the given rank with nothing else known.
func (c *Inference) Unknown(rank int) []Dim {
	shape := make([]Dim, rank, rank+1)
	for i := range shape {
		shape[i] = c.Fresh()
	}
	return shape
}

// Axis turns an axis of a tensor of the given rank into 0 … rank−1; negative
// ones count from the end.
func Axis(axis int64, rank int) (int, error) {
	if axis < -int64(rank) || axis >= int64(rank) {
		return 0, fmt.Errorf("axis %d is outside a tensor of rank %d", axis, rank)
	}
	if axis < 0 {
		axis += int64(rank)
	}
	return int(axis), nil
}

// Axes resolves a list of axes and sorts it. It fails where one occurs twice.
func Axes(axes []int64, rank int) ([]int, error) {
	out := make([]int, len(axes))
	for i, a := range axes {
		var err error
		if out[i], err = Axis(a, rank); err != nil {
			return nil, err
		}
	}
	slices.Sort(out)
	for i := 1; i < len(out); i++ {
		if out[i] == out[i-1] {
			return nil, fmt.Errorf("axis %d is named twice", out[i])
		}
	}
	return out, nil
}

// Broadcast returns the shape of an elementwise operation on shapes a and b
// (numpy's rules, as ONNX has them since opset 7). Where the outcome depends
// on symbols it is a fresh one. A nil shape gives nil.
func (c *Inference) Broadcast(a, b []Dim) ([]Dim, error) {
	if a == nil || b == nil {
		return nil, nil
	}
	if len(a) < len(b) {
		a, b = b, a
	}
	out := JoinDims(a)
	offset := len(a) - len(b)
	for i, y := range b {
		x := a[offset+i]
		switch {
		case x == y || y == 1:
		case x == 1:
			out[offset+i] = y
		case x >= 0 && y >= 0:
			return nil, fmt.Errorf("shapes %s and %s do not broadcast", FormatDims(a), FormatDims(b))
		case y >= 0:
			out[offset+i] = y
		case x >= 0:
		// The first elements of a longer axis, as many as d, broadcast with d
		// only if they are d.
		case c.Symbols.limited[x] == y:
			out[offset+i] = y
		case c.Symbols.limited[y] == x:
		default:
			out[offset+i] = c.Fresh()
		}
	}
	return out, nil
}

// BroadcastAll broadcasts the shapes of all inputs.
func (c *Inference) BroadcastAll() ([]Dim, error) {
	shape := Dims[int]()
	for i := range c.Inputs {
		if !c.Has(i) {
			continue
		}
		var err error
		if shape, err = c.Broadcast(shape, c.Shape(i)); err != nil {
			return nil, err
		}
		if shape == nil {
			return nil, nil
		}
	}
	return shape, nil
}

// Mul multiplies dimensions; a product with a symbol is a symbol, the same for
// the same factors, unless the other factor is 0 or 1. What overflows becomes
// the largest dimension, for which there is no memory.
func (c *Inference) Mul(a, b Dim) Dim {
	switch {
	case a == 0 || b == 0:
		return 0
	case a == 1:
		return b
	case b == 1:
		return a
	case a > 0 && b > 0 && a > math.MaxInt/b:
		return math.MaxInt
	case a > 0 && b > 0:
		return a * b
	}
	return c.Symbols.product(a, b)
}

// Add adds dimensions, and treats overflow as Mul does.
func (c *Inference) Add(a, b Dim) Dim {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	case a > 0 && b > 0 && a > math.MaxInt-b:
		return math.MaxInt
	case a > 0 && b > 0:
		return a + b
	}
	return c.Symbols.sum(a, b)
}

// Unify returns the dimension that two equal ones are, preferring a number,
// and fails where they are different numbers.
func Unify(a, b Dim) (Dim, error) {
	switch {
	case a >= 0 && b >= 0 && a != b:
		return 0, fmt.Errorf("dimensions %d and %d differ", a, b)
	case a >= 0:
		return a, nil
	}
	return b, nil
}

// FormatDims writes a shape; symbols are written "?".
func FormatDims(shape []Dim) string {
	if shape == nil {
		return "[…]"
	}
	s := "["
	for i, d := range shape {
		if i > 0 {
			s += ","
		}
		if d >= 0 {
			s += fmt.Sprint(int(d))
		} else {
			s += "?"
		}
	}
	return s + "]"
}

// SameAsInput is the inference of operators whose output 0 has the type and
// shape of input 0.
func SameAsInput(c *Inference) error {
	c.Set(0, c.Type(0), c.Shape(0))
	return nil
}

// AxesInput returns axes that older versions give as the attribute "axes" and
// newer ones as input i. known is false where the input's content is not
// known yet; a nil list means that none are given.
func (c *Inference) AxesInput(i int) (axes []int64, known bool) {
	if c.Has(i) {
		return c.Ints(i)
	}
	return c.Node.Ints("axes"), true
}
