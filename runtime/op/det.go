package op

import "fmt"

func init() {
	Register(
		// Det, ONNX 11 and 22: determinants of the matrices in the last two
		// dimensions.
		Operator{Name: "Det", Since: []int{11, 22}, Inputs: Exactly(1), Outputs: Exactly(1), Infer: inferDet},
	)
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
	rank := len(shape)
	if rank < 2 {
		return fmt.Errorf("input 0 has shape %s, needs matrices", FormatDims(shape))
	}
	if _, err := Unify(shape[rank-1], shape[rank-2]); err != nil {
		return fmt.Errorf("input 0 has shape %s, needs square matrices", FormatDims(shape))
	}
	c.Set(0, t, shape[:rank-2:rank-2])
	return nil
}
