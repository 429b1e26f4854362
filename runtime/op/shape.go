package op

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	Register(
		// Shape, ONNX 1 to 25: the dimensions as a vector. Version 15 added
		// start and end, the others element types.
		Operator{Name: "Shape", Since: []int{1, 13, 15, 19, 21, 23, 24, 25}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"start", "end"}, Infer: inferShape},
		// Size, ONNX 1 to 25: the number of elements.
		Operator{Name: "Size", Since: []int{1, 13, 19, 21, 23, 24, 25}, Inputs: Exactly(1), Outputs: Exactly(1),
			Infer: inferSize},
	)
}

// ShapeRange returns which dimensions a Shape node lists of a tensor of the
// given rank: those from lo to before hi.
func ShapeRange(n *Node, rank int) (lo, hi int) {
	bound := func(attribute string, fallback int) int {
		at := n.Int(attribute, int64(fallback))
		if at < 0 {
			at = max(at, -int64(rank)) + int64(rank)
		}
		return int(min(at, int64(rank)))
	}
	lo, hi = bound("start", 0), bound("end", rank)
	return lo, max(lo, hi)
}

func inferShape(c *Inference) error {
	if c.Node.Since < 15 {
		if err := c.unwanted("start", "end"); err != nil {
			return err
		}
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, onnx.Int64, c.Unknown(1))
		return nil
	}
	lo, hi := ShapeRange(c.Node, len(shape))
	c.Set(0, onnx.Int64, Dims(hi-lo))
	content := make([]int64, 0, hi-lo)
	for _, d := range shape[lo:hi] {
		if !d.Known() {
			return nil
		}
		content = append(content, int64(d))
	}
	c.setValue(0, tensor.FromSlice(content))
	return nil
}

func inferSize(c *Inference) error {
	c.Set(0, onnx.Int64, Dims[int]())
	if c.Shape(0) == nil {
		return nil
	}
	if n := c.product(c.Shape(0)); n.Known() {
		c.setValue(0, tensor.Scalar(int64(n)))
	}
	return nil
}

// product multiplies dimensions.
func (c *Inference) product(shape []Dim) Dim {
	n := Dim(1)
	for _, d := range shape {
		n = c.Mul(n, d)
	}
	return n
}
