package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	attributes := []string{"ignore_index", "reduction"}
	Register(
		// SoftmaxCrossEntropyLoss, ONNX 12 and 13: scores [N, C, …], labels
		// [N, …], weights? [C].
		Operator{Name: "SoftmaxCrossEntropyLoss", Since: []int{12, 13}, Inputs: Between(2, 3), Outputs: Between(1, 2),
			Attributes: attributes, Infer: inferLoss},
		// NegativeLogLikelihoodLoss, ONNX 12, 13 and 22, takes the logarithms
		// of probabilities for scores.
		Operator{Name: "NegativeLogLikelihoodLoss", Since: []int{12, 13, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferLoss},
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
