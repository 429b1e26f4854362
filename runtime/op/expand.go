package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// Expand, ONNX 8 and 13: broadcasting to a shape.
		Operator{Name: "Expand", Since: []int{8, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Parameters: []int{1}, Infer: inferExpand, Gradient: func(b *Backward) { b.Set(0, b.SumTo(b.Gradient(0), b.Input(0))) }},
		// Tile, ONNX 6 and 13: copies side by side along every axis.
		Operator{Name: "Tile", Since: []int{6, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Parameters: []int{1}, Infer: inferTile, Gradient: tileGradient},
	)
}

func inferExpand(c *Inference) error {
	if err := c.wantParameters(1); err != nil {
		return err
	}
	wanted, err := c.dimensions(1)
	if wanted == nil || err != nil {
		c.Set(0, c.Type(0), nil)
		return err
	}
	shape, err := c.Broadcast(c.Shape(0), wanted)
	c.Set(0, c.Type(0), shape)
	return err
}

// tileGradient sums the copies, which the gradient has as an axis before each
// of the input's.
func tileGradient(b *Backward) {
	column := func(v Value) Value { return b.Op("Unsqueeze", v, b.Ints(1)) }
	x := b.Input(0)
	pairs := b.Add(&onnx.Node{OpType: "Concat", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", 1)}}, column(b.Input(1)), column(b.Shape(x)))
	axes := make([]int64, b.Rank(x))
	for i := range axes {
		axes[i] = int64(2 * i)
	}
	g := b.Add(&onnx.Node{OpType: "Reshape", Attributes: []*onnx.Attribute{onnx.IntAttribute("allowzero", 1)}}, b.Gradient(0), b.Op("Reshape", pairs, b.Ints(-1)))
	if len(axes) > 0 {
		g = b.Reshape(b.ReduceSum(g, false, axes...), x)
	}
	b.Set(0, g)
}

func inferTile(c *Inference) error {
	if err := c.wantParameters(1); err != nil {
		return err
	}
	shape := c.Shape(0)
	repeats := c.numbers(1)
	switch {
	case shape == nil:
		c.Set(0, c.Type(0), c.listed(1))
		return nil
	case repeats == nil:
		c.Set(0, c.Type(0), c.Unknown(len(shape)))
		return nil
	case len(repeats) != len(shape):
		return fmt.Errorf("repeats %s do not fit an input of shape %s", formatNumbers(repeats), FormatDims(shape))
	}
	out := make([]Dim, len(shape), len(shape)+1)
	for i, r := range repeats {
		if r.Value < 0 {
			return fmt.Errorf("repeats %s have a negative number", formatNumbers(repeats))
		}
		out[i] = c.Mul(shape[i], c.dim(r))
	}
	c.Set(0, c.Type(0), out)
	return nil
}
