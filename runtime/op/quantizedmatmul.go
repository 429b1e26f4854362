package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// MatMulInteger, ONNX 10: the int32 product of 8-bit matrices less
		// their zero points, which may differ by row of A and column of B.
		Operator{Name: "MatMulInteger", Since: []int{10}, Inputs: Between(2, 4), Outputs: Exactly(1), Infer: inferMatMulInteger, Gradient: refuseRounding},
		// QLinearMatMul, ONNX 10 and 21: the product of quantized matrices,
		// quantized. Each operand is followed by its scale and zero point.
		Operator{Name: "QLinearMatMul", Since: []int{10, 21}, Inputs: Exactly(8), Outputs: Exactly(1), Infer: inferQLinearMatMul, Gradient: refuseRounding},
	)
}

func inferMatMulInteger(c *Inference) error {
	for operand := range 2 {
		if _, err := c.typeAmong([]onnx.DataType{onnx.Uint8, onnx.Int8}, operand, operand+2); err != nil {
			return err
		}
		if err := c.checkRowWise(operand, c.Shape(operand), c.Shape(operand+2)); err != nil {
			return fmt.Errorf("zero point of operand %d: %w", operand, err)
		}
	}
	shape, err := c.matMulShape(c.Shape(0), c.Shape(1))
	if err != nil {
		return err
	}
	c.Set(0, onnx.Int32, shape)
	return nil
}

func inferQLinearMatMul(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 1, 4, 6); err != nil {
		return err
	}
	integers := []onnx.DataType{onnx.Uint8, onnx.Int8}
	for operand := range 2 {
		base := 3 * operand
		if _, err := c.typeAmong(integers, base, base+2); err != nil {
			return err
		}
		for _, i := range []int{base + 1, base + 2} {
			if err := c.checkRowWise(operand, c.Shape(base), c.Shape(i)); err != nil {
				return fmt.Errorf("input %d: %w", i, err)
			}
		}
	}
	t, err := c.typeAmong(integers, 7)
	if err != nil {
		return err
	}
	for _, i := range []int{6, 7} {
		if err := c.wantScalar(i); err != nil {
			return err
		}
	}
	shape, err := c.matMulShape(c.Shape(0), c.Shape(3))
	if err != nil {
		return err
	}
	c.Set(0, t, shape)
	return nil
}

// checkRowWise checks the shape of the scale or zero point of an operand of a
// product; see RowWise.
func (c *Inference) checkRowWise(operand int, shape, parameter []Dim) error {
	whole, part := Fact{Type: onnx.Uint8, Shape: shape}, Fact{Type: onnx.Uint8, Shape: parameter}
	if !whole.Concrete() || !part.Concrete() {
		return nil
	}
	_, err := RowWise(operand, whole.Ints(), part.Ints())
	return err
}

// RowWise returns the shape in which a scale or zero point of operand 0 or 1
// of a product of matrices broadcasts to the operand: it has one element, or
// one for each row of operand 0 or column of operand 1, as a vector or with
// the operand's rank.
func RowWise(operand int, shape, parameter []int) ([]int, error) {
	if !slices.ContainsFunc(parameter, func(d int) bool { return d != 1 }) {
		return []int{}, nil
	}
	if rank := len(shape); rank >= 2 {
		kept, shared := rank-2+operand, rank-1-operand
		want := slices.Clone(shape)
		want[shared] = 1
		if slices.Equal(parameter, want) {
			return want, nil
		}
		if len(parameter) == 1 && parameter[0] == shape[kept] {
			if operand == 1 {
				return parameter, nil
			}
			return []int{shape[kept], 1}, nil
		}
	}
	return nil, fmt.Errorf("shape %v does not fit an operand of shape %v", parameter, shape)
}
