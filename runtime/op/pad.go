package op

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// Pad, ONNX 2 to 25. Version 11 made pads and value inputs, 18 added
		// axes, 19 the mode wrap, the others element types.
		Operator{Name: "Pad", Since: []int{2, 11, 13, 18, 19, 21, 23, 24, 25}, Inputs: Between(1, 4), Outputs: Exactly(1),
			Attributes: []string{"mode", "pads", "value"}, Parameters: []int{1, 3}, Infer: inferPad, Gradient: padGradient},
		// CenterCropPad, ONNX 18: crops or pads to a size, around the centre.
		Operator{Name: "CenterCropPad", Since: []int{18}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axes"}, Parameters: []int{1}, Infer: inferCenterCropPad, Gradient: cropPadGradient},
	)
}

// Padding is by how much an axis grows at its ends; negative amounts cut.
type Padding struct{ Begin, End int }

// Paddings returns the padding of each axis by a Pad node, for an input of the
// given rank. It returns nil where it depends on what is not known.
func Paddings(n *Node, rank int, content Content) ([]Padding, error) {
	pads, known := n.Ints("pads"), true
	if n.Since >= 11 {
		pads, known = content(1)
	}
	axes := make([]int64, rank)
	for i := range axes {
		axes[i] = int64(i)
	}
	if n.Input(3) != "" {
		var ok bool
		axes, ok = content(3)
		known = known && ok
	}
	if !known {
		return nil, nil
	}
	if len(pads) != 2*len(axes) {
		return nil, fmt.Errorf("there are %d pads for %d axes", len(pads), len(axes))
	}
	all := make([]Padding, rank)
	seen := make([]bool, rank)
	for i, a := range axes {
		axis, err := Axis(a, rank)
		if err != nil {
			return nil, err
		}
		begin, end := pads[i], pads[i+len(axes)]
		switch {
		case seen[axis]:
			return nil, fmt.Errorf("axis %d is padded twice", axis)
		case begin > math.MaxInt32 || begin < -math.MaxInt32 || end > math.MaxInt32 || end < -math.MaxInt32:
			return nil, fmt.Errorf("pads %d and %d of axis %d are too large", begin, end, axis)
		}
		seen[axis] = true
		all[axis] = Padding{int(begin), int(end)}
	}
	return all, nil
}

func inferPad(c *Inference) error {
	n := c.Node
	if err := c.wantForm(11, 1, "pads", "value"); err != nil {
		return err
	}
	if n.Since < 11 { // the value is a float
		if _, err := c.typeAmong(floatTypes, 0); err != nil {
			return err
		}
	}
	switch {
	case n.Since >= 11 && !c.Has(1):
		return errors.New("lacks its input pads")
	case n.Since < 11 && n.Attribute("pads") == nil:
		return errors.New("lacks the attribute pads")
	case n.Since < 18 && c.Has(3):
		return fmt.Errorf("has an input axes, which version %d of the operator does not take", n.Since)
	}
	modes := []string{"constant", "reflect", "edge", "wrap"}
	if n.Since < 19 {
		modes = modes[:3]
	}
	if err := n.wantMode("mode", modes...); err != nil {
		return err
	}
	if err := c.wantParameters(1, 3); err != nil {
		return err
	}
	t, err := c.sameType(0, 2)
	if err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	pads, err := Paddings(n, len(shape), c.Ints)
	if err != nil {
		return err
	}
	if pads == nil {
		c.Set(0, t, c.Unknown(len(shape)))
		return nil
	}
	out := JoinDims(shape)
	for i, p := range pads {
		if out[i], err = c.padded(shape[i], p, n.String("mode", "constant")); err != nil {
			return fmt.Errorf("axis %d of %s: %w", i, FormatDims(shape), err)
		}
	}
	c.Set(0, t, out)
	return nil
}

func padGradient(b *Backward) {
	if mode := b.Node.String("mode", "constant"); mode != "constant" {
		b.foldPadding(mode)
		return
	}
	g, pads := b.Gradient(0), b.Input(1)
	if b.Node.Since < 11 {
		pads = b.Ints(b.Node.Ints("pads")...)
	}
	inside := b.Op("Pad", g, b.Op("Neg", pads), NoValue, b.Input(3))
	b.Set(0, inside)
	if b.Wants(2) {
		sum := func(v Value) Value { return b.Reshape(b.Op("ReduceSum", v), b.Input(2)) }
		b.Set(2, b.Op("Sub", sum(g), sum(inside)))
	}
}

// foldPadding states the gradient of a Pad node that repeats elements of its
// input, axis by axis. Which elements those are Pad itself says, for the
// positions of an axis.
func (b *Backward) foldPadding(mode string) {
	x, g := b.Input(0), b.Gradient(0)
	rank := b.Rank(x)
	pads, err := Paddings(b.Node, rank, b.constantInts)
	if err != nil || pads == nil && rank > 0 {
		b.Fail(fmt.Errorf("mode %q has a gradient only where the padding is constant", mode))
		return
	}
	shape := make([]Value, rank)
	for i := range shape {
		shape[i] = b.Length(g, int64(i))
	}
	for i, p := range pads {
		if p == (Padding{}) {
			continue
		}
		shape[i] = b.Length(x, int64(i))
		positions := b.Op("Range", b.integer(0), b.Op("Squeeze", shape[i]), b.integer(1))
		repeated := b.Add(&onnx.Node{OpType: "Pad", Attributes: []*onnx.Attribute{onnx.StringAttribute("mode", mode)}},
			positions, b.Ints(int64(p.Begin), int64(p.End)))
		g = b.ungathered(g, repeated, b.joined(shape...), int64(i))
	}
	b.Set(0, g)
}

// cropPadGradient pads where the node cropped and crops where it padded.
func cropPadGradient(b *Backward) {
	lengths := b.Shape(b.Input(0))
	n := &onnx.Node{OpType: "CenterCropPad"}
	if a := b.Node.Attribute("axes"); a != nil {
		n.Attributes = []*onnx.Attribute{a}
		lengths = b.Op("Gather", lengths, b.Ints(a.Ints...))
	}
	b.Set(0, b.Add(n, b.Gradient(0), lengths))
}

// padded returns the length of a padded axis.
func (c *Inference) padded(dim Dim, p Padding, mode string) (Dim, error) {
	switch {
	case p == Padding{}:
		return dim, nil
	case !dim.Known():
		return c.Fresh(), nil
	}
	length := c.Add(dim, Dim(max(p.Begin, 0)))
	length = c.Add(length, Dim(max(p.End, 0))) + Dim(min(p.Begin, 0)+min(p.End, 0))
	kept := int(dim) + min(p.Begin, 0) + min(p.End, 0)
	if length < 0 || mode != "constant" && length > 0 && kept <= 0 {
		return 0, fmt.Errorf("pads %d and %d leave nothing of it", p.Begin, p.End)
	}
	return length, nil
}

// CropPadAxes returns the axes that a CenterCropPad node changes, in the order
// in which its input 1 lists their lengths.
func CropPadAxes(n *Node, rank int) ([]int, error) {
	given := n.Ints("axes")
	if n.Attribute("axes") == nil {
		for i := range rank {
			given = append(given, int64(i))
		}
	}
	axes := make([]int, 0, rank)
	for _, a := range given {
		axis, err := Axis(a, rank)
		if err != nil {
			return nil, err
		}
		if slices.Contains(axes, axis) {
			return nil, fmt.Errorf("axis %d is named twice", axis)
		}
		axes = append(axes, axis)
	}
	return axes, nil
}

func inferCenterCropPad(c *Inference) error {
	if err := c.wantParameters(1); err != nil {
		return err
	}
	t, shape := c.Type(0), slices.Clone(c.Shape(0))
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	axes, err := CropPadAxes(c.Node, len(shape))
	if err != nil {
		return err
	}
	lengths, known := c.Ints(1)
	if known && len(lengths) != len(axes) {
		return fmt.Errorf("there are %d lengths for %d axes", len(lengths), len(axes))
	}
	for i, axis := range axes {
		switch {
		case !known:
			shape[axis] = c.Fresh()
		case lengths[i] < 0:
			return fmt.Errorf("lengths %v have a negative one", lengths)
		default:
			shape[axis] = Dim(lengths[i])
		}
	}
	c.Set(0, t, shape)
	return nil
}
