package op

import "github.com/fmoe-go/fmoe/onnx"

func init() {
	// CumSum, ONNX 11 and 14, and CumProd, ONNX 26: running sums and products
	// along an axis.
	sum := Operator{Name: "CumSum", Since: []int{11, 14}, Inputs: Exactly(2), Outputs: Exactly(1),
		Attributes: []string{"exclusive", "reverse"}, Parameters: []int{1}, Infer: inferCumulative,
		Gradient: func(b *Backward) { b.Set(0, b.sumBack(b.Gradient(0))) }}
	product := sum
	product.Name, product.Since, product.Gradient = "CumProd", []int{26}, cumProdGradient
	Register(sum, product)
}

// sumBack adds, for each element, the sum over all outputs of a CumSum or
// CumProd node that depend on it.
func (b *Backward) sumBack(v Value) Value {
	return b.Add(&onnx.Node{OpType: "CumSum", Attributes: []*onnx.Attribute{
		onnx.IntAttribute("exclusive", b.Node.Int("exclusive", 0)),
		onnx.IntAttribute("reverse", 1-b.Node.Int("reverse", 0)),
	}}, v, b.Input(1))
}

// cumProdGradient divides products by the element, which must not be 0.
func cumProdGradient(b *Backward) {
	b.Set(0, b.Op("Div", b.sumBack(b.Op("Mul", b.Gradient(0), b.Output(0))), b.Input(0)))
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
