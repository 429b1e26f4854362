package op

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// Gather, ONNX 1 to 13: slices along an axis, chosen by indices.
		Operator{Name: "Gather", Since: []int{1, 11, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferGather, Gradient: gatherGradient},
		// GatherElements, ONNX 11 and 13: an index for each element.
		Operator{Name: "GatherElements", Since: []int{11, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferGatherElements, Gradient: gatherGradient},
		// GatherND, ONNX 11 to 13: tuples of indices; version 12 added
		// batch_dims.
		Operator{Name: "GatherND", Since: []int{11, 12, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"batch_dims"}, Infer: inferGatherND, Gradient: gatherGradient},
		// Compress, ONNX 9 to 28: the slices for which a condition holds.
		Operator{Name: "Compress", Since: []int{9, 11, 28}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferCompress, Gradient: compressGradient},
		// ReverseSequence, ONNX 10 and 28: turns the first elements of each
		// sequence of a batch around.
		Operator{Name: "ReverseSequence", Since: []int{10, 28}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"batch_axis", "time_axis"}, Infer: inferReverseSequence, Gradient: reverseSequenceGradient},

		// What gradients are made of: a tensor of the shape in input 2, each
		// element of which is the sum of those of input 0 that the operator of
		// the name before Gradient, with the same indices in input 1 and
		// attributes, takes from it. Sums are in the order of input 0.
		Operator{Domain: moe.Domain, Name: "GatherGradient", Since: []int{1}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Parameters: []int{2}, Infer: inferGatherGradient(inferGather)},
		Operator{Domain: moe.Domain, Name: "GatherElementsGradient", Since: []int{1}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Parameters: []int{2}, Infer: inferGatherGradient(inferGatherElements)},
		Operator{Domain: moe.Domain, Name: "GatherNDGradient", Since: []int{1}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"batch_dims"}, Parameters: []int{2}, Infer: inferGatherGradient(inferGatherND)},
	)
}

func gatherGradient(b *Backward) {
	b.Set(0, b.Add(&onnx.Node{Domain: moe.Domain, OpType: b.Node.OpType + "Gradient", Attributes: b.Node.Attributes},
		b.Gradient(0), b.Input(1), b.Shape(b.Input(0))))
}

// ungathered adds the gradient of what has the given shape where Gather takes
// slices along an axis from it.
func (b *Backward) ungathered(g, indices, shape Value, axis int64) Value {
	return b.Add(&onnx.Node{Domain: moe.Domain, OpType: "GatherGradient", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", axis)}}, g, indices, shape)
}

func compressGradient(b *Backward) {
	b.setChosen(b.Op("Reshape", b.Op("NonZero", b.Input(1)), b.Ints(-1)))
}

// setChosen states the gradient of input 0, of which output 0 has the slices
// with the given indices along the attribute axis or, where the node has none,
// the elements.
func (b *Backward) setChosen(indices Value) {
	x, g := b.Input(0), b.Gradient(0)
	if b.Node.Attribute("axis") != nil {
		b.Set(0, b.ungathered(g, indices, b.Shape(x), b.Node.Int("axis", 0)))
		return
	}
	count := b.Op("Reshape", b.Op("Size", x), b.Ints(1))
	b.Set(0, b.Reshape(b.ungathered(g, indices, count, 0), x))
}

func reverseSequenceGradient(b *Backward) {
	b.Set(0, b.Add(&onnx.Node{OpType: "ReverseSequence", Attributes: b.Node.Attributes}, b.Gradient(0), b.Input(1)))
}

// inferGatherGradient is the inference of the gradient of an operator with the
// given one: input 0 has the shape of its output.
func inferGatherGradient(infer func(*Inference) error) func(*Inference) error {
	return func(c *Inference) error {
		t, err := c.typeAmong(floatTypes, 0)
		if err != nil {
			return err
		}
		if err := c.wantParameters(2); err != nil {
			return err
		}
		shape, err := c.dimensions(2)
		if err != nil {
			return err
		}
		node := &Node{Node: c.Node.Node, Operator: c.Node.Operator, Since: 13}
		gather := &Inference{Node: node, Symbols: c.Symbols, Inputs: []Fact{{Type: t, Shape: shape}, c.Inputs[1]}, Outputs: make([]Fact, 1)}
		if err := infer(gather); err != nil {
			return err
		}
		if err := sameShape(gather.Outputs[0].Shape, c.Shape(0)); err != nil {
			return fmt.Errorf("gradient and what was gathered differ: %w", err)
		}
		c.Set(0, t, shape)
		return nil
	}
}

func inferGather(c *Inference) error {
	if err := c.wantIndices(1); err != nil {
		return err
	}
	data, indices := c.Shape(0), c.Shape(1)
	if data == nil {
		c.Set(0, c.Type(0), nil)
		return nil
	}
	axis, err := Axis(c.Node.Int("axis", 0), len(data))
	if err != nil {
		return err
	}
	if indices == nil {
		c.Set(0, c.Type(0), nil)
		return nil
	}
	c.Set(0, c.Type(0), JoinDims(data[:axis], indices, data[axis+1:]))
	return nil
}

// wantAlong checks data and indices of GatherElements and ScatterElements,
// which have the same rank; the indices select along an axis.
func (c *Inference) wantAlong() error {
	if err := c.wantIndices(1); err != nil {
		return err
	}
	data, indices := c.Shape(0), c.Shape(1)
	if data == nil {
		return nil
	}
	axis, err := Axis(c.Node.Int("axis", 0), len(data))
	if err != nil || indices == nil {
		return err
	}
	if len(indices) != len(data) {
		return fmt.Errorf("data of shape %s and indices of shape %s differ in rank", FormatDims(data), FormatDims(indices))
	}
	for i, d := range indices {
		if i != axis && data[i].Known() && d > data[i] {
			return fmt.Errorf("indices of shape %s exceed data of shape %s along axis %d", FormatDims(indices), FormatDims(data), i)
		}
	}
	return nil
}

func inferGatherElements(c *Inference) error {
	if err := c.wantAlong(); err != nil {
		return err
	}
	shape := c.Shape(1)
	if data := c.Shape(0); shape == nil && data != nil {
		shape = c.Unknown(len(data))
	}
	c.Set(0, c.Type(0), shape)
	return nil
}

func inferGatherND(c *Inference) error {
	n := c.Node
	if n.Since < 12 {
		if err := c.unwanted("batch_dims"); err != nil {
			return err
		}
	}
	if err := c.wantIndices(1); err != nil {
		return err
	}
	data, indices := c.Shape(0), c.Shape(1)
	c.Set(0, c.Type(0), nil)
	if data == nil || indices == nil {
		return nil
	}
	batch := n.Int("batch_dims", 0)
	if batch < 0 || batch >= int64(min(len(data), len(indices))) {
		return fmt.Errorf("attribute batch_dims is %d for data of shape %s and indices of shape %s", batch, FormatDims(data), FormatDims(indices))
	}
	b, last := int(batch), len(indices)-1
	shape := JoinDims(indices[:last])
	for i := range b {
		var err error
		if shape[i], err = Unify(data[i], indices[i]); err != nil {
			return fmt.Errorf("data and indices differ in batch dimension %d: %w", i, err)
		}
	}
	length := indices[last]
	if !length.Known() {
		return nil
	}
	if length < 1 || int(length) > len(data)-b {
		return fmt.Errorf("index tuples of length %d do not fit data of shape %s with batch_dims %d", length, FormatDims(data), b)
	}
	c.Set(0, c.Type(0), JoinDims(shape, data[b+int(length):]))
	return nil
}

func inferCompress(c *Inference) error {
	if t := c.Type(1); t != onnx.Undefined && t != onnx.Bool {
		return fmt.Errorf("condition has elements of type %s, needs bool", t)
	}
	if err := c.wantVector(1); err != nil {
		return err
	}
	count := c.Fresh()
	condition, known := c.Ints(1)
	if known {
		count = 0
		for _, v := range condition {
			if v != 0 {
				count++
			}
		}
	}
	data := c.Shape(0)
	switch {
	case c.Node.Attribute("axis") == nil:
		c.Set(0, c.Type(0), []Dim{count})
	case data == nil:
		c.Set(0, c.Type(0), nil)
	default:
		axis, err := Axis(c.Node.Int("axis", 0), len(data))
		if err != nil {
			return err
		}
		c.Set(0, c.Type(0), replaced(data, axis, count))
	}
	return nil
}

func inferReverseSequence(c *Inference) error {
	batch, time := c.Node.Int("batch_axis", 1), c.Node.Int("time_axis", 0)
	if batch != 0 && batch != 1 || time != 1-batch {
		return fmt.Errorf("attributes batch_axis and time_axis are %d and %d; one must be 0, the other 1", batch, time)
	}
	if err := c.wantParameters(1); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape != nil && len(shape) < 2 {
		return errors.New("input has no batch and time axes")
	}
	if err := c.wantRank(1, 1); err != nil {
		return err
	}
	if lengths := c.Shape(1); shape != nil && lengths != nil {
		if _, err := Unify(shape[batch], lengths[0]); err != nil {
			return fmt.Errorf("sequence lengths do not fit the batch: %w", err)
		}
	}
	return SameAsInput(c)
}
