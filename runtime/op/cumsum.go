package op

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	// CumSum, ONNX 11 and 14, and CumProd, ONNX 26: running sums and products
	// along an axis.
	sum := Operator{Name: "CumSum", Since: []int{11, 14}, Inputs: Exactly(2), Outputs: Exactly(1),
		Attributes: []string{"exclusive", "reverse"}, Parameters: []int{1}, Infer: inferCumulative,
		Gradient: cumSumGradient}
	product := sum
	product.Name, product.Since, product.Gradient = "CumProd", []int{26}, cumProdGradient
	// CumProdGradient, which gradients are made of, has the inputs of CumProd
	// and the gradient of its output, and gives that of its input.
	gradient := product
	gradient.Domain, gradient.Name, gradient.Since, gradient.Inputs, gradient.Gradient = moe.Domain, "CumProdGradient", []int{1}, Exactly(3), nil
	gradient.Infer = inferCumProdGradient
	Register(sum, product, gradient)
}

// cumSumGradient sums over all outputs that depend on an element.
func cumSumGradient(b *Backward) {
	b.Set(0, b.Add(&onnx.Node{OpType: "CumSum", Attributes: []*onnx.Attribute{
		onnx.IntAttribute("exclusive", b.Node.Int("exclusive", 0)),
		onnx.IntAttribute("reverse", 1-b.Node.Int("reverse", 0)),
	}}, b.Gradient(0), b.Input(1)))
}

func cumProdGradient(b *Backward) {
	b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: "CumProdGradient", Attributes: b.Node.Attributes}, b.Input(0), b.Input(1), b.Gradient(0)))
}

// CumulativeAxis returns the axis of a CumSum or CumProd node, and false where
// it is not known.
func CumulativeAxis(rank int, content Content) (axis int, known bool, err error) {
	given, known, err := integer(content, 1)
	if known {
		axis, err = Axis(given, rank)
	}
	return axis, known, err
}

func inferCumProdGradient(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0, 2); err != nil {
		return err
	}
	if shape := c.Shape(0); shape != nil {
		if err := c.wantShape(2, shape...); err != nil {
			return err
		}
	}
	return inferCumulative(c)
}

func inferCumulative(c *Inference) error {
	if err := c.wantParameters(1); err != nil {
		return err
	}
	if shape := c.Shape(0); shape != nil {
		if _, _, err := CumulativeAxis(len(shape), c.Ints); err != nil {
			return err
		}
	}
	return SameAsInput(c)
}
