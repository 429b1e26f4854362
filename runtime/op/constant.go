package op

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	versions := []int{9, 20, 21, 23, 24, 25}
	Register(
		// Constant, ONNX 1 to 25: version 12 added the value_ forms, the
		// others element types. A sparse_value is refused.
		Operator{Name: "Constant", Since: []int{1, 9, 11, 12, 13, 19, 21, 23, 24, 25}, Inputs: Exactly(0), Outputs: Exactly(1),
			Attributes: []string{"value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings"},
			Infer:      inferConstant},
		// ConstantOfShape, ONNX 9 to 25: a tensor whose elements are all one
		// value. Later versions added element types.
		Operator{Name: "ConstantOfShape", Since: versions, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"value"}, Parameters: []int{0}, Infer: inferConstantOfShape},
		// EyeLike, ONNX 9 and 22: ones on a diagonal of a matrix.
		Operator{Name: "EyeLike", Since: []int{9, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"dtype", "k"}, Infer: inferEyeLike, Gradient: NoGradient},
	)
}

// ConstantValue returns the value that a Constant node stands for.
func ConstantValue(n *Node) (*tensor.Tensor, error) {
	if len(n.Attributes) != 1 {
		return nil, fmt.Errorf("has %d attributes; a constant has exactly one value", len(n.Attributes))
	}
	a := n.Attributes[0]
	switch {
	case a.Name == "value" && a.Type == onnx.AttributeTensor && a.Tensor != nil:
		return tensor.FromONNX(a.Tensor)
	case a.Name == "value_float" && a.Type == onnx.AttributeFloat:
		return tensor.Scalar(a.Float), nil
	case a.Name == "value_floats" && a.Type == onnx.AttributeFloats:
		return tensor.FromSlice(a.Floats), nil
	case a.Name == "value_int" && a.Type == onnx.AttributeInt:
		return tensor.Scalar(a.Int), nil
	case a.Name == "value_ints" && a.Type == onnx.AttributeInts:
		return tensor.FromSlice(a.Ints), nil
	case a.Name == "value_string" && a.Type == onnx.AttributeString:
		return &tensor.Tensor{Type: onnx.String, Shape: []int{}, Strings: []string{string(a.String)}}, nil
	case a.Name == "value_strings" && a.Type == onnx.AttributeStrings:
		list := make([]string, len(a.Strings))
		for i, s := range a.Strings {
			list[i] = string(s)
		}
		return tensor.FromStrings(list), nil
	}
	return nil, fmt.Errorf("attribute %q does not hold a value of its kind", a.Name)
}

func inferConstant(c *Inference) error {
	value, err := ConstantValue(c.Node)
	if err != nil {
		return err
	}
	c.setValue(0, value)
	return nil
}

// setValue states an output whose content is known.
func (c *Inference) setValue(i int, t *tensor.Tensor) {
	if i < len(c.Outputs) {
		c.Outputs[i] = FactOf(t)
	}
}

// ConstantOfShapeValue returns the one element that fills a ConstantOfShape's
// output, as a tensor of the output's type.
func ConstantOfShapeValue(n *Node) (*tensor.Tensor, error) {
	a := n.Attribute("value")
	if a == nil {
		return tensor.FromSlice([]float32{0}), nil
	}
	if a.Type != onnx.AttributeTensor || a.Tensor == nil {
		return nil, errors.New("attribute value is not a tensor")
	}
	value, err := tensor.FromONNX(a.Tensor)
	if err != nil {
		return nil, err
	}
	if value.Len() != 1 {
		return nil, fmt.Errorf("attribute value has %d elements, needs one", value.Len())
	}
	return value, nil
}

func inferConstantOfShape(c *Inference) error {
	value, err := ConstantOfShapeValue(c.Node)
	if err != nil {
		return err
	}
	if err := c.wantParameters(0); err != nil {
		return err
	}
	shape, err := c.dimensions(0)
	c.Set(0, value.Type, shape)
	return err
}

// integer adds a number.
func (b *Backward) integer(x int64) Value {
	if b.err != nil {
		return NoValue
	}
	return b.Graph.Constant(tensor.Scalar(x))
}

// Zeros adds a tensor of zeros of the type and shape of a value.
func (b *Backward) Zeros(like Value) Value { return b.filled(0, like, b.Shape(like)) }

// filled adds a tensor of a given shape whose elements are all x, of the type
// of a value.
func (b *Backward) filled(x float64, like, shape Value) Value {
	if b.err != nil {
		return NoValue
	}
	value := tensor.New(b.Fact(like).Type, 1)
	if !value.Type.IsFloat() {
		b.Fail(fmt.Errorf("numbers of type %s", value.Type))
		return NoValue
	}
	tensor.ConvertFloat(value, tensor.FromSlice([]float64{x}))
	a := &onnx.Attribute{Name: "value", Type: onnx.AttributeTensor, Tensor: value.ToONNX("")}
	return b.Add(&onnx.Node{OpType: "ConstantOfShape", Attributes: []*onnx.Attribute{a}}, shape)
}

// EyeLikeType returns the element type of an EyeLike node's output.
func EyeLikeType(n *Node, input onnx.DataType) onnx.DataType {
	return onnx.DataType(n.Int("dtype", int64(input)))
}

func inferEyeLike(c *Inference) error {
	shape := c.Shape(0)
	if shape == nil {
		shape = c.Unknown(2)
	}
	if len(shape) != 2 {
		return fmt.Errorf("input has shape %s, needs a matrix", FormatDims(shape))
	}
	t := EyeLikeType(c.Node, c.Type(0))
	if t != onnx.Undefined && !t.Valid() {
		return fmt.Errorf("attribute dtype is %d, which is no element type", int32(t))
	}
	c.Set(0, t, shape)
	return nil
}
