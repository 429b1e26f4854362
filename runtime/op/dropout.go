package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// Dropout, ONNX 7 to 22. Since version 12 the ratio is input 1, and
		// input 2 asks for training mode, in which elements become 0 with
		// that probability and the others are multiplied by 1/(1 − ratio).
		// Otherwise, and always in older versions, the output is the input.
		// Output 1 tells which elements were kept; before version 10 it has
		// the input's type.
		Operator{Name: "Dropout", Since: []int{7, 10, 12, 13, 22}, Inputs: Between(1, 3), Outputs: Between(1, 2),
			Attributes: []string{"ratio", "seed"}, Elementwise: true, Nondeterministic: true, Infer: inferDropout, Gradient: dropoutGradient},

		// Dropout of ai.fmoe: elements of input 0 become 0 with the probability
		// in input 1, a scalar, and the others are multiplied by 1/(1 − ratio).
		// What it draws depends on the attributes seed and layer, on input 2,
		// the step (int64, a scalar), and on the place of an element alone, so
		// that its gradient is the same node of the output's gradient.
		Operator{Domain: moe.Domain, Name: "Dropout", Since: []int{1}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"seed", "layer"}, Elementwise: true, Infer: inferStepDropout, Gradient: func(b *Backward) {
				b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: "Dropout", Attributes: b.Node.Attributes}, b.Gradient(0), b.Input(1), b.Input(2)))
			}},
	)
}

// dropoutGradient gives the gradient to the elements that were kept.
func dropoutGradient(b *Backward) {
	g, training := b.Gradient(0), b.Input(2)
	if training == NoValue {
		b.Set(0, g)
		return
	}
	scale := b.Scalar(2, g)
	if ratio := b.Input(1); ratio != NoValue {
		scale = b.Op("Reciprocal", b.minus(1, b.Cast(ratio, g)))
	}
	scale = b.where(training, scale, 1)
	b.Set(0, b.where(b.Output(1), b.Op("Mul", g, scale), 0))
}

func inferDropout(c *Inference) error {
	if c.Node.Since < 12 {
		if c.Has(1) || c.Has(2) {
			return fmt.Errorf("has %d inputs; version %d of the operator takes one", len(c.Inputs), c.Node.Since)
		}
		if err := c.unwanted("seed"); err != nil {
			return err
		}
	} else if err := c.unwanted("ratio"); err != nil {
		return err
	}
	if t := c.Type(1); t != onnx.Undefined && !t.IsFloat() {
		return fmt.Errorf("input 1 has elements of type %s, needs a floating-point type", t)
	}
	if err := c.wantBoolean(2); err != nil {
		return err
	}
	for i := 1; i <= 2; i++ {
		if err := c.wantScalar(i); err != nil {
			return err
		}
	}
	mask := onnx.Bool
	if c.Node.Since < 10 {
		mask = c.Type(0)
	}
	c.Set(0, c.Type(0), c.Shape(0))
	c.Set(1, mask, c.Shape(0))
	return nil
}

func inferStepDropout(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong(floatTypes, 1); err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, 2); err != nil {
		return err
	}
	for i := 1; i <= 2; i++ {
		if err := c.wantScalar(i); err != nil {
			return err
		}
	}
	c.Set(0, t, c.Shape(0))
	return nil
}

// wantScalar fails where an input is known to have other than one element.
func (c *Inference) wantScalar(i int) error {
	if n, known := elements(c.Shape(i)); known && n != 1 {
		return fmt.Errorf("input %d has shape %s, needs a scalar", i, FormatDims(c.Shape(i)))
	}
	return nil
}
