package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// Arithmetic of ONNX on tensors that broadcast to one shape. Since version 7
// (8 for the variadic operators) it broadcasts as numpy does; older versions
// are not supported. The listed versions after that only add element types.
func init() {
	for _, o := range []Operator{
		{Name: "Add", Since: []int{7, 13, 14}, Gradient: addGradient},
		{Name: "Sub", Since: []int{7, 13, 14}, Gradient: subGradient},
		{Name: "Mul", Since: []int{7, 13, 14}, Gradient: mulGradient},
		// Integers divide towards zero.
		{Name: "Div", Since: []int{7, 13, 14}},
		// Without fmod the result has the divisor's sign, with it the
		// dividend's.
		{Name: "Mod", Since: []int{10, 13, 28}, Attributes: []string{"fmod"}},
		{Name: "BitShift", Since: []int{11, 28}, Attributes: []string{"direction"}, Infer: inferBitShift},
		{Name: "BitwiseAnd", Since: []int{18}},
		{Name: "BitwiseOr", Since: []int{18}},
		{Name: "BitwiseXor", Since: []int{18}},
		// Since version 12 the exponent may have another type than the base,
		// whose type the result has.
		{Name: "Pow", Since: []int{7, 12, 13, 15}, Infer: inferPow},
		// The slope broadcasts to the input's shape, not the reverse.
		{Name: "PRelu", Since: []int{7, 9, 16}, Infer: inferPRelu},
	} {
		o.Inputs, o.Outputs, o.Elementwise = Exactly(2), Exactly(1), true
		if o.Infer == nil {
			o.Infer = inferArithmetic
		}
		Register(o)
	}
	for _, o := range []Operator{
		{Name: "Min", Since: []int{8, 12, 13}},
		{Name: "Max", Since: []int{8, 12, 13}},
		{Name: "Sum", Since: []int{8, 13}},
		{Name: "Mean", Since: []int{8, 13}},
	} {
		o.Inputs, o.Outputs, o.Elementwise, o.Infer = AtLeast(1), Exactly(1), true, inferArithmetic
		Register(o)
	}
	Register(
		// Clip, ONNX 6 to 13: min(max(x, lower), upper). The limits are
		// attributes before version 11, then scalar inputs.
		Operator{Name: "Clip", Since: []int{6, 11, 12, 13}, Inputs: Between(1, 3), Outputs: Exactly(1),
			Attributes: []string{"min", "max"}, Elementwise: true, Infer: inferClip},
	)
}

func addGradient(b *Backward) {
	for i := range 2 {
		if b.Wants(i) {
			b.Set(i, b.SumTo(b.Gradient(0), b.Input(i)))
		}
	}
}

func subGradient(b *Backward) {
	if b.Wants(0) {
		b.Set(0, b.SumTo(b.Gradient(0), b.Input(0)))
	}
	if b.Wants(1) {
		b.Set(1, b.Op("Neg", b.SumTo(b.Gradient(0), b.Input(1))))
	}
}

func mulGradient(b *Backward) {
	for i := range 2 {
		if b.Wants(i) {
			b.Set(i, b.SumTo(b.Op("Mul", b.Gradient(0), b.Input(1-i)), b.Input(i)))
		}
	}
}

// inferArithmetic is the inference of operators whose inputs have one type
// and broadcast to the output's shape.
func inferArithmetic(c *Inference) error {
	inputs := make([]int, len(c.Inputs))
	for i := range inputs {
		inputs[i] = i
	}
	t, err := c.sameType(inputs...)
	if err != nil {
		return err
	}
	shape, err := c.BroadcastAll()
	if err != nil {
		return err
	}
	c.Set(0, t, shape)
	return nil
}

func inferBitShift(c *Inference) error {
	if c.Node.Attribute("direction") == nil {
		return fmt.Errorf("lacks its attribute direction")
	}
	if err := c.Node.wantMode("direction", "LEFT", "RIGHT"); err != nil {
		return err
	}
	return inferArithmetic(c)
}

func inferPow(c *Inference) error {
	if c.Node.Since < 12 {
		return inferArithmetic(c)
	}
	shape, err := c.BroadcastAll()
	if err != nil {
		return err
	}
	c.Set(0, c.Type(0), shape)
	return nil
}

func inferPRelu(c *Inference) error {
	t, err := c.sameType(0, 1)
	if err != nil {
		return err
	}
	if x, slope := c.Shape(0), c.Shape(1); x != nil && slope != nil && !c.broadcastsTo(slope, x) {
		return fmt.Errorf("slope of shape %s does not broadcast to %s", FormatDims(slope), FormatDims(x))
	}
	c.Set(0, t, c.Shape(0))
	return nil
}

func inferClip(c *Inference) error {
	if err := c.wantForm(11, 1, "min", "max"); err != nil {
		return err
	}
	t, err := c.sameType(0, 1, 2)
	if err != nil {
		return err
	}
	if c.Node.Since < 12 && t != onnx.Undefined && !t.IsFloat() {
		return fmt.Errorf("version %d takes no elements of type %s", c.Node.Since, t)
	}
	for i := 1; i <= 2; i++ {
		if err := c.wantScalar(i); err != nil {
			return err
		}
	}
	c.Set(0, t, c.Shape(0))
	return nil
}

// elements returns how many elements a shape has, up to a bound that no
// scalar reaches, and false where it is not known.
func elements(shape []Dim) (int, bool) {
	if shape == nil {
		return 0, false
	}
	n := 1
	for _, d := range shape {
		if !d.Known() {
			return 0, false
		}
		n = min(n*min(int(d), 1<<20), 1<<20)
	}
	return n, true
}
