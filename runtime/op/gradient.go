package op

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Value is a value of the graph to which gradients are added.
type Value int

// NoValue stands for a value that is not there: an absent input, or a gradient
// that is zero everywhere.
const NoValue Value = -1

// Graph is what gradients are added to.
type Graph interface {
	// Fact returns what is known of a value.
	Fact(Value) Fact
	// Constant adds a constant.
	Constant(*tensor.Tensor) Value
	// Node adds a node, which means the newest version of its operator, and
	// returns its outputs.
	Node(n *onnx.Node, outputs int, inputs ...Value) ([]Value, error)
	// Output returns output i of the node whose gradient is built, also where
	// nobody wanted this output before.
	Output(i int) (Value, error)
}

// Backward is the setting in which an operator's Gradient runs: it adds the
// nodes that compute the gradients of a node's inputs from those of its
// outputs. The gradient of a value is that of one number, the loss, with
// respect to the value; both have the same type and shape.
//
// After an error all methods do nothing, so that rules need not look for it.
type Backward struct {
	Node  *Node
	Graph Graph
	// Inputs has NoValue for an absent input.
	Inputs []Value
	// Outputs are the gradients of the node's outputs, NoValue for one that
	// does not influence the loss.
	Outputs []Value
	// Wanted marks the inputs whose gradients are wanted.
	Wanted []bool

	// Gradients of the inputs, stated by Set.
	Gradients []Value
	err       error
}

// ErrNoGradient is wrapped by the error of a gradient that an operator does not
// have in the form in which a node uses it.
var ErrNoGradient = errors.New("no gradient")

// NoGradient is the Gradient of operators that are constant wherever they have
// a derivative, such as Floor.
func NoGradient(*Backward) {}

// Differentiate adds the gradients of a node's inputs.
func (b *Backward) Differentiate() error {
	b.Gradients = make([]Value, len(b.Inputs))
	for i := range b.Gradients {
		b.Gradients[i] = NoValue
	}
	if b.Node.Operator.Gradient == nil {
		return errors.New("the operator has no gradient; freeze the weights before it, or compute the loss without it")
	}
	b.Node.Operator.Gradient(b)
	return b.err
}

// Fail states why a gradient cannot be computed. The first error counts.
func (b *Backward) Fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// Wants reports whether the gradient of input i is wanted.
func (b *Backward) Wants(i int) bool { return i < len(b.Wanted) && b.Wanted[i] }

// Input returns input i, NoValue where it is absent.
func (b *Backward) Input(i int) Value {
	if i < len(b.Inputs) {
		return b.Inputs[i]
	}
	return NoValue
}

// Output returns output i, which is kept for the gradient.
func (b *Backward) Output(i int) Value {
	if b.err != nil {
		return NoValue
	}
	v, err := b.Graph.Output(i)
	if err != nil {
		b.Fail(err)
	}
	return v
}

// Gradient returns the gradient of output i, NoValue where it is zero.
func (b *Backward) Gradient(i int) Value {
	if i < len(b.Outputs) {
		return b.Outputs[i]
	}
	return NoValue
}

// Set states the gradient of input i.
func (b *Backward) Set(i int, gradient Value) {
	if b.err == nil && i < len(b.Gradients) {
		b.Gradients[i] = gradient
	}
}

// Fact returns what is known of a value, nothing of NoValue.
func (b *Backward) Fact(v Value) Fact {
	if v == NoValue {
		return Fact{}
	}
	return b.Graph.Fact(v)
}

// Rank returns the rank of a value, and fails where it is not known.
func (b *Backward) Rank(v Value) int {
	shape := b.Fact(v).Shape
	if shape == nil {
		b.Fail(errors.New("the gradient needs the rank of an input, which is not known before a run; state the shapes of the model's inputs"))
	}
	return len(shape)
}

// Op adds a node of one of ONNX's own operators, without attributes.
func (b *Backward) Op(opType string, inputs ...Value) Value {
	return b.Add(&onnx.Node{OpType: opType}, inputs...)
}

// Add adds a node of one output.
func (b *Backward) Add(n *onnx.Node, inputs ...Value) Value {
	return b.AddMany(n, 1, inputs...)[0]
}

// AddMany adds a node of several outputs.
func (b *Backward) AddMany(n *onnx.Node, outputs int, inputs ...Value) []Value {
	if b.err == nil {
		made, err := b.Graph.Node(n, outputs, inputs...)
		if err == nil {
			return made
		}
		b.Fail(fmt.Errorf("%s of its gradient: %w", n.OpType, err))
	}
	made := make([]Value, outputs)
	for i := range made {
		made[i] = NoValue
	}
	return made
}

// Scalar adds a number of the type of another value.
func (b *Backward) Scalar(x float64, like Value) Value {
	if b.err != nil {
		return NoValue
	}
	t := tensor.New(b.Fact(like).Type)
	if !t.Type.IsFloat() {
		b.Fail(fmt.Errorf("a number of type %s", t.Type))
		return NoValue
	}
	tensor.ConvertFloat(t, tensor.Scalar(x))
	return b.Graph.Constant(t)
}

// Ints adds a vector of integers.
func (b *Backward) Ints(x ...int64) Value {
	if b.err != nil {
		return NoValue
	}
	return b.Graph.Constant(tensor.FromSlice(x, len(x)))
}

// Shape adds the shape of a value. It does not keep the value's elements for
// the gradient.
func (b *Backward) Shape(v Value) Value { return b.Op("Shape", v) }

// Transpose adds a permutation of axes.
func (b *Backward) Transpose(v Value, perm ...int64) Value {
	return b.Add(&onnx.Node{OpType: "Transpose", Attributes: []*onnx.Attribute{onnx.IntsAttribute("perm", perm...)}}, v)
}

// Cast gives a value the type of another.
func (b *Backward) Cast(v, like Value) Value {
	from, to := b.Fact(v).Type, b.Fact(like).Type
	if from == to || v == NoValue {
		return v
	}
	return b.Add(&onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(to))}}, v)
}

// Reshape gives a value the shape of another.
func (b *Backward) Reshape(v, like Value) Value {
	if b.err != nil || v == NoValue || equalShapes(b.Fact(v).Shape, b.Fact(like).Shape) {
		return v
	}
	return b.Add(&onnx.Node{OpType: "Reshape", Attributes: []*onnx.Attribute{onnx.IntAttribute("allowzero", 1)}}, v, b.Shape(like))
}

// ReduceSum sums over axes, which it keeps with length 1 or drops.
func (b *Backward) ReduceSum(v Value, keep bool, axes ...int64) Value {
	n := &onnx.Node{OpType: "ReduceSum", Attributes: []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}}
	if keep {
		n.Attributes[0].Int = 1
	}
	return b.Add(n, v, b.Ints(axes...))
}

// SumTo undoes broadcasting: it sums a gradient over the axes along which a
// value was repeated to become of the gradient's shape.
func (b *Backward) SumTo(gradient, like Value) Value {
	if b.err != nil || gradient == NoValue {
		return NoValue
	}
	from, to := b.Fact(gradient).Shape, b.Fact(like).Shape
	if equalShapes(from, to) {
		return gradient
	}
	if axes, ok := repeated(from, to); ok {
		summed := b.ReduceSum(gradient, true, axes...)
		if len(from) == len(to) {
			return summed
		}
		return b.Reshape(summed, like)
	}
	return b.Add(&onnx.Node{Domain: moe.Domain, OpType: "SumTo"}, gradient, b.Shape(like))
}

// equalShapes reports whether two shapes are certainly the same.
func equalShapes(a, b []Dim) bool {
	if a == nil || b == nil || len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// repeated returns the axes of shape along which a value of shape from is
// repeated, where that does not depend on symbols.
func repeated(shape, from []Dim) (axes []int64, ok bool) {
	if shape == nil || from == nil || len(from) > len(shape) {
		return nil, false
	}
	offset := len(shape) - len(from)
	for i, d := range shape {
		switch {
		case i < offset || from[i-offset] == 1 && d != 1:
			axes = append(axes, int64(i))
		case from[i-offset] != d:
			return nil, false
		}
	}
	return axes, true
}

func init() {
	Register(
		// SumTo, which gradients are made of: the sum of input 0 over the axes
		// along which a value of the shape that input 1 states is repeated
		// when it broadcasts to input 0.
		Operator{Domain: moe.Domain, Name: "SumTo", Since: []int{1}, Inputs: Exactly(2), Outputs: Exactly(1),
			Parameters: []int{1}, ViewOfSame: true, Infer: inferSumTo},
	)
}

func inferSumTo(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if err := c.wantParameters(1); err != nil {
		return err
	}
	to, known := c.Ints(1)
	if !known {
		c.Set(0, t, c.listed(1))
		return nil
	}
	shape := make([]Dim, len(to), len(to)+1)
	for i, d := range to {
		shape[i] = Dim(max(d, 0))
	}
	if from := c.Shape(0); from != nil && !c.broadcastsTo(shape, from) {
		return fmt.Errorf("a value of shape %s does not broadcast to %s", FormatDims(shape), FormatDims(from))
	}
	c.Set(0, t, shape)
	return nil
}
