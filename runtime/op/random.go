package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Random tensors of ONNX. With the attribute seed a session draws the same
// numbers each time it is made, though not those of other runtimes. Versions
// after an operator's first only add element types.
func init() {
	normal, uniform := []string{"dtype", "seed", "mean", "scale"}, []string{"dtype", "seed", "low", "high"}
	for _, o := range []Operator{
		{Name: "RandomNormal", Since: []int{1, 22}, Attributes: append([]string{"shape"}, normal...), Infer: inferRandom},
		{Name: "RandomUniform", Since: []int{1, 22}, Attributes: append([]string{"shape"}, uniform...), Infer: inferRandom},
		{Name: "RandomNormalLike", Since: []int{1, 22}, Inputs: Exactly(1), Attributes: normal, Infer: inferRandomLike, Gradient: NoGradient},
		{Name: "RandomUniformLike", Since: []int{1, 22}, Inputs: Exactly(1), Attributes: uniform, Infer: inferRandomLike, Gradient: NoGradient},
		// Bernoulli gives 1 with the probability in its input, else 0.
		{Name: "Bernoulli", Since: []int{15, 22}, Inputs: Exactly(1), Attributes: []string{"dtype", "seed"}, Infer: inferRandomLike, Gradient: NoGradient},
	} {
		o.Outputs, o.Nondeterministic = Exactly(1), true
		Register(o)
	}
}

func inferRandom(c *Inference) error {
	t, err := c.Node.typeAttribute("dtype")
	if err != nil {
		return err
	}
	if t == onnx.Undefined {
		t = onnx.Float32
	}
	given := c.Node.Attribute("shape")
	if given == nil || given.Type != onnx.AttributeInts {
		return fmt.Errorf("lacks its attribute shape, a list of integers")
	}
	shape := make([]int, len(given.Ints))
	for i, d := range given.Ints {
		shape[i] = int(d)
	}
	if _, err := tensor.CheckedCount(t, shape); err != nil {
		return fmt.Errorf("attribute shape: %w", err)
	}
	return c.setRandom(t, Dims(shape...))
}

func inferRandomLike(c *Inference) error {
	t, err := c.Node.typeAttribute("dtype")
	if err != nil {
		return err
	}
	if t == onnx.Undefined {
		t = c.Type(0)
	}
	return c.setRandom(t, c.Shape(0))
}

func (c *Inference) setRandom(t onnx.DataType, shape []Dim) error {
	if c.Node.OpType != "Bernoulli" && t != onnx.Undefined && !t.IsFloat() {
		return fmt.Errorf("cannot draw elements of type %s, needs a floating-point type", t)
	}
	c.Set(0, t, shape)
	return nil
}
