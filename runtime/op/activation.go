package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Activation functions of ONNX and ONNX Runtime (domain com.microsoft).
// Versions after an operator's first only add element types.
func init() {
	for _, o := range []Operator{
		{Name: "Relu", Since: []int{6, 13, 14}, Gradient: reluGradient},
		{Name: "LeakyRelu", Since: []int{6, 16}, Attributes: []string{"alpha"}, Gradient: leakyReluGradient},
		{Name: "ThresholdedRelu", Since: []int{10, 22}, Attributes: []string{"alpha"}, Gradient: thresholdedReluGradient},
		{Name: "Elu", Since: []int{6, 22}, Attributes: []string{"alpha"}, Gradient: eluGradient},
		{Name: "Selu", Since: []int{6, 22}, Attributes: []string{"alpha", "gamma"}, Gradient: seluGradient},
		{Name: "Celu", Since: []int{12, 28}, Attributes: []string{"alpha"}, Gradient: celuGradient},
		{Name: "HardSigmoid", Since: []int{6, 22}, Attributes: []string{"alpha", "beta"}, Gradient: hardSigmoidGradient},
		{Name: "HardSwish", Since: []int{14, 22}, Gradient: hardSwishGradient},
		{Name: "Softplus", Since: []int{1, 22}, Gradient: softplusGradient},
		{Name: "Softsign", Since: []int{1, 22}, Gradient: softsignGradient},
		{Name: "Shrink", Since: []int{9}, Attributes: []string{"lambd", "bias"}, Gradient: shrinkGradient},
		{Name: "Mish", Since: []int{18, 22}, Gradient: mishGradient},
		{Name: "Gelu", Since: []int{20}, Attributes: []string{"approximate"}, Infer: inferGelu, Gradient: geluGradient},
		{Name: "Swish", Since: []int{24}, Attributes: []string{"alpha"}, Gradient: swishGradient(1)},
		// SwiGLU is Swish of input 0 times input 1, both of one shape.
		{Name: "SwiGLU", Since: []int{28}, Attributes: []string{"alpha"}, Inputs: Exactly(2), Infer: inferSwiGLU, Gradient: swiGLUGradient},

		{Domain: "com.microsoft", Name: "Gelu", Since: []int{1}, Gradient: geluGradient},
		{Domain: "com.microsoft", Name: "QuickGelu", Since: []int{1}, Attributes: []string{"alpha"}, Gradient: swishGradient(1.702)},
		// FastGelu is Gelu's tanh form and BiasGelu its exact form, both of
		// the sum of the input and a bias along its last axis.
		{Domain: "com.microsoft", Name: "FastGelu", Since: []int{1}, Inputs: Between(1, 2), Infer: inferBias, Gradient: biasGradient("tanh")},
		{Domain: "com.microsoft", Name: "BiasGelu", Since: []int{1}, Inputs: Exactly(2), Infer: inferBias, Gradient: biasGradient("none")},

		// What gradients are made of: input 0, a gradient, times the
		// derivative of Relu where it gave input 1, and of Gelu and Swish at
		// input 1.
		{Domain: moe.Domain, Name: "ReluGradient", Since: []int{1}, Inputs: Exactly(2), Infer: inferActivationGradient},
		{Domain: moe.Domain, Name: "GeluGradient", Since: []int{1}, Inputs: Exactly(2), Attributes: []string{"approximate"}, Infer: inferActivationGradient},
		{Domain: moe.Domain, Name: "SwishGradient", Since: []int{1}, Inputs: Exactly(2), Attributes: []string{"alpha"}, Infer: inferActivationGradient},
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
	return c.setAlike(t)
}

func inferActivationGradient(c *Inference) error {
	if err := c.Node.wantMode("approximate", "none", "tanh"); err != nil {
		return err
	}
	t, err := c.typeAmong(floatTypes, 0, 1)
	if err != nil {
		return err
	}
	return c.setAlike(t)
}

// setAlike states output 0, of the shape that inputs 0 and 1 both have.
func (c *Inference) setAlike(t onnx.DataType) (err error) {
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

// reluGradient reads the output, which the next operator keeps too.
func reluGradient(b *Backward) {
	b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: "ReluGradient"}, b.Gradient(0), b.Output(0)))
}

func leakyReluGradient(b *Backward) {
	g := b.Gradient(0)
	b.Set(0, b.Op("Where", b.compare("Less", b.Input(0), 0), b.scaled(g, float64(b.Node.Float("alpha", 0.01))), g))
}

func thresholdedReluGradient(b *Backward) {
	b.Set(0, b.where(b.compare("Greater", b.Input(0), float64(b.Node.Float("alpha", 1))), b.Gradient(0), 0))
}

func eluGradient(b *Backward) { b.exponentialUnit(1, float64(b.Node.Float("alpha", 1)), 1) }

func seluGradient(b *Backward) {
	b.exponentialUnit(float64(b.Node.Float("gamma", 1.0507010221481323)), float64(b.Node.Float("alpha", 1.6732631921768188)), 1)
}

func celuGradient(b *Backward) {
	alpha := float64(b.Node.Float("alpha", 1))
	b.exponentialUnit(1, alpha, alpha)
}

// exponentialUnit states the gradient of gamma·x for positive x and
// y = gamma·alpha·(e^(x/scale) − 1) for others, whose derivative is
// (y + gamma·alpha)/scale.
func (b *Backward) exponentialUnit(gamma, alpha, scale float64) {
	g := b.Gradient(0)
	slope := b.scaled(b.plus(b.Output(0), gamma*alpha), 1/scale)
	b.Set(0, b.Op("Mul", g, b.Op("Where", b.compare("Greater", b.Input(0), 0), b.Scalar(gamma, g), slope)))
}

func hardSigmoidGradient(b *Backward) {
	y := b.Output(0)
	inside := b.Op("And", b.compare("Greater", y, 0), b.compare("Less", y, 1))
	b.Set(0, b.where(inside, b.scaled(b.Gradient(0), float64(b.Node.Float("alpha", 0.2))), 0))
}

// hardSwishGradient: x/3 + 1/2 from −3 to 3, else 0 or 1.
func hardSwishGradient(b *Backward) {
	x := b.Input(0)
	slope := b.Op("Where", b.compare("Less", b.Op("Abs", x), 3), b.plus(b.scaled(x, 1.0/3), 0.5), b.Cast(b.compare("Greater", x, 0), x))
	b.Set(0, b.Op("Mul", b.Gradient(0), slope))
}

func softplusGradient(b *Backward) {
	b.Set(0, b.Op("Mul", b.Gradient(0), b.Op("Sigmoid", b.Input(0))))
}

func softsignGradient(b *Backward) {
	b.Set(0, b.Op("Div", b.Gradient(0), b.square(b.plus(b.Op("Abs", b.Input(0)), 1))))
}

func shrinkGradient(b *Backward) {
	b.Set(0, b.where(b.compare("Greater", b.Op("Abs", b.Input(0)), float64(b.Node.Float("lambd", 0.5))), b.Gradient(0), 0))
}

// mishGradient: of x·t with t = tanh(softplus(x)), t + x·sigmoid(x)·(1 − t²).
func mishGradient(b *Backward) {
	x := b.Input(0)
	t := b.Op("Tanh", b.Op("Softplus", x))
	slope := b.Op("Mul", b.Op("Mul", x, b.Op("Sigmoid", x)), b.minus(1, b.square(t)))
	b.Set(0, b.Op("Mul", b.Gradient(0), b.Op("Add", t, slope)))
}

func geluGradient(b *Backward) {
	b.Set(0, b.timesGelu(b.Gradient(0), b.Input(0), b.Node.String("approximate", "none")))
}

// timesGelu adds a gradient times the derivative of Gelu.
func (b *Backward) timesGelu(g, x Value, approximate string) Value {
	return b.Add(&onnx.Node{Domain: moe.Domain, OpType: "GeluGradient", Attributes: []*onnx.Attribute{onnx.StringAttribute("approximate", approximate)}}, g, x)
}

func biasGradient(approximate string) func(b *Backward) {
	return func(b *Backward) {
		x, bias := b.Input(0), b.Input(1)
		if bias != NoValue {
			x = b.Op("Add", x, bias)
		}
		g := b.timesGelu(b.Gradient(0), x, approximate)
		b.Set(0, g)
		if b.Wants(1) {
			b.Set(1, b.SumTo(g, bias))
		}
	}
}

// swishGradient is the gradient of an operator whose alpha has a default.
func swishGradient(fallback float32) func(b *Backward) {
	return func(b *Backward) { b.Set(0, b.timesSwish(b.Gradient(0), b.Input(0), b.Node.Float("alpha", fallback))) }
}

// timesSwish adds a gradient times the derivative of Swish.
func (b *Backward) timesSwish(g, x Value, alpha float32) Value {
	return b.Add(&onnx.Node{Domain: moe.Domain, OpType: "SwishGradient", Attributes: []*onnx.Attribute{onnx.FloatAttribute("alpha", alpha)}}, g, x)
}

func swiGLUGradient(b *Backward) {
	gate, linear, g := b.Input(0), b.Input(1), b.Gradient(0)
	alpha := b.Node.Float("alpha", 1)
	if b.Wants(0) {
		b.Set(0, b.timesSwish(b.Op("Mul", g, linear), gate, alpha))
	}
	if b.Wants(1) {
		swish := b.Add(&onnx.Node{OpType: "Swish", Attributes: []*onnx.Attribute{onnx.FloatAttribute("alpha", alpha)}}, gate)
		b.Set(1, b.Op("Mul", g, swish))
	}
}
