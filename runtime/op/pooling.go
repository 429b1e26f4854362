package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	attributes := append([]string{"ceil_mode"}, windowAttributes...)
	Register(
		// MaxPool, ONNX 1 to 22: 8 adds indices, 10 dilations and ceil_mode.
		Operator{Name: "MaxPool", Since: []int{1, 8, 10, 11, 12, 22}, Inputs: Exactly(1), Outputs: Between(1, 2),
			Attributes: append([]string{"storage_order"}, attributes...), Infer: inferPool},
		// AveragePool, ONNX 1 to 22: 7 adds count_include_pad, 10 ceil_mode,
		// 19 dilations.
		Operator{Name: "AveragePool", Since: []int{1, 7, 10, 11, 19, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: append([]string{"count_include_pad"}, attributes...), Infer: inferPool},
		// LpPool, ONNX 2 to 22: 18 adds dilations and ceil_mode.
		Operator{Name: "LpPool", Since: []int{2, 11, 18, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: append([]string{"p"}, attributes...), Infer: inferPool},
		// The global ones pool over all spatial dimensions.
		Operator{Name: "GlobalMaxPool", Since: []int{1, 22}, Inputs: Exactly(1), Outputs: Exactly(1), Infer: inferGlobalPool},
		Operator{Name: "GlobalAveragePool", Since: []int{1, 22}, Inputs: Exactly(1), Outputs: Exactly(1), Infer: inferGlobalPool},
		Operator{Name: "GlobalLpPool", Since: []int{2, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"p"}, Infer: inferGlobalPool},
		// MaxUnpool, ONNX 9, 11 and 22, puts back what MaxPool chose.
		Operator{Name: "MaxUnpool", Since: []int{9, 11, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: []string{"kernel_shape", "pads", "strides"}, Parameters: []int{2}, Infer: inferMaxUnpool},
	)
}

func inferPool(c *Inference) error {
	n := c.Node
	types := floatTypes
	if n.OpType == "MaxPool" && n.Since >= 12 {
		types = append([]onnx.DataType{onnx.Int8, onnx.Uint8}, floatTypes...)
	}
	t, err := c.typeAmong(types, 0)
	if err != nil {
		return err
	}
	if order := n.Int("storage_order", 0); order != 0 && order != 1 {
		return fmt.Errorf("storage_order is %d, needs 0 or 1", order)
	}
	if err := n.checkNorm(); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		c.Set(1, onnx.Int64, nil)
		return nil
	}
	w, err := WindowsOf(n, len(shape)-2, nil)
	if err != nil {
		return err
	}
	out := c.Unknown(len(shape))
	out[0], out[1] = shape[0], shape[1]
	if err := c.slide(w, shape[2:], out[2:]); err != nil {
		return err
	}
	c.Set(0, t, out)
	c.Set(1, onnx.Int64, out)
	return nil
}

// checkNorm fails where the attribute p, the order of a norm, makes none.
func (n *Node) checkNorm() error {
	if p := n.Int("p", 2); p < 1 {
		return fmt.Errorf("p is %d, needs a positive number", p)
	}
	return nil
}

func inferGlobalPool(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if err := c.Node.checkNorm(); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	if len(shape) < 2 {
		return fmt.Errorf("input 0 has shape %s, needs channels", FormatDims(shape))
	}
	out := Dims(make([]int, len(shape))...)
	for i := range out {
		out[i] = 1
	}
	copy(out, shape[:2])
	c.Set(0, t, out)
	return nil
}

// MaxUnpoolShape returns the spatial shape that a MaxUnpool node's attributes
// give for pooled values of the given spatial shape. The indices count
// elements of a tensor of that shape.
func MaxUnpoolShape(n *Node, positions []int) ([]int, error) {
	w, err := WindowsOf(n, len(positions), nil)
	if err != nil {
		return nil, err
	}
	image := make([]int, len(positions))
	for i, count := range positions {
		if image[i], err = w.unslide(i, count, 0, -1); err != nil {
			return nil, err
		}
	}
	return image, nil
}

func inferMaxUnpool(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, 1, 2); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	if err := c.wantShape(1, shape...); err != nil {
		return err
	}
	out := c.Unknown(len(shape))
	if len(shape) > 2 {
		copy(out, shape[:2])
		if allKnown(shape[2:]) {
			image, err := MaxUnpoolShape(c.Node, ints(shape[2:]))
			if err != nil {
				return err
			}
			copy(out[2:], Dims(image...))
		}
	}
	if len(shape) < 3 {
		return fmt.Errorf("input 0 has shape %s, needs spatial dimensions", FormatDims(shape))
	}
	if c.Has(2) {
		given, known := c.Ints(2)
		if !known {
			c.Set(0, t, c.Unknown(len(shape)))
			return nil
		}
		if len(given) != len(shape) {
			return fmt.Errorf("output_shape is %v, needs %d dimensions", given, len(shape))
		}
		for i, d := range given {
			if d < 0 || i < 2 && shape[i].Known() && int64(shape[i]) != d || i >= 2 && out[i].Known() && int64(out[i]) > d {
				return fmt.Errorf("output_shape is %v, too small for %s", given, FormatDims(out))
			}
		}
		out = Dims(given...)
	}
	c.Set(0, t, out)
	return nil
}
