package op

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	Register(
		// Cast, ONNX 6 to 28, converts elements to the type "to"; CastLike,
		// 15 to 25, to the type of input 1. Version 19 added float8 and
		// "saturate", version 24 float8e8m0 and "round_mode", the others
		// element types.
		Operator{Name: "Cast", Since: []int{6, 9, 13, 19, 21, 23, 24, 25, 28}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"to", "saturate", "round_mode"}, Elementwise: true, Infer: inferCast, Gradient: castGradient},
		Operator{Name: "CastLike", Since: []int{15, 19, 21, 23, 24, 25}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"saturate", "round_mode"}, Elementwise: true, Infer: inferCastLike, Gradient: castGradient},
		// BitCast, ONNX 26, reads the elements' bits as another type of the
		// same width.
		Operator{Name: "BitCast", Since: []int{26}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"to"}, View: true, Infer: inferBitCast},
		// Identity, ONNX 1 to 25. Versions differ in element types.
		Operator{Name: "Identity", Since: []int{1, 13, 14, 16, 19, 21, 23, 24, 25}, Inputs: Exactly(1), Outputs: Exactly(1),
			View: true, Infer: SameAsInput, Gradient: func(b *Backward) { b.Set(0, b.Gradient(0)) }},
	)
}

// CastRounding returns how a Cast or CastLike node rounds.
func CastRounding(n *Node) (tensor.Rounding, error) {
	r := tensor.Rounding{Saturate: n.Int("saturate", 1) != 0}
	switch mode := n.String("round_mode", "up"); mode {
	case "up":
		r.Powers = tensor.PowerUp
	case "down":
		r.Powers = tensor.PowerDown
	case "nearest":
		r.Powers = tensor.PowerNearest
	default:
		return r, fmt.Errorf("attribute round_mode is %q; it can be up, down or nearest", mode)
	}
	return r, nil
}

// typeAttribute returns the element type that an attribute names. It is
// Undefined where the node lacks the attribute or it is 0.
func (n *Node) typeAttribute(name string) (onnx.DataType, error) {
	v := n.Int(name, 0)
	if v == 0 {
		return onnx.Undefined, nil
	}
	if v < math.MinInt32 || v > math.MaxInt32 || !onnx.DataType(v).Valid() {
		return onnx.Undefined, fmt.Errorf("attribute %s is %d, which is no element type", name, v)
	}
	return onnx.DataType(v), nil
}

// requiredType is typeAttribute for an attribute that must be there.
func (n *Node) requiredType(name string) (onnx.DataType, error) {
	t, err := n.typeAttribute(name)
	if err == nil && t == onnx.Undefined {
		err = fmt.Errorf("lacks its attribute %s, an element type", name)
	}
	return t, err
}

func castGradient(b *Backward) { b.Set(0, b.Cast(b.Gradient(0), b.Input(0))) }

func inferCast(c *Inference) error {
	t, err := c.Node.requiredType("to")
	if err != nil {
		return err
	}
	return c.setCast(t)
}

func inferCastLike(c *Inference) error { return c.setCast(c.Type(1)) }

func (c *Inference) setCast(to onnx.DataType) error {
	if c.Node.Since < 19 {
		if err := c.unwanted("saturate"); err != nil {
			return err
		}
	}
	if c.Node.Since < 24 {
		if err := c.unwanted("round_mode"); err != nil {
			return err
		}
	}
	if _, err := CastRounding(c.Node); err != nil {
		return err
	}
	c.Set(0, to, c.Shape(0))
	return nil
}

func inferBitCast(c *Inference) error {
	to, err := c.Node.requiredType("to")
	if err != nil {
		return err
	}
	if from := c.Type(0); from != onnx.Undefined && (from.Bits() != to.Bits() || from.Bits() == 0) {
		return fmt.Errorf("cannot read elements of type %s as %s, which have another width", from, to)
	}
	c.Set(0, to, c.Shape(0))
	return nil
}
