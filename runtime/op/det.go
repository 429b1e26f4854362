package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// Det, ONNX 11 and 22: determinants of the matrices in the last two
		// dimensions.
		Operator{Name: "Det", Since: []int{11, 22}, Inputs: Exactly(1), Outputs: Exactly(1), Infer: inferDet, Gradient: func(b *Backward) {
			b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: "DetGradient"}, b.Gradient(0), b.Input(0)))
		}},
		// DetGradient, which gradients are made of: the cofactors of the
		// matrices in input 1, each times an element of input 0.
		Operator{Domain: moe.Domain, Name: "DetGradient", Since: []int{1}, Inputs: Exactly(2), Outputs: Exactly(1), Infer: inferDetGradient},
	)
}

func inferDetGradient(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1)
	if err != nil {
		return err
	}
	shape := c.Shape(1)
	c.Set(0, t, shape)
	if shape == nil {
		return nil
	}
	if err := wantSquare(shape, 1); err != nil {
		return err
	}
	return sameShape(c.Shape(0), shape[:len(shape)-2])
}

// wantSquare fails where input i does not consist of square matrices.
func wantSquare(shape []Dim, i int) error {
	rank := len(shape)
	if rank < 2 {
		return fmt.Errorf("input %d has shape %s, needs matrices", i, FormatDims(shape))
	}
	if _, err := Unify(shape[rank-1], shape[rank-2]); err != nil {
		return fmt.Errorf("input %d has shape %s, needs square matrices", i, FormatDims(shape))
	}
	return nil
}

func inferDet(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	if err := wantSquare(shape, 0); err != nil {
		return err
	}
	rank := len(shape)
	c.Set(0, t, shape[:rank-2:rank-2])
	return nil
}
