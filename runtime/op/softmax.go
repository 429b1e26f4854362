package op

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// Softmax and LogSoftmax, ONNX 1, 11 and 13. Before version 13 the
		// input is read as a matrix cut at the axis; since then one axis is
		// normalised.
		Operator{Name: "Softmax", Since: []int{1, 11, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferSoftmax, Gradient: softmaxGradient},
		Operator{Name: "LogSoftmax", Since: []int{1, 11, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferSoftmax, Gradient: softmaxGradient},

		// What gradients are made of, for a gradient dy in input 0 and what the
		// operator gave, y, in input 1: y·(dy − Σ dy·y) of Softmax and
		// dy − e^y·Σ dy of LogSoftmax.
		Operator{Domain: moe.Domain, Name: "SoftmaxGradient", Since: []int{1}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferSoftmaxGradient},
		Operator{Domain: moe.Domain, Name: "LogSoftmaxGradient", Since: []int{1}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferSoftmaxGradient},
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

func softmaxGradient(b *Backward) {
	g, y, axis := b.Gradient(0), b.Output(0), b.Node.Int("axis", -1)
	if b.Node.Since < 13 { // of the rows of a matrix
		flatten := func(v Value) Value {
			return b.Add(&onnx.Node{OpType: "Flatten", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", b.Node.Int("axis", 1))}}, v)
		}
		g, y, axis = flatten(g), flatten(y), -1
	}
	n := &onnx.Node{Domain: moe.Domain, OpType: b.Node.OpType + "Gradient", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", axis)}}
	b.Set(0, b.Reshape(b.Add(n, g, y), b.Input(0)))
}

func inferSoftmaxGradient(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1)
	if err != nil {
		return err
	}
	if shape := known(c.Shape(0), c.Shape(1)); shape != nil {
		if _, err := Axis(c.Node.Int("axis", -1), len(shape)); err != nil {
			return err
		}
	}
	return c.setAlike(t)
}
