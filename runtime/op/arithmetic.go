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
		{Name: "Div", Since: []int{7, 13, 14}, Gradient: divGradient},
		// Without fmod the result has the divisor's sign, with it the
		// dividend's.
		{Name: "Mod", Since: []int{10, 13, 28}, Attributes: []string{"fmod"}, Gradient: modGradient},
		{Name: "BitShift", Since: []int{11, 28}, Attributes: []string{"direction"}, Infer: inferBitShift},
		{Name: "BitwiseAnd", Since: []int{18}},
		{Name: "BitwiseOr", Since: []int{18}},
		{Name: "BitwiseXor", Since: []int{18}},
		// Since version 12 the exponent may have another type than the base,
		// whose type the result has.
		{Name: "Pow", Since: []int{7, 12, 13, 15}, Infer: inferPow, Gradient: powGradient},
		// The slope broadcasts to the input's shape, not the reverse.
		{Name: "PRelu", Since: []int{7, 9, 16}, Infer: inferPRelu, Gradient: preluGradient},
	} {
		o.Inputs, o.Outputs, o.Elementwise = Exactly(2), Exactly(1), true
		if o.Infer == nil {
			o.Infer = inferArithmetic
		}
		Register(o)
	}
	for _, o := range []Operator{
		{Name: "Min", Since: []int{8, 12, 13}, Gradient: extremeGradient},
		{Name: "Max", Since: []int{8, 12, 13}, Gradient: extremeGradient},
		{Name: "Sum", Since: []int{8, 13}, Gradient: addGradient},
		{Name: "Mean", Since: []int{8, 13}, Gradient: meanGradient},
	} {
		o.Inputs, o.Outputs, o.Elementwise, o.Infer = AtLeast(1), Exactly(1), true, inferArithmetic
		Register(o)
	}
	Register(
		// Clip, ONNX 6 to 13: min(max(x, lower), upper). The limits are
		// attributes before version 11, then scalar inputs.
		Operator{Name: "Clip", Since: []int{6, 11, 12, 13}, Inputs: Between(1, 3), Outputs: Exactly(1),
			Attributes: []string{"min", "max"}, Elementwise: true, Infer: inferClip, Gradient: clipGradient},
	)
}

func addGradient(b *Backward) { b.setAll(b.Gradient(0)) }

// setAll states the gradient of all inputs, which broadcast to its shape.
func (b *Backward) setAll(gradient Value) {
	for i, v := range b.Inputs {
		if b.Wants(i) {
			b.Set(i, b.SumTo(gradient, v))
		}
	}
}

func meanGradient(b *Backward) { b.setAll(b.scaled(b.Gradient(0), 1/float64(len(b.Inputs)))) }

// extremeGradient: where several inputs are the largest or the smallest, they
// have equal shares in the gradient.
func extremeGradient(b *Backward) {
	y, g := b.Output(0), b.Gradient(0)
	chosen := make([]Value, len(b.Inputs))
	for i, v := range b.Inputs {
		chosen[i] = b.Cast(b.Op("Equal", v, y), y)
	}
	share := b.Op("Div", g, b.Op("Sum", chosen...))
	for i, v := range b.Inputs {
		if b.Wants(i) {
			b.Set(i, b.SumTo(b.Op("Mul", share, chosen[i]), v))
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

// divGradient: of y = a/b, da = dy/b and db = −da·y.
func divGradient(b *Backward) {
	part := b.Op("Div", b.Gradient(0), b.Input(1))
	if b.Wants(0) {
		b.Set(0, b.SumTo(part, b.Input(0)))
	}
	if b.Wants(1) {
		b.Set(1, b.Op("Neg", b.SumTo(b.Op("Mul", part, b.Output(0)), b.Input(1))))
	}
}

// modGradient: of y = a − b·q, q being a whole number.
func modGradient(b *Backward) {
	if b.Wants(0) {
		b.Set(0, b.SumTo(b.Gradient(0), b.Input(0)))
	}
	if b.Wants(1) {
		q := b.Op("Round", b.Op("Div", b.Op("Sub", b.Input(0), b.Output(0)), b.Input(1)))
		b.Set(1, b.Op("Neg", b.SumTo(b.Op("Mul", b.Gradient(0), q), b.Input(1))))
	}
}

// powGradient: of y = xᵉ, dx = dy·e·xᵉ⁻¹ and de = dy·y·ln x; both are 0 where
// powers of 0 leave no other derivative.
func powGradient(b *Backward) {
	x, g := b.Input(0), b.Gradient(0)
	e := b.Cast(b.Input(1), x)
	if b.Wants(0) {
		slope := b.Op("Mul", e, b.Op("Pow", x, b.plus(e, -1)))
		if b.Fact(e).Value == nil || b.Fact(e).Value.Len() != 1 {
			slope = b.Op("Where", b.compare("Equal", e, 0), b.Scalar(0, x), slope)
		}
		b.Set(0, b.SumTo(b.Op("Mul", g, slope), x))
	}
	if b.Wants(1) {
		logarithm := b.Op("Log", b.Op("Where", b.compare("Equal", x, 0), b.Scalar(1, x), x))
		b.Set(1, b.Cast(b.SumTo(b.Op("Mul", g, b.Op("Mul", b.Output(0), logarithm)), b.Input(1)), b.Input(1)))
	}
}

func preluGradient(b *Backward) {
	x, slope, g := b.Input(0), b.Input(1), b.Gradient(0)
	negative := b.compare("Less", x, 0)
	if b.Wants(0) {
		b.Set(0, b.Op("Where", negative, b.Op("Mul", g, slope), g))
	}
	if b.Wants(1) {
		b.Set(1, b.SumTo(b.where(negative, b.Op("Mul", g, x), 0), slope))
	}
}

// clipGradient gives the gradient to the input where that is within the limits
// or equal to one of them, else to the limit.
func clipGradient(b *Backward) {
	x, g := b.Input(0), b.Gradient(0)
	limit := func(i int, attribute string) Value {
		if a := b.Node.Attribute(attribute); a != nil {
			return b.Scalar(float64(a.Float), x)
		}
		return b.Input(i)
	}
	// y = min(max(x, lower), upper), from the outer function to the inner one.
	raised := x
	lower, upper := limit(1, "min"), limit(2, "max")
	if lower != NoValue {
		raised = b.Op("Max", x, lower)
	}
	if upper != NoValue {
		above := b.Op("Greater", raised, upper)
		if b.Wants(2) {
			b.Set(2, b.SumTo(b.where(above, g, 0), upper))
		}
		g = b.Op("Where", above, b.Scalar(0, x), g)
	}
	if lower != NoValue {
		below := b.Op("Less", x, lower)
		if b.Wants(1) {
			b.Set(1, b.SumTo(b.where(below, g, 0), lower))
		}
		g = b.Op("Where", below, b.Scalar(0, x), g)
	}
	b.Set(0, g)
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
