package op

func init() {
	// CumSum, ONNX 11 and 14, and CumProd, ONNX 26: running sums and products
	// along an axis.
	for name, since := range map[string][]int{"CumSum": {11, 14}, "CumProd": {26}} {
		Register(Operator{Name: name, Since: since, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"exclusive", "reverse"}, Parameters: []int{1}, Infer: inferCumulative})
	}
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
