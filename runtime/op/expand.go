package op

import "fmt"

func init() {
	Register(
		// Expand, ONNX 8 and 13: broadcasting to a shape.
		Operator{Name: "Expand", Since: []int{8, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Parameters: []int{1}, Infer: inferExpand},
		// Tile, ONNX 6 and 13: copies side by side along every axis.
		Operator{Name: "Tile", Since: []int{6, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Parameters: []int{1}, Infer: inferTile},
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
