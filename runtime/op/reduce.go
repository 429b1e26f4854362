package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// The reductions of ONNX. They differ in what they compute and in the version
// that turned the attribute "axes" into input 1: 13 for ReduceSum, 18 for the
// others.
func init() {
	for _, o := range []struct {
		name  string
		since []int
		// gradient returns that of the input x. The output y and its gradient
		// g broadcast to x.
		gradient func(b *Backward, x, y, g Value) Value
	}{
		{"ReduceSum", []int{1, 11, 13}, reduceSumGradient},
		{"ReduceMean", []int{1, 11, 13, 18}, reduceMeanGradient},
		{"ReduceMax", []int{1, 11, 12, 13, 18, 20}, reduceExtremeGradient},
		{"ReduceMin", []int{1, 11, 12, 13, 18, 20}, reduceExtremeGradient},
		{"ReduceProd", []int{1, 11, 13, 18}, reduceProdGradient},
		{"ReduceL1", []int{1, 11, 13, 18}, reduceL1Gradient},
		{"ReduceL2", []int{1, 11, 13, 18}, reduceL2Gradient},
		{"ReduceLogSum", []int{1, 11, 13, 18, 28}, reduceLogSumGradient},
		{"ReduceLogSumExp", []int{1, 11, 13, 18, 28}, reduceLogSumExpGradient},
		{"ReduceSumSquare", []int{1, 11, 13, 18}, reduceSumSquareGradient},
	} {
		Register(Operator{Name: o.name, Since: o.since, Inputs: Between(1, 2), Outputs: Exactly(1),
			Attributes: []string{"axes", "keepdims", "noop_with_empty_axes"}, Parameters: []int{1}, Infer: inferReduce,
			Gradient: func(b *Backward) {
				b.Set(0, o.gradient(b, b.Input(0), b.unreduced(b.Output(0)), b.unreduced(b.Gradient(0))))
			}})
	}
}

// ReduceAxes returns the axes that a reduction node removes from a tensor of
// the given rank, ascending. given is the list that the node has as attribute
// or input; an empty one means all axes, or none with noop_with_empty_axes.
func ReduceAxes(n *Node, given []int64, rank int) ([]int, error) {
	if len(given) > 0 {
		return Axes(given, rank)
	}
	if n.Int("noop_with_empty_axes", 0) != 0 {
		return nil, nil
	}
	all := make([]int, rank)
	for i := range all {
		all[i] = i
	}
	return all, nil
}

func inferReduce(c *Inference) error {
	n := c.Node
	axesInput := 18
	if n.OpType == "ReduceSum" {
		axesInput = 13
	}
	switch {
	case n.Since >= axesInput && n.Attribute("axes") != nil:
		return fmt.Errorf("has axes as an attribute, which version %d takes as input 1", n.Since)
	case n.Since < axesInput && c.Has(1):
		return fmt.Errorf("has axes as an input, which version %d takes as an attribute", n.Since)
	case n.Since < axesInput && n.Attribute("noop_with_empty_axes") != nil:
		return fmt.Errorf("attribute noop_with_empty_axes does not exist in version %d", n.Since)
	}
	if t := c.Type(0); t == onnx.String || t == onnx.Bool && (n.Since < 20 || n.OpType != "ReduceMax" && n.OpType != "ReduceMin") {
		return fmt.Errorf("cannot reduce elements of type %s", t)
	}
	keep := n.Int("keepdims", 1) != 0
	shape := c.Shape(0)
	given, known := c.AxesInput(1)
	switch {
	case shape == nil && known && len(given) == 0 && !keep && n.Int("noop_with_empty_axes", 0) == 0:
		c.Set(0, c.Type(0), []Dim{}) // of all axes, however many
	case shape == nil:
		c.Set(0, c.Type(0), nil)
	case known:
		axes, err := ReduceAxes(n, given, len(shape))
		if err != nil {
			return err
		}
		c.Set(0, c.Type(0), reducedShape(shape, axes, keep))
	case keep:
		c.Set(0, c.Type(0), c.Unknown(len(shape)))
	default:
		rank, known := c.rankWithout(len(shape), n.Int("noop_with_empty_axes", 0) != 0)
		if !known {
			c.Set(0, c.Type(0), nil)
		} else {
			c.Set(0, c.Type(0), c.Unknown(rank))
		}
	}
	return nil
}

// rankWithout returns the rank that remains when as many axes as input 1
// lists are removed from a tensor.
func (c *Inference) rankWithout(rank int, noopWhenEmpty bool) (int, bool) {
	axes := c.Shape(1)
	switch {
	case len(axes) != 1 || !axes[0].Known() || int(axes[0]) > rank:
		return 0, false
	case axes[0] == 0 && noopWhenEmpty:
		return rank, true
	case axes[0] == 0:
		return 0, true
	}
	return rank - int(axes[0]), true
}

// reducedShape removes axes from a shape, or gives them length 1.
func reducedShape(shape []Dim, axes []int, keep bool) []Dim {
	out := make([]Dim, 0, len(shape))
	for i, d := range shape {
		switch {
		case !slices.Contains(axes, i):
			out = append(out, d)
		case keep:
			out = append(out, 1)
		}
	}
	return JoinDims(out)
}

// unreduced gives what has the shape of a reduction's output one that
// broadcasts to the input: it inserts the axes that the node dropped.
func (b *Backward) unreduced(v Value) Value {
	axes := b.reducedAxes()
	if axes == NoValue || b.Node.Int("keepdims", 1) != 0 {
		return v // a scalar broadcasts as it is
	}
	if list := b.Fact(axes).Value; list != nil && list.Len() == 0 {
		return v
	}
	return b.Op("Unsqueeze", v, axes)
}

// reducedAxes returns the axes of a reduction node as an input, NoValue where
// it has none.
func (b *Backward) reducedAxes() Value {
	if axes := b.Node.Ints("axes"); len(axes) > 0 {
		return b.Ints(axes...)
	}
	return b.Input(1)
}

// reduced adds a reduction over the axes of the node, which it keeps.
func (b *Backward) reduced(opType string, v Value) Value {
	n := &onnx.Node{OpType: opType, Attributes: []*onnx.Attribute{onnx.IntAttribute("noop_with_empty_axes", b.Node.Int("noop_with_empty_axes", 0))}}
	if axes := b.reducedAxes(); axes != NoValue {
		return b.Add(n, v, axes)
	}
	return b.Add(n, v)
}

// expandLike repeats a value to the shape of another.
func (b *Backward) expandLike(v, like Value) Value { return b.Op("Expand", v, b.Shape(like)) }

func reduceSumGradient(b *Backward, x, _, g Value) Value { return b.expandLike(g, x) }

// reduceMeanGradient takes the number of elements from both sizes, in float32,
// since it may exceed what 16 bits hold.
func reduceMeanGradient(b *Backward, x, y, g Value) Value {
	size := func(v Value) Value {
		return b.Add(&onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Float32))}}, b.Op("Size", v))
	}
	return b.expandLike(b.Op("Mul", g, b.Cast(b.Op("Div", size(y), size(x)), g)), x)
}

// reduceExtremeGradient: where several elements are the largest or the
// smallest, they have equal shares in the gradient.
func reduceExtremeGradient(b *Backward, x, y, g Value) Value {
	chosen := b.Cast(b.Op("Equal", x, y), x)
	return b.Op("Mul", chosen, b.Op("Div", g, b.reduced("ReduceSum", chosen)))
}

// reduceProdGradient multiplies all other elements: it divides the product of
// those that are not zero, where no other one is.
func reduceProdGradient(b *Backward, x, _, g Value) Value {
	zero := b.compare("Equal", x, 0)
	factor := b.Op("Where", zero, b.Scalar(1, x), x)
	count := b.Cast(zero, x)
	others := b.Op("Sub", b.reduced("ReduceSum", count), count)
	product := b.Op("Div", b.reduced("ReduceProd", factor), factor)
	return b.Op("Mul", g, b.where(b.compare("Equal", others, 0), product, 0))
}

func reduceL1Gradient(b *Backward, x, _, g Value) Value { return b.Op("Mul", g, b.Op("Sign", x)) }

// reduceL2Gradient is x/y, and 0 where all elements are.
func reduceL2Gradient(b *Backward, x, y, g Value) Value {
	return b.Op("Mul", x, b.Op("Where", b.compare("Equal", y, 0), b.Scalar(0, y), b.Op("Div", g, y)))
}

func reduceLogSumGradient(b *Backward, x, y, g Value) Value {
	return b.expandLike(b.Op("Div", g, b.Op("Exp", y)), x)
}

func reduceLogSumExpGradient(b *Backward, x, y, g Value) Value {
	return b.Op("Mul", g, b.Op("Exp", b.Op("Sub", x, y)))
}

func reduceSumSquareGradient(b *Backward, x, _, g Value) Value {
	return b.Op("Mul", x, b.scaled(g, 2))
}
