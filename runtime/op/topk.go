package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// The operators that order the elements along an axis.
func init() {
	argument := Operator{Since: []int{1, 11, 12, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
		Attributes: []string{"axis", "keepdims", "select_last_index"}, Infer: inferArgument}
	argMax, argMin := argument, argument
	argMax.Name, argMin.Name = "ArgMax", "ArgMin"
	Register(
		// TopK, ONNX 1 to 24: the k largest or smallest elements and their
		// indices. Version 10 made k an input, 11 added largest and sorted.
		// Of equal elements the one with the lower index comes first.
		Operator{Name: "TopK", Since: []int{1, 10, 11, 24}, Inputs: Between(1, 2), Outputs: Between(1, 2),
			Attributes: []string{"axis", "k", "largest", "sorted"}, Parameters: []int{1}, Infer: inferTopK, Gradient: topKGradient},
		// ArgMax and ArgMin, ONNX 1 to 13: the index of the largest and
		// smallest element; version 12 added select_last_index.
		argMax, argMin,
		// Hardmax, ONNX 1 to 13: one at the first largest element, zero
		// elsewhere. Its axis is Softmax's.
		Operator{Name: "Hardmax", Since: []int{1, 11, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferSoftmax, Gradient: NoGradient},
	)
}

func inferTopK(c *Inference) error {
	n := c.Node
	if err := c.wantForm(10, 1, "k"); err != nil {
		return err
	}
	if n.Since < 11 {
		if err := c.unwanted("largest", "sorted"); err != nil {
			return err
		}
	}
	if err := c.wantParameters(1); err != nil {
		return err
	}
	k, known := n.Int("k", -1), true
	if n.Since >= 10 {
		if !c.Has(1) {
			return fmt.Errorf("lacks its input K")
		}
		var err error
		if k, known, err = integer(c.Ints, 1); err != nil {
			return err
		}
	}
	if known && k < 0 {
		return fmt.Errorf("k is %d", k)
	}
	shape := c.Shape(0)
	if shape != nil {
		axis, err := Axis(n.Int("axis", -1), len(shape))
		if err != nil {
			return err
		}
		d := c.Fresh()
		if known {
			d = Dim(k)
		}
		if shape[axis].Known() && d > shape[axis] {
			return fmt.Errorf("k is %d, and axis %d of %s has only %d elements", k, axis, FormatDims(shape), shape[axis])
		}
		shape = replaced(shape, axis, d)
	}
	c.Set(0, c.Type(0), shape)
	c.Set(1, onnx.Int64, shape)
	return nil
}

func topKGradient(b *Backward) {
	axis := onnx.IntAttribute("axis", b.Node.Int("axis", -1))
	b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: "GatherElementsGradient", Attributes: []*onnx.Attribute{axis}},
		b.Gradient(0), b.Output(1), b.Shape(b.Input(0))))
}

func inferArgument(c *Inference) error {
	if c.Node.Since < 12 {
		if err := c.unwanted("select_last_index"); err != nil {
			return err
		}
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, onnx.Int64, nil)
		return nil
	}
	axis, err := Axis(c.Node.Int("axis", 0), len(shape))
	if err != nil {
		return err
	}
	if shape[axis] == 0 {
		return fmt.Errorf("axis %d of %s has no elements to choose from", axis, FormatDims(shape))
	}
	c.Set(0, onnx.Int64, reducedShape(shape, []int{axis}, c.Node.Int("keepdims", 1) != 0))
	return nil
}
