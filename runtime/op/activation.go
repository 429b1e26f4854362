package op

import "fmt"

// Activation functions of ONNX and ONNX Runtime (domain com.microsoft).
// Versions after an operator's first only add element types.
func init() {
	for _, o := range []Operator{
		{Name: "Relu", Since: []int{6, 13, 14}},
		{Name: "LeakyRelu", Since: []int{6, 16}, Attributes: []string{"alpha"}},
		{Name: "ThresholdedRelu", Since: []int{10, 22}, Attributes: []string{"alpha"}},
		{Name: "Elu", Since: []int{6, 22}, Attributes: []string{"alpha"}},
		{Name: "Selu", Since: []int{6, 22}, Attributes: []string{"alpha", "gamma"}},
		{Name: "Celu", Since: []int{12, 28}, Attributes: []string{"alpha"}},
		{Name: "HardSigmoid", Since: []int{6, 22}, Attributes: []string{"alpha", "beta"}},
		{Name: "HardSwish", Since: []int{14, 22}},
		{Name: "Softplus", Since: []int{1, 22}},
		{Name: "Softsign", Since: []int{1, 22}},
		{Name: "Shrink", Since: []int{9}, Attributes: []string{"lambd", "bias"}},
		{Name: "Mish", Since: []int{18, 22}},
		{Name: "Gelu", Since: []int{20}, Attributes: []string{"approximate"}, Infer: inferGelu},
		{Name: "Swish", Since: []int{24}, Attributes: []string{"alpha"}},
		// SwiGLU is Swish of input 0 times input 1, both of one shape.
		{Name: "SwiGLU", Since: []int{28}, Attributes: []string{"alpha"}, Inputs: Exactly(2), Infer: inferSwiGLU},

		{Domain: "com.microsoft", Name: "Gelu", Since: []int{1}},
		{Domain: "com.microsoft", Name: "QuickGelu", Since: []int{1}, Attributes: []string{"alpha"}},
		// FastGelu is Gelu's tanh form and BiasGelu its exact form, both of
		// the sum of the input and a bias along its last axis.
		{Domain: "com.microsoft", Name: "FastGelu", Since: []int{1}, Inputs: Between(1, 2), Infer: inferBias},
		{Domain: "com.microsoft", Name: "BiasGelu", Since: []int{1}, Inputs: Exactly(2), Infer: inferBias},
	} {
		if o.Inputs == (Arity{}) {
			o.Inputs = Exactly(1)
		}
		if o.Infer == nil {
			o.Infer = SameAsInput
		}
		o.Outputs, o.Elementwise = Exactly(1), true
		Register(o)
	}
}

func inferGelu(c *Inference) error {
	if err := c.Node.wantMode("approximate", "none", "tanh"); err != nil {
		return err
	}
	return SameAsInput(c)
}

func inferSwiGLU(c *Inference) error {
	t, err := c.sameType(0, 1)
	if err != nil {
		return err
	}
	a, b := c.Shape(0), c.Shape(1)
	if a == nil || b == nil {
		c.Set(0, t, known(a, b))
		return nil
	}
	if len(a) != len(b) {
		return fmt.Errorf("inputs have shapes %s and %s, must have the same", FormatDims(a), FormatDims(b))
	}
	shape := make([]Dim, len(a))
	for i := range shape {
		if shape[i], err = Unify(a[i], b[i]); err != nil {
			return fmt.Errorf("inputs have shapes %s and %s, must have the same", FormatDims(a), FormatDims(b))
		}
	}
	c.Set(0, t, shape)
	return nil
}

// known returns the shape of two that is not nil, if one is.
func known(a, b []Dim) []Dim {
	if a != nil {
		return a
	}
	return b
}

// inferBias is the inference of activations that add input 1, a vector, along
// the last axis of input 0.
func inferBias(c *Inference) error {
	t, err := c.sameType(0, 1)
	if err != nil {
		return err
	}
	x, bias := c.Shape(0), c.Shape(1)
	if x != nil && bias != nil && (len(bias) != 1 || !c.broadcastsTo(bias, x)) {
		return fmt.Errorf("bias of shape %s for an input of shape %s; needs the length of its last axis", FormatDims(bias), FormatDims(x))
	}
	c.Set(0, t, x)
	return nil
}
