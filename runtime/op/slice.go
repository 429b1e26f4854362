package op

import (
	"errors"
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// Slice, ONNX 1 to 13. Version 10 made starts, ends and axes inputs
		// and added steps.
		Operator{Name: "Slice", Since: []int{1, 10, 11, 13}, Inputs: Between(1, 5), Outputs: Exactly(1),
			Attributes: []string{"starts", "ends", "axes"}, Parameters: []int{1, 2, 3, 4}, Infer: inferSlice, Gradient: sliceGradient},
		// SliceGradient, which gradients are made of: a tensor of the shape in
		// input 1, zero but for input 0 where Slice with inputs 2 to 5 as its
		// inputs 1 to 4 takes elements.
		Operator{Domain: moe.Domain, Name: "SliceGradient", Since: []int{1}, Inputs: Between(4, 6), Outputs: Exactly(1),
			Parameters: []int{1, 2, 3, 4, 5}, Infer: inferSliceGradient},
	)
}

// Stride is a run of positions along an axis: Length of them, from Start, Step
// apart.
type Stride struct {
	Start  int
	Step   int
	Length Dim
}

// unknownLength is no symbol that could equal another.
const unknownLength Dim = math.MinInt

// sliceForm is what a Slice node asks for; a nil list is not known, except
// that nil steps are ones.
type sliceForm struct {
	starts, ends, axes, steps []int64
}

func newSliceForm(n *Node, content Content) (f sliceForm, known bool, err error) {
	if n.Since < 10 {
		f = sliceForm{starts: n.Ints("starts"), ends: n.Ints("ends"), axes: n.Ints("axes")}
	} else {
		known := true
		for i, list := range []*[]int64{&f.starts, &f.ends, &f.axes, &f.steps} {
			if n.Input(i+1) == "" {
				continue
			}
			var ok bool
			*list, ok = content(i + 1)
			known = known && ok
		}
		if !known {
			return f, false, nil
		}
	}
	hasAxes := n.Input(3) != "" || n.Attribute("axes") != nil
	if !hasAxes {
		f.axes = make([]int64, len(f.starts))
		for i := range f.axes {
			f.axes[i] = int64(i)
		}
	}
	if len(f.ends) != len(f.starts) || len(f.axes) != len(f.starts) || n.Input(4) != "" && len(f.steps) != len(f.starts) {
		return f, true, fmt.Errorf("starts, ends, axes and steps have %d, %d, %d and %d elements; they need equally many",
			len(f.starts), len(f.ends), len(f.axes), len(f.steps))
	}
	return f, true, nil
}

// SliceStrides returns which positions a Slice node takes along each axis of
// an input of the given shape. It returns nil where the node's parameters are
// not known; the length along a dimension that is not known is negative too.
func SliceStrides(n *Node, shape []Dim, content Content) ([]Stride, error) {
	f, known, err := newSliceForm(n, content)
	if err != nil || !known {
		return nil, err
	}
	strides := make([]Stride, len(shape))
	for i, d := range shape {
		strides[i] = Stride{0, 1, d}
	}
	seen := make([]bool, len(shape))
	for i, a := range f.axes {
		axis, err := Axis(a, len(shape))
		if err != nil {
			return nil, err
		}
		if seen[axis] {
			return nil, fmt.Errorf("axis %d is sliced twice", axis)
		}
		seen[axis] = true
		step := int64(1)
		if f.steps != nil {
			step = f.steps[i]
		}
		if step == 0 {
			return nil, errors.New("a step is 0")
		}
		whole := f.starts[i] == 0 && f.ends[i] >= 1<<31-1 && step == 1
		if !shape[axis].Known() {
			if !whole {
				strides[axis].Length = unknownLength
			}
			continue
		}
		strides[axis] = clampedStride(f.starts[i], f.ends[i], step, int64(shape[axis]))
	}
	return strides, nil
}

// clampedStride takes the part from start to before end of an axis of length
// dim, where negative positions count from the axis's end and those outside
// are moved to its border.
func clampedStride(start, end, step, dim int64) Stride {
	lowest, highest := int64(0), dim
	if step < 0 {
		lowest, highest = -1, dim-1
	}
	clamp := func(at, lowest int64) int64 {
		if at < 0 {
			at = max(at, -dim-1) + dim
		}
		return min(max(at, lowest), highest)
	}
	start, end = clamp(start, 0), clamp(end, lowest)
	var distance, size uint64
	switch {
	case step > 0 && end > start:
		distance, size = uint64(end-start), uint64(step)
	case step < 0 && end < start:
		distance, size = uint64(start-end), -uint64(step)
	default:
		return Stride{0, 1, 0}
	}
	s := Stride{int(start), 1, Dim((distance-1)/size + 1)}
	if s.Length > 1 {
		s.Step = int(step) // shorter than the axis, so products with it do not overflow
	}
	return s
}

func sliceGradient(b *Backward) {
	inputs := []Value{b.Gradient(0), b.Shape(b.Input(0))}
	if b.Node.Since >= 10 {
		inputs = append(inputs, b.Inputs[1:]...)
	} else {
		inputs = append(inputs, b.Ints(b.Node.Ints("starts")...), b.Ints(b.Node.Ints("ends")...))
		if axes := b.Node.Ints("axes"); axes != nil {
			inputs = append(inputs, b.Ints(axes...))
		}
	}
	b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: "SliceGradient"}, inputs...))
}

// SliceGradientStrides returns which positions of a tensor of the given shape
// the gradient in input 0 of a SliceGradient node belongs to. It returns nil
// where the node's parameters are not known.
func SliceGradientStrides(n *Node, shape []Dim, content Content) ([]Stride, error) {
	inputs := append([]string{n.Inputs[0]}, n.Inputs[2:]...)
	slice := &Node{Node: &onnx.Node{OpType: "Slice", Inputs: inputs}, Since: 13}
	return SliceStrides(slice, shape, func(i int) ([]int64, bool) { return content(i + 1) })
}

func inferSliceGradient(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if err := c.wantParameters(1, 2, 3, 4, 5); err != nil {
		return err
	}
	shape, err := c.dimensions(1)
	c.Set(0, t, shape)
	if shape == nil || err != nil {
		return err
	}
	strides, err := SliceGradientStrides(c.Node, shape, c.Ints)
	if strides == nil || err != nil {
		return err
	}
	lengths := make([]Dim, len(strides))
	for i, s := range strides {
		if lengths[i] = s.Length; !s.Length.Known() {
			lengths[i] = c.Fresh()
		}
	}
	return c.wantShape(0, lengths...)
}

func inferSlice(c *Inference) error {
	n := c.Node
	if err := c.wantForm(10, 1, "starts", "ends", "axes"); err != nil {
		return err
	}
	switch {
	case n.Since < 10 && (n.Attribute("starts") == nil || n.Attribute("ends") == nil):
		return errors.New("lacks the attribute starts or ends")
	case n.Since >= 10 && (!c.Has(1) || !c.Has(2)):
		return errors.New("lacks its input starts or ends")
	}
	if err := c.wantParameters(1, 2, 3, 4); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, c.Type(0), nil)
		return nil
	}
	strides, err := SliceStrides(n, shape, c.Ints)
	if err != nil {
		return err
	}
	out := c.Unknown(len(shape))
	if strides == nil {
		err = c.keepUnsliced(out, shape)
		c.firstElements(out, shape)
	}
	for i, s := range strides {
		if s.Length == shape[i] || s.Length.Known() {
			out[i] = s.Length
		}
	}
	c.Set(0, c.Type(0), out)
	return err
}

// firstElements enters the length of an axis of which the node takes as many
// elements from the beginning as a symbol says into out.
func (c *Inference) firstElements(out, shape []Dim) {
	starts, ends, axes, steps := c.numbers(1), c.numbers(2), c.numbers(3), c.numbers(4)
	if len(starts) != 1 || len(ends) != 1 || starts[0] != (Number{}) || ends[0].Symbol == 0 ||
		c.Has(4) && (len(steps) != 1 || steps[0] != (Number{Value: 1})) {
		return
	}
	axis := 0
	if c.Has(3) {
		if len(axes) != 1 || axes[0].Unknown || axes[0].Symbol != 0 {
			return
		}
		var err error
		if axis, err = Axis(axes[0].Value, len(shape)); err != nil {
			return
		}
	}
	if axis < len(shape) && shape[axis] > 0 {
		out[axis] = c.Symbols.limit(ends[0].Symbol, shape[axis])
	}
}

// keepUnsliced enters the dimensions of shape that the node does not slice
// into out, as far as its axes are known.
func (c *Inference) keepUnsliced(out, shape []Dim) error {
	var axes []int64
	if c.Has(3) {
		var known bool
		if axes, known = c.Ints(3); !known {
			return nil
		}
	} else {
		starts := c.Shape(1)
		if len(starts) != 1 || !starts[0].Known() {
			return nil
		}
		for i := range min(int(starts[0]), len(shape)) {
			axes = append(axes, int64(i))
		}
	}
	resolved, err := Axes(axes, len(shape))
	if err != nil {
		return err
	}
	sliced := make([]bool, len(shape))
	for _, a := range resolved {
		sliced[a] = true
	}
	for i, d := range shape {
		if !sliced[i] {
			out[i] = d
		}
	}
	return nil
}
