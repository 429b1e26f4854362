package op

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// The operators that write updates into a copy of their first input.
func init() {
	Register(
		// ScatterElements, ONNX 11 to 18, formerly Scatter, ONNX 9: an index
		// for each element. Version 16 added reductions add and mul, 18 max
		// and min.
		Operator{Name: "Scatter", Since: []int{9}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"axis"}, Infer: inferScatterElements, Gradient: scatterGradient},
		Operator{Name: "ScatterElements", Since: []int{11, 13, 16, 18}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"axis", "reduction"}, Infer: inferScatterElements, Gradient: scatterGradient},
		// ScatterND, ONNX 11 to 18: tuples of indices; reductions as above.
		Operator{Name: "ScatterND", Since: []int{11, 13, 16, 18}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"reduction"}, Infer: inferScatterND, Gradient: scatterGradient},
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

// scatterGradient supposes that without a reduction no two updates have the
// same place, as ONNX demands.
func scatterGradient(b *Backward) {
	data, updates, g := b.Input(0), b.Input(2), b.Gradient(0)
	switch b.Node.String("reduction", "none") {
	case "none":
		b.Set(0, b.scattered("none", g, b.Zeros(updates)))
		b.Set(2, b.gathered(g))
	case "add":
		b.Set(0, g)
		b.Set(2, b.gathered(g))
	case "mul":
		// An update's derivative is the product of what is not zero, divided
		// by the update, where no other factor is zero.
		b.Set(0, b.scattered("mul", g, updates))
		if b.Wants(2) {
			zero := b.compare("Equal", updates, 0)
			factors := b.Op("Where", zero, b.Scalar(1, updates), updates)
			count := b.Cast(zero, updates)
			others := b.Op("Sub", b.gathered(b.scattered("add", b.Zeros(data), count)), count)
			product := b.Op("Div", b.gathered(b.Op("Mul", g, b.scattered("mul", data, factors))), factors)
			b.Set(2, b.where(b.compare("Equal", others, 0), product, 0))
		}
	default: // max and min: those that are equal have equal shares
		y := b.Output(0)
		kept, taken := b.Cast(b.Op("Equal", data, y), g), b.Cast(b.Op("Equal", updates, b.gathered(y)), g)
		share := b.Op("Div", g, b.scattered("add", kept, taken))
		b.Set(0, b.Op("Mul", kept, share))
		b.Set(2, b.Op("Mul", taken, b.gathered(share)))
	}
}

// scattered adds a node like the one whose gradient is built.
func (b *Backward) scattered(reduction string, data, updates Value) Value {
	opType, attributes := "ScatterND", []*onnx.Attribute{onnx.StringAttribute("reduction", reduction)}
	if b.Node.OpType != opType {
		opType, attributes = "ScatterElements", append(attributes, onnx.IntAttribute("axis", b.Node.Int("axis", 0)))
	}
	return b.Add(&onnx.Node{OpType: opType, Attributes: attributes}, data, b.Input(1), updates)
}

// gathered takes what a value has at the places of the updates.
func (b *Backward) gathered(v Value) Value {
	if b.Node.OpType == "ScatterND" {
		return b.Op("GatherND", v, b.Input(1))
	}
	return b.Add(&onnx.Node{OpType: "GatherElements", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", b.Node.Int("axis", 0))}}, v, b.Input(1))
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
