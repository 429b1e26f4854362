package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	Register(
		// AffineGrid, ONNX 20: theta [N, 2, 3] or [N, 3, 4], size (N, C, …).
		Operator{Name: "AffineGrid", Since: []int{20}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"align_corners"}, Parameters: []int{1}, Infer: inferAffineGrid, Gradient: affineGridGradient},
	)
}

// affineGridGradient: a point is theta times its position and 1. Positions are
// the grid of the theta that changes nothing.
func affineGridGradient(b *Backward) {
	theta, g := b.Input(0), b.Gradient(0)
	axes := int64(b.Rank(g) - 2)
	if b.err != nil {
		return
	}
	eye := tensor.New(b.Fact(theta).Type, int(axes), int(axes)+1)
	ones := make([]float64, eye.Len())
	for i := range axes {
		ones[i*(axes+2)] = 1
	}
	tensor.ConvertFloat(eye, tensor.FromSlice(ones))
	identity := b.expandLike(b.Graph.Constant(eye), theta)
	positions := b.Add(&onnx.Node{OpType: "AffineGrid", Attributes: b.Node.Attributes}, identity, b.Input(1))
	one := b.filled(1, theta, b.joined(b.Op("Slice", b.Shape(g), b.Ints(0), b.Ints(axes+1)), b.Ints(1)))
	positions = b.Add(&onnx.Node{OpType: "Concat", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", axes+1)}}, positions, one)
	rows := func(v Value, columns int64) Value { return b.Op("Reshape", v, b.Ints(0, -1, columns)) }
	b.Set(0, b.Add(&onnx.Node{OpType: "Einsum", Attributes: []*onnx.Attribute{onnx.StringAttribute("equation", "npi,npj->nij")}},
		rows(g, axes), rows(positions, axes+1)))
}

func inferAffineGrid(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, 1); err != nil {
		return err
	}
	batch, axes, columns := c.Fresh(), c.Fresh(), c.Fresh()
	if err := unifyAll("theta", c.Shape(0), &batch, &axes, &columns); err != nil {
		return err
	}
	if axes.Known() && (axes != 2 && axes != 3 || columns.Known() && columns != axes+1) {
		return fmt.Errorf("theta has shape %s, needs [N,2,3] or [N,3,4]", FormatDims(c.Shape(0)))
	}
	size, known := c.Ints(1)
	switch {
	case known:
		if len(size) != 4 && len(size) != 5 || axes.Known() && len(size) != int(axes)+2 {
			return fmt.Errorf("size is %v, which does not fit theta of shape %s", size, FormatDims(c.Shape(0)))
		}
		for _, d := range size {
			if d < 0 {
				return fmt.Errorf("size is %v, needs a shape", size)
			}
		}
		if batch, err = Unify(batch, Dim(size[0])); err != nil {
			return fmt.Errorf("size is %v: %w", size, err)
		}
		out := append([]Dim{batch}, Dims(size[2:]...)...)
		c.Set(0, t, append(out, Dim(len(size)-2)))
	case axes.Known():
		out := c.Unknown(int(axes) + 2)
		out[0], out[len(out)-1] = batch, axes
		c.Set(0, t, out)
	default:
		c.Set(0, t, nil)
	}
	return nil
}
