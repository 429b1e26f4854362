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
		// Concat, ONNX 4 to 13; later versions added negative axes and
		// element types.
		Operator{Name: "Concat", Since: []int{4, 11, 13}, Inputs: AtLeast(1), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Caches: []int{0}, Appends: map[int]int{0: 0}, Infer: inferConcat, Gradient: concatGradient},
		// Split, ONNX 2 to 18. Version 13 made split an input, 18 added
		// num_outputs, with which the last part may be shorter.
		Operator{Name: "Split", Since: []int{2, 11, 13, 18}, Inputs: Between(1, 2), Outputs: AtLeast(1),
			Attributes: []string{"axis", "split", "num_outputs"}, Parameters: []int{1}, Infer: inferSplit, Gradient: splitGradient},
	)
}

func inferConcat(c *Inference) error {
	if c.Node.Attribute("axis") == nil {
		return errors.New("lacks the attribute axis")
	}
	all := make([]int, len(c.Inputs))
	for i := range all {
		if all[i] = i; !c.Has(i) {
			return fmt.Errorf("lacks its input %d", i)
		}
	}
	t, err := c.sameType(all...)
	if err != nil {
		return err
	}
	c.Set(0, t, nil)
	var out []Dim
	axis, open := 0, false
	for i := range c.Inputs {
		shape := c.Shape(i)
		switch {
		case shape == nil:
			open = true
		case out == nil:
			if axis, err = Axis(c.Node.Int("axis", 0), len(shape)); err != nil {
				return err
			}
			out = slices.Clone(shape)
		case len(shape) != len(out):
			return fmt.Errorf("inputs of %s and %s differ in rank", FormatDims(out), FormatDims(shape))
		default:
			for j, d := range shape {
				if j == axis {
					out[j] = c.Add(out[j], d)
				} else if out[j], err = Unify(out[j], d); err != nil {
					return fmt.Errorf("input %d of shape %s does not fit the others along axis %d: %w", i, FormatDims(shape), j, err)
				}
			}
		}
	}
	if out != nil && open {
		out[axis] = c.Fresh()
	}
	c.Set(0, t, out)
	return nil
}

// concatGradient splits the gradient.
func concatGradient(b *Backward) {
	axis := b.Node.Int("axis", 0)
	lengths := make([]Value, len(b.Inputs))
	for i, v := range b.Inputs {
		lengths[i] = b.Length(v, axis)
	}
	n := &onnx.Node{OpType: "Split", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", axis)}}
	parts := b.AddMany(n, len(b.Inputs), b.Gradient(0), b.joined(lengths...))
	for i, g := range parts {
		b.Set(i, g)
	}
}

// splitGradient joins the gradients of the parts.
func splitGradient(b *Backward) {
	parts := make([]Value, len(b.Outputs))
	for i, g := range b.Outputs {
		if parts[i] = g; g == NoValue {
			parts[i] = b.Zeros(b.Output(i))
		}
	}
	axis := onnx.IntAttribute("axis", b.Node.Int("axis", 0))
	b.Set(0, b.Add(&onnx.Node{OpType: "Concat", Attributes: []*onnx.Attribute{axis}}, parts...))
}

// Length adds the length of an axis, as a vector.
func (b *Backward) Length(v Value, axis int64) Value {
	n := &onnx.Node{OpType: "Shape", Attributes: []*onnx.Attribute{onnx.IntAttribute("start", axis)}}
	if axis != -1 {
		n.Attributes = append(n.Attributes, onnx.IntAttribute("end", axis+1))
	}
	return b.Add(n, v)
}

// joined makes one vector of several.
func (b *Backward) joined(vectors ...Value) Value {
	return b.Add(&onnx.Node{OpType: "Concat", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", 0)}}, vectors...)
}

// SplitLengths returns the lengths of the parts into which a Split node with
// the given number of outputs cuts an axis of length dim. It returns nil
// where they depend on what is not known.
func SplitLengths(n *Node, dim Dim, outputs int, content Content) ([]Dim, error) {
	lengths, stated := n.Ints("split"), n.Attribute("split") != nil
	if n.Input(1) != "" {
		var known bool
		if lengths, known = content(1); !known {
			return nil, nil
		}
		stated = true
	}
	if !stated {
		return equalParts(dim, Dim(outputs), n.Since >= 18)
	}
	if len(lengths) != outputs {
		return nil, fmt.Errorf("split %v is for %d outputs, there are %d", lengths, len(lengths), outputs)
	}
	sum := int64(0)
	for _, l := range lengths {
		if l < 0 || l > math.MaxInt64-sum {
			return nil, fmt.Errorf("split %v has a length that is negative or too large", lengths)
		}
		sum += l
	}
	if dim.Known() && sum != int64(dim) {
		return nil, fmt.Errorf("split %v does not add up to the axis's length, %d", lengths, dim)
	}
	return Dims(lengths...), nil
}

// equalParts cuts an axis into equal parts, the last one shorter where uneven
// is allowed.
func equalParts(dim, parts Dim, uneven bool) ([]Dim, error) {
	if !dim.Known() {
		return nil, nil
	}
	length := dim / parts
	if dim%parts != 0 {
		length++
	}
	last := dim - length*(parts-1)
	if last != length && (!uneven || last < 0) {
		return nil, fmt.Errorf("axis of length %d cannot be split into %d equal parts; give the lengths", dim, parts)
	}
	lengths := slices.Repeat([]Dim{length}, int(parts))
	lengths[parts-1] = last
	return lengths, nil
}

func inferSplit(c *Inference) error {
	n, outputs := c.Node, len(c.Outputs)
	if err := c.wantForm(13, 1, "split"); err != nil {
		return err
	}
	if err := c.wantParameters(1); err != nil {
		return err
	}
	if a := n.Attribute("num_outputs"); a != nil {
		switch {
		case n.Since < 18:
			return c.unwanted("num_outputs")
		case c.Has(1):
			return errors.New("has both an input split and an attribute num_outputs")
		case a.Int != int64(outputs):
			return fmt.Errorf("attribute num_outputs is %d, the node has %d outputs", a.Int, outputs)
		}
	}
	shape := c.Shape(0)
	if shape == nil {
		for i := range outputs {
			c.Set(i, c.Type(0), nil)
		}
		return nil
	}
	axis, err := Axis(n.Int("axis", 0), len(shape))
	if err != nil {
		return err
	}
	lengths, err := SplitLengths(n, shape[axis], outputs, c.Ints)
	if err != nil {
		return err
	}
	if lengths == nil {
		lengths = c.Unknown(outputs)
	}
	for i := range outputs {
		c.Set(i, c.Type(0), replaced(shape, axis, lengths[i]))
	}
	return nil
}
