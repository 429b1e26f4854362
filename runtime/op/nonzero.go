package op

import (
	"github.com/fmoe-go/fmoe/onnx"
)

// The operators whose output sizes depend on the content of their inputs.
func init() {
	Register(
		// NonZero, ONNX 9 and 13: the positions of the elements that are not
		// zero, one a column.
		Operator{Name: "NonZero", Since: []int{9, 13}, Inputs: Exactly(1), Outputs: Exactly(1), Infer: inferNonZero},
		// Unique, ONNX 11 and 28: the different elements, or the different
		// slices along an axis.
		Operator{Name: "Unique", Since: []int{11, 28}, Inputs: Exactly(1), Outputs: Between(1, 4),
			Attributes: []string{"axis", "sorted"}, Infer: inferUnique, Gradient: uniqueGradient},
	)
}

func inferNonZero(c *Inference) error {
	rank, count := c.Fresh(), c.Fresh()
	if shape := c.Shape(0); shape != nil {
		rank = Dim(len(shape))
	}
	if content, known := c.Ints(0); known {
		count = 0
		for _, v := range content {
			if v != 0 {
				count++
			}
		}
	}
	c.Set(0, onnx.Int64, []Dim{rank, count})
	return nil
}

// uniqueGradient gives the gradient to the first of equal elements.
func uniqueGradient(b *Backward) { b.setChosen(b.Output(1)) }

func inferUnique(c *Inference) error {
	shape, count := c.Shape(0), c.Fresh()
	out, inverse := []Dim{count}, c.Fresh()
	switch {
	case c.Node.Attribute("axis") == nil:
		if shape != nil {
			inverse = c.product(shape)
		}
	case shape == nil:
		out = nil
	default:
		axis, err := Axis(c.Node.Int("axis", 0), len(shape))
		if err != nil {
			return err
		}
		out, inverse = replaced(shape, axis, count), shape[axis]
	}
	c.Set(0, c.Type(0), out)
	c.Set(1, onnx.Int64, []Dim{count})
	c.Set(2, onnx.Int64, []Dim{inverse})
	c.Set(3, onnx.Int64, []Dim{count})
	return nil
}
