package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	attributes := []string{"ignore_index", "reduction"}
	Register(
		// SoftmaxCrossEntropyLoss, ONNX 12 and 13: scores [N, C, …], labels
		// [N, …], weights? [C].
		Operator{Name: "SoftmaxCrossEntropyLoss", Since: []int{12, 13}, Inputs: Between(2, 3), Outputs: Between(1, 2),
			Attributes: attributes, Infer: inferLoss, Gradient: lossGradient},
		// NegativeLogLikelihoodLoss, ONNX 12, 13 and 22, takes the logarithms
		// of probabilities for scores.
		Operator{Name: "NegativeLogLikelihoodLoss", Since: []int{12, 13, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferLoss, Gradient: lossGradient},

		// NegativeLogLikelihoodLossGradient, which gradients are made of, has
		// the inputs of NegativeLogLikelihoodLoss and in input 3 the gradient
		// of its output; it gives that of input 0, in which one element of each
		// sample is not 0.
		Operator{Domain: moe.Domain, Name: "NegativeLogLikelihoodLossGradient", Since: []int{1}, Inputs: Between(2, 4), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferLossGradient},
	)
}

func inferLoss(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 2)
	if err != nil {
		return err
	}
	if err := c.wantIndices(1); err != nil {
		return err
	}
	if err := c.Node.wantMode("reduction", "mean", "sum", "none"); err != nil {
		return err
	}
	scores, labels := c.Shape(0), c.Shape(1)
	if scores != nil {
		if len(scores) < 2 {
			return fmt.Errorf("input 0 has shape %s, needs classes", FormatDims(scores))
		}
		if err := c.wantShape(1, JoinDims(scores[:1], scores[2:])...); err != nil {
			return err
		}
		if err := c.wantShape(2, scores[1]); err != nil {
			return err
		}
		if labels == nil {
			labels = JoinDims(scores[:1], scores[2:])
		}
	}
	if c.Node.String("reduction", "mean") == "none" {
		c.Set(0, t, labels)
	} else {
		c.Set(0, t, Dims[int]())
	}
	c.Set(1, t, scores)
	return nil
}

// IgnoreIndex returns the label that a loss leaves out, and false where there
// is none.
func IgnoreIndex(n *Node) (int64, bool) {
	a := n.Attribute("ignore_index")
	if a == nil || a.Type != onnx.AttributeInt {
		return 0, false
	}
	return a.Int, true
}

func inferLossGradient(c *Inference) error {
	if err := c.wantInputs(3); err != nil {
		return err
	}
	if err := inferLoss(c); err != nil {
		return err
	}
	loss := c.Outputs[0]
	if _, err := c.sameType(0, 3); err != nil {
		return err
	}
	if loss.Shape != nil {
		if err := c.wantShape(3, loss.Shape...); err != nil {
			return err
		}
	}
	c.Set(0, loss.Type, c.Shape(0))
	return nil
}

// lossGradient: the weights of classes are not learned and get none.
func lossGradient(b *Backward) {
	likelihood := b.Node.OpType == "NegativeLogLikelihoodLoss"
	logs := b.Gradient(1) // of the logarithms of probabilities
	if g := b.Gradient(0); g != NoValue {
		n := &onnx.Node{Domain: moe.Domain, OpType: "NegativeLogLikelihoodLossGradient", Attributes: b.Node.Attributes}
		d := b.Add(n, b.Input(0), b.Input(1), b.Input(2), g)
		if logs == NoValue {
			logs = d
		} else {
			logs = b.Op("Add", logs, d)
		}
	}
	if !likelihood {
		n := &onnx.Node{Domain: moe.Domain, OpType: "LogSoftmaxGradient", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", 1)}}
		logs = b.Add(n, logs, b.Output(1))
	}
	b.Set(0, logs)
}
