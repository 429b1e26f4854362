package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	attributes := []string{"ignore_index", "label_smoothing", "z_loss"}
	Register(
		// CrossEntropy, the loss of language models: logits […, V] and labels
		// […] give the mean, over the labels that are not ignore_index
		// (default −100), of
		//
		//	log Z − (1 − label_smoothing)·x_label − label_smoothing·Σx/V + z_loss·log²Z
		//
		// where Z = Σe^x; 0 if there is no such label. Outputs 1 and 2 are how
		// many labels count, and for how many of them the first of the largest
		// logits is the label's.
		Operator{Domain: moe.Domain, Name: "CrossEntropy", Since: []int{1}, Inputs: Exactly(2), Outputs: Between(1, 3),
			Attributes: attributes, Infer: inferCrossEntropy, Gradient: crossEntropyGradient},
		// CrossEntropyGradient is the gradient of CrossEntropy's logits: from
		// that of the loss, the logits and the labels. It may overwrite the
		// logits.
		Operator{Domain: moe.Domain, Name: "CrossEntropyGradient", Since: []int{1}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: attributes, Elementwise: true, Infer: inferCrossEntropyGradient},
	)
}

// CrossEntropyTerms has the attributes of a CrossEntropy node.
type CrossEntropyTerms struct {
	Ignore           int64
	Smoothing, ZLoss float64
}

// CrossEntropyAttributes reads the attributes of CrossEntropy and
// CrossEntropyGradient.
func CrossEntropyAttributes(n *Node) (CrossEntropyTerms, error) {
	t := CrossEntropyTerms{Ignore: n.Int("ignore_index", -100),
		Smoothing: float64(n.Float("label_smoothing", 0)), ZLoss: float64(n.Float("z_loss", 0))}
	if !(t.Smoothing >= 0 && t.Smoothing <= 1) {
		return t, fmt.Errorf("label_smoothing is %v, needs a number from 0 to 1", t.Smoothing)
	}
	if !(t.ZLoss >= 0) {
		return t, fmt.Errorf("z_loss is %v, needs a number that is not negative", t.ZLoss)
	}
	return t, nil
}

// lossType is the type of a loss over values of type t.
func lossType(t onnx.DataType) onnx.DataType {
	switch t {
	case onnx.Undefined, onnx.Float64:
		return t
	}
	return onnx.Float32
}

// wantLabels checks logits […, V], labels […] and the attributes.
func (c *Inference) wantLabels(logits, labels int) (onnx.DataType, error) {
	if _, err := CrossEntropyAttributes(c.Node); err != nil {
		return onnx.Undefined, err
	}
	t, err := c.typeAmong(floatTypes, logits)
	if err != nil {
		return t, err
	}
	if err := c.wantIndices(labels); err != nil {
		return t, err
	}
	if shape := c.Shape(logits); shape != nil {
		if len(shape) == 0 {
			return t, fmt.Errorf("input %d is a scalar, needs classes", logits)
		}
		return t, c.wantShape(labels, shape[:len(shape)-1]...)
	}
	return t, nil
}

func inferCrossEntropy(c *Inference) error {
	t, err := c.wantLabels(0, 1)
	if err != nil {
		return err
	}
	c.Set(0, lossType(t), Dims[int]())
	c.Set(1, onnx.Int64, Dims[int]())
	c.Set(2, onnx.Int64, Dims[int]())
	return nil
}

func inferCrossEntropyGradient(c *Inference) error {
	t, err := c.wantLabels(1, 2)
	if err != nil {
		return err
	}
	if g := c.Type(0); g != onnx.Undefined && t != onnx.Undefined && g != lossType(t) {
		return fmt.Errorf("input 0 has elements of type %s, needs %s for logits of %s", g, lossType(t), t)
	}
	if err := c.wantShape(0); err != nil {
		return err
	}
	c.Set(0, t, c.Shape(1))
	return nil
}

func crossEntropyGradient(b *Backward) {
	if g := b.Gradient(0); g != NoValue {
		b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: "CrossEntropyGradient", Attributes: b.Node.Attributes}, g, b.Input(0), b.Input(1)))
	}
}
