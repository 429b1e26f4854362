package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/moe"
)

// The input slots of a Linear node.
const (
	LinearX        = iota // […, k]
	LinearWeight          // [k, n], or [n, k] with transB = 1
	LinearBias            // [n], optional
	LinearResidual        // optional: what broadcasts with […, n]
)

func init() {
	Register(
		// Linear, which no file needs to have: the compiler makes it of a
		// product and what follows it. Y = activation(alpha·X·W + bias) +
		// residual, the activation being one of package moe's, identity by
		// default.
		Operator{Domain: moe.Domain, Name: "Linear", Since: []int{1}, Inputs: Between(2, 4), Outputs: Exactly(1),
			Attributes: []string{"alpha", "transB", "activation"}, Infer: inferLinear},
	)
}

// LinearActivation returns the activation of a Linear node.
func LinearActivation(n *Node) (moe.Activation, error) {
	a := moe.Activation(n.String("activation", string(moe.Identity)))
	if !slices.Contains(moe.Activations, a) {
		return a, fmt.Errorf("attribute activation is %q; it can be one of %q", a, moe.Activations)
	}
	return a, nil
}

// LinearOrder returns the axes of a Linear node's weight that are the rows and
// columns of the matrix to multiply by.
func LinearOrder(n *Node) []int {
	if n.Int("transB", 0) != 0 {
		return []int{1, 0}
	}
	return []int{0, 1}
}

func inferLinear(c *Inference) error {
	t, err := c.typeAmong(floatTypes, LinearX, LinearWeight, LinearBias, LinearResidual)
	if err != nil {
		return err
	}
	if _, err := LinearActivation(c.Node); err != nil {
		return err
	}
	if err := c.wantRank(LinearWeight, 2); err != nil {
		return err
	}
	if err := c.wantRank(LinearBias, 1); err != nil {
		return err
	}
	depth, width := c.Fresh(), c.Fresh()
	if w, order := c.Shape(LinearWeight), LinearOrder(c.Node); w != nil {
		depth, width = w[order[0]], w[order[1]]
	}
	if bias := c.Shape(LinearBias); bias != nil {
		if width, err = Unify(width, bias[0]); err != nil {
			return fmt.Errorf("bias of shape %s for a weight of shape %s", FormatDims(bias), FormatDims(c.Shape(LinearWeight)))
		}
	}
	x := c.Shape(LinearX)
	if x == nil {
		c.Set(0, t, nil)
		return nil
	}
	if len(x) == 0 {
		return fmt.Errorf("input X is a scalar, needs a rank of at least 1")
	}
	last := len(x) - 1
	if _, err := Unify(x[last], depth); err != nil {
		return fmt.Errorf("cannot multiply X of shape %s by a weight of shape %s", FormatDims(x), FormatDims(c.Shape(LinearWeight)))
	}
	shape := replaced(x, last, width)
	if c.Has(LinearResidual) {
		if shape, err = c.Broadcast(shape, c.Shape(LinearResidual)); err != nil {
			return err
		}
	}
	c.Set(0, t, shape)
	return nil
}
