package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// GridSample, ONNX 16 to 22: samples an image at the points of a
		// grid. Version 20 renamed the modes and added more dimensions.
		Operator{Name: "GridSample", Since: []int{16, 20, 22}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"align_corners", "mode", "padding_mode"}, Infer: inferGridSample, Gradient: gridSampleGradient},
		// GridSampleGradient, which gradients are made of: the gradients of
		// the image in input 1 and of the grid in input 2, from that of the
		// output in input 0.
		Operator{Domain: moe.Domain, Name: "GridSampleGradient", Since: []int{1}, Inputs: Exactly(3), Outputs: Between(1, 2),
			Attributes: []string{"align_corners", "mode", "padding_mode"}, Infer: inferGridSampleGradient},
	)
}

func gridSampleGradient(b *Backward) {
	n := &onnx.Node{Domain: moe.Domain, OpType: "GridSampleGradient", Attributes: b.Node.Attributes}
	gradients := b.AddMany(n, 2, b.Gradient(0), b.Input(0), b.Input(1))
	b.Set(0, gradients[0])
	b.Set(1, gradients[1])
}

func inferGridSampleGradient(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2)
	if err != nil {
		return err
	}
	since := 20
	if mode := c.Node.String("mode", "linear"); mode == "bilinear" || mode == "bicubic" {
		since = 16
	}
	node := &Node{Node: c.Node.Node, Operator: c.Node.Operator, Since: since}
	sample := &Inference{Node: node, Symbols: c.Symbols, Inputs: c.Inputs[1:], Outputs: make([]Fact, 1)}
	if err := inferGridSample(sample); err != nil {
		return err
	}
	c.Set(0, t, c.Shape(1))
	c.Set(1, t, c.Shape(2))
	return sameShape(sample.Outputs[0].Shape, c.Shape(0))
}

func inferGridSample(c *Inference) error {
	n := c.Node
	modes := []string{"linear", "nearest", "cubic"}
	if n.Since < 20 {
		modes = []string{"bilinear", "nearest", "bicubic"}
	}
	if err := n.wantMode("mode", modes...); err != nil {
		return err
	}
	if err := n.wantMode("padding_mode", "zeros", "border", "reflection"); err != nil {
		return err
	}
	if t := c.Type(1); t != onnx.Undefined && !t.IsFloat() {
		return fmt.Errorf("grid has elements of type %s, needs floats", t)
	}
	image, grid := c.Shape(0), c.Shape(1)
	if image == nil || grid == nil {
		c.Set(0, c.Type(0), nil)
		return nil
	}
	if len(image) < 3 || len(grid) != len(image) || n.Since < 20 && len(image) != 4 {
		return fmt.Errorf("image of shape %s cannot be sampled by a grid of shape %s", FormatDims(image), FormatDims(grid))
	}
	last := len(grid) - 1
	batch, err := Unify(image[0], grid[0])
	if err != nil {
		return fmt.Errorf("image and grid differ in batch: %w", err)
	}
	if _, err := Unify(grid[last], Dim(len(image)-2)); err != nil {
		return fmt.Errorf("grid of shape %s has not the coordinates of an image of shape %s", FormatDims(grid), FormatDims(image))
	}
	c.Set(0, c.Type(0), slices.Concat([]Dim{batch, image[1]}, grid[1:last]))
	return nil
}
