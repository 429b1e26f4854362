package op

func init() {
	Register(
		// Softmax and LogSoftmax, ONNX 1, 11 and 13. Before version 13 the
		// input is read as a matrix cut at the axis; since then one axis is
		// normalised.
		Operator{Name: "Softmax", Since: []int{1, 11, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferSoftmax},
		Operator{Name: "LogSoftmax", Since: []int{1, 11, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferSoftmax},
	)
}

// SoftmaxAxis returns the axis of a Softmax or LogSoftmax node.
func SoftmaxAxis(n *Node, rank int) (int, error) {
	fallback := int64(1)
	if n.Since >= 13 {
		fallback = -1
	}
	if axis := n.Int("axis", fallback); n.Since >= 13 || axis != int64(rank) {
		return Axis(axis, rank)
	}
	return rank, nil // before version 13 the matrix may have one column
}

func inferSoftmax(c *Inference) error {
	if shape := c.Shape(0); shape != nil {
		if _, err := SoftmaxAxis(c.Node, len(shape)); err != nil {
			return err
		}
	}
	return SameAsInput(c)
}
