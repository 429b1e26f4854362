package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// Trilu, ONNX 14: the upper or lower triangle of matrices; the rest
		// becomes zero.
		Operator{Name: "Trilu", Since: []int{14}, Inputs: Between(1, 2), Outputs: Exactly(1),
			Attributes: []string{"upper"}, Parameters: []int{1}, Elementwise: true, Infer: inferTrilu, Gradient: triluGradient},
	)
}

// TriluDiagonal returns the diagonal at which a Trilu node cuts, and false
// where it is not known.
func TriluDiagonal(n *Node, content Content) (k int64, known bool, err error) {
	if n.Input(1) == "" {
		return 0, true, nil
	}
	return integer(content, 1)
}

func triluGradient(b *Backward) {
	b.Set(0, b.Add(&onnx.Node{OpType: "Trilu", Attributes: b.Node.Attributes}, append([]Value{b.Gradient(0)}, b.Inputs[1:]...)...))
}

func inferTrilu(c *Inference) error {
	if err := c.wantParameters(1); err != nil {
		return err
	}
	if _, _, err := TriluDiagonal(c.Node, c.Ints); err != nil {
		return err
	}
	if shape := c.Shape(0); shape != nil && len(shape) < 2 {
		return fmt.Errorf("input of shape %s is no matrix", FormatDims(shape))
	}
	return SameAsInput(c)
}
