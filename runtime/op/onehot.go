package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	Register(
		// OneHot, ONNX 9 to 28: a new axis, on at the index and off elsewhere.
		// Version 11 added negative indices.
		Operator{Name: "OneHot", Since: []int{9, 11, 28}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Parameters: []int{1}, Infer: inferOneHot, Gradient: oneHotGradient},
	)
}

// oneHotGradient sums the gradient where the output is on, and the rest of it.
func oneHotGradient(b *Backward) {
	if !b.Wants(2) {
		return
	}
	g, values := b.Gradient(0), b.Input(2)
	one := tensor.New(b.Fact(values).Type, 2)
	tensor.ConvertFloat(one, tensor.FromSlice([]float64{0, 1}))
	on := b.Add(&onnx.Node{OpType: "OneHot", Attributes: b.Node.Attributes}, b.Input(0), b.Input(1), b.Graph.Constant(one))
	sum := func(mask Value) Value { return b.Op("Reshape", b.Op("ReduceSum", b.Op("Mul", g, mask)), b.Ints(1)) }
	b.Set(2, b.joined(sum(b.minus(1, on)), sum(on)))
}

// OneHotAxis returns the axis that a OneHot node inserts, for indices of the
// given rank.
func OneHotAxis(n *Node, rank int) (int, error) { return Axis(n.Int("axis", -1), rank+1) }

func inferOneHot(c *Inference) error {
	if v := c.Shape(2); v != nil && (len(v) != 1 || v[0].Known() && v[0] != 2) {
		return fmt.Errorf("values have shape %s, need [2]", FormatDims(v))
	}
	indices := c.Shape(0)
	if indices == nil {
		c.Set(0, c.Type(2), nil)
		return nil
	}
	axis, err := OneHotAxis(c.Node, len(indices))
	if err != nil {
		return err
	}
	depth := c.Fresh()
	if v := c.Value(1); v != nil {
		if depth, err = oneHotDepth(v); err != nil {
			return err
		}
	}
	c.Set(0, c.Type(2), slices.Insert(slices.Clone(indices), axis, depth))
	return nil
}

// oneHotDepth reads the depth, which may be given in floating point.
func oneHotDepth(v *tensor.Tensor) (Dim, error) {
	if v.Len() != 1 {
		return 0, fmt.Errorf("depth has %d elements, needs one", v.Len())
	}
	if v.Type.IsFloat() && v.Type.Bits() >= 16 {
		wide := tensor.New(onnx.Float64, v.Shape...)
		tensor.ConvertFloat(wide, v)
		depth := tensor.Of[float64](wide)[0]
		if !(depth >= 0 && depth < 1<<53) {
			return 0, fmt.Errorf("depth is %g", depth)
		}
		return Dim(depth), nil
	}
	list, err := v.Ints()
	if err != nil {
		return 0, err
	}
	if list[0] < 0 {
		return 0, fmt.Errorf("depth is %d", list[0])
	}
	return Dim(list[0]), nil
}
