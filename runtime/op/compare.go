package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// Comparison, logic and choice. Operands broadcast as numpy's do; versions
// after an operator's first only add element types.
func init() {
	for _, o := range []Operator{
		{Name: "Equal", Since: []int{7, 11, 13, 19}, Infer: inferCompare},
		{Name: "Greater", Since: []int{7, 9, 13}, Infer: inferCompare},
		{Name: "Less", Since: []int{7, 9, 13}, Infer: inferCompare},
		{Name: "GreaterOrEqual", Since: []int{12, 16}, Infer: inferCompare},
		{Name: "LessOrEqual", Since: []int{12, 16}, Infer: inferCompare},
		{Name: "And", Since: []int{7}, Infer: inferLogic},
		{Name: "Or", Since: []int{7}, Infer: inferLogic},
		{Name: "Xor", Since: []int{7}, Infer: inferLogic},
		{Name: "Not", Since: []int{1}, Inputs: Exactly(1), Infer: inferLogic},
		{Name: "IsNaN", Since: []int{9, 13, 20}, Inputs: Exactly(1), Infer: inferClassify},
		{Name: "IsInf", Since: []int{10, 20}, Inputs: Exactly(1), Infer: inferClassify,
			Attributes: []string{"detect_negative", "detect_positive"}},
		// Where takes an element of input 1 where input 0 is true, else of
		// input 2. It moves elements of any type.
		{Name: "Where", Since: []int{9, 16}, Inputs: Exactly(3), Infer: inferWhere, Gradient: whereGradient},
	} {
		if o.Inputs == (Arity{}) {
			o.Inputs = Exactly(2)
		}
		o.Outputs, o.Elementwise = Exactly(1), true
		Register(o)
	}
}

// inferCompare is the inference of operators that relate two inputs of one
// type and give booleans.
func inferCompare(c *Inference) error {
	if _, err := c.sameType(0, 1); err != nil {
		return err
	}
	return c.setBoolean()
}

// inferLogic is the inference of operators from booleans to booleans.
func inferLogic(c *Inference) error {
	for i := range c.Inputs {
		if err := c.wantBoolean(i); err != nil {
			return err
		}
	}
	return c.setBoolean()
}

func inferClassify(c *Inference) error {
	if t := c.Type(0); t != onnx.Undefined && !t.IsFloat() {
		return fmt.Errorf("input 0 has elements of type %s, needs a floating-point type", t)
	}
	return c.setBoolean()
}

func inferWhere(c *Inference) error {
	if err := c.wantBoolean(0); err != nil {
		return err
	}
	t, err := c.sameType(1, 2)
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

func whereGradient(b *Backward) {
	condition, g := b.Input(0), b.Gradient(0)
	if b.Wants(1) {
		b.Set(1, b.SumTo(b.where(condition, g, 0), b.Input(1)))
	}
	if b.Wants(2) {
		b.Set(2, b.SumTo(b.Op("Where", condition, b.Scalar(0, g), g), b.Input(2)))
	}
}

func (c *Inference) wantBoolean(i int) error {
	if t := c.Type(i); t != onnx.Undefined && t != onnx.Bool {
		return fmt.Errorf("input %d has elements of type %s, needs bool", i, t)
	}
	return nil
}

func (c *Inference) setBoolean() error {
	shape, err := c.BroadcastAll()
	if err != nil {
		return err
	}
	c.Set(0, onnx.Bool, shape)
	return nil
}
