package op

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// Gather, ONNX 1 to 13: slices along an axis, chosen by indices.
		Operator{Name: "Gather", Since: []int{1, 11, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferGather},
		// GatherElements, ONNX 11 and 13: an index for each element.
		Operator{Name: "GatherElements", Since: []int{11, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferGatherElements},
		// GatherND, ONNX 11 to 13: tuples of indices; version 12 added
		// batch_dims.
		Operator{Name: "GatherND", Since: []int{11, 12, 13}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"batch_dims"}, Infer: inferGatherND},
		// Compress, ONNX 9 to 28: the slices for which a condition holds.
		Operator{Name: "Compress", Since: []int{9, 11, 28}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferCompress},
		// ReverseSequence, ONNX 10 and 28: turns the first elements of each
		// sequence of a batch around.
		Operator{Name: "ReverseSequence", Since: []int{10, 28}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"batch_axis", "time_axis"}, Infer: inferReverseSequence},
	)
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
