package op

import (
	"errors"
	"fmt"
)

// The operators that write updates into a copy of their first input.
func init() {
	Register(
		// ScatterElements, ONNX 11 to 18, formerly Scatter, ONNX 9: an index
		// for each element. Version 16 added reductions add and mul, 18 max
		// and min.
		Operator{Name: "Scatter", Since: []int{9}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferScatterElements},
		Operator{Name: "ScatterElements", Since: []int{11, 13, 16, 18}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"axis", "reduction"}, Infer: inferScatterElements},
		// ScatterND, ONNX 11 to 18: tuples of indices; reductions as above.
		Operator{Name: "ScatterND", Since: []int{11, 13, 16, 18}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"reduction"}, Infer: inferScatterND},
		// TensorScatter, ONNX 24: new entries of a key or value cache.
		Operator{Name: "TensorScatter", Since: []int{24}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: []string{"axis", "mode"}, Infer: inferTensorScatter},
	)
}

// wantReduction checks the attribute reduction of a scattering node.
func (c *Inference) wantReduction() error {
	switch {
	case c.Node.Since < 16:
		return c.unwanted("reduction")
	case c.Node.Since < 18:
		return c.Node.wantMode("reduction", "none", "add", "mul")
	}
	return c.Node.wantMode("reduction", "none", "add", "mul", "max", "min")
}

// setUpdated states output 0: what input 0 is, of the type that it shares
// with the updates in the given input.
func (c *Inference) setUpdated(updates int) error {
	t, err := c.sameType(0, updates)
	c.Set(0, t, c.Shape(0))
	return err
}

func inferScatterElements(c *Inference) error {
	if err := c.wantReduction(); err != nil {
		return err
	}
	if err := c.wantAlong(); err != nil {
		return err
	}
	if err := sameShape(c.Shape(1), c.Shape(2)); err != nil {
		return fmt.Errorf("indices and updates differ: %w", err)
	}
	return c.setUpdated(2)
}

// sameShape fails where two shapes are known to differ.
func sameShape(a, b []Dim) error {
	if a == nil || b == nil {
		return nil
	}
	if len(a) != len(b) {
		return fmt.Errorf("shapes are %s and %s", FormatDims(a), FormatDims(b))
	}
	for i := range a {
		if _, err := Unify(a[i], b[i]); err != nil {
			return fmt.Errorf("shapes are %s and %s", FormatDims(a), FormatDims(b))
		}
	}
	return nil
}

func inferScatterND(c *Inference) error {
	if err := c.wantReduction(); err != nil {
		return err
	}
	if err := c.wantIndices(1); err != nil {
		return err
	}
	data, indices := c.Shape(0), c.Shape(1)
	if data != nil && indices != nil {
		last := len(indices) - 1
		if last < 0 {
			return errors.New("indices are a scalar; they need at least one dimension")
		}
		length := indices[last]
		if int(length) > len(data) {
			return fmt.Errorf("index tuples of length %d do not fit data of shape %s", length, FormatDims(data))
		}
		if length.Known() {
			expected := append(indices[:last:last], data[length:]...)
			if err := sameShape(expected, c.Shape(2)); err != nil {
				return fmt.Errorf("updates do not fit indices and data: %w", err)
			}
		}
	}
	return c.setUpdated(2)
}

func inferTensorScatter(c *Inference) error {
	if err := c.Node.wantMode("mode", "linear", "circular"); err != nil {
		return err
	}
	if err := c.wantParameters(2); err != nil {
		return err
	}
	cache, update := c.Shape(0), c.Shape(1)
	if cache == nil {
		return c.setUpdated(1)
	}
	axis, err := Axis(c.Node.Int("axis", -2), len(cache))
	if err != nil {
		return err
	}
	if axis == 0 {
		return errors.New("attribute axis is the batch dimension")
	}
	if update != nil {
		if len(update) != len(cache) {
			return fmt.Errorf("cache of shape %s and update of shape %s differ in rank", FormatDims(cache), FormatDims(update))
		}
		if cache[axis].Known() && update[axis] > cache[axis] {
			return fmt.Errorf("update of shape %s exceeds the cache of shape %s", FormatDims(update), FormatDims(cache))
		}
		if err := sameShape(cache, replaced(update, axis, cache[axis])); err != nil {
			return fmt.Errorf("cache and update differ beside axis %d: %w", axis, err)
		}
	}
	if starts := c.Shape(2); starts != nil {
		if len(starts) != 1 {
			return fmt.Errorf("write_indices have the shape %s, must have one element for each entry of the batch", FormatDims(starts))
		}
		if _, err := Unify(starts[0], cache[0]); err != nil {
			return fmt.Errorf("write_indices do not fit the batch: %w", err)
		}
	}
	return c.setUpdated(1)
}
