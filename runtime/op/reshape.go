package op

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// The operators that give the same elements another shape. Their later
// versions added element types, and what is said below.
func init() {
	Register(
		// Reshape, ONNX 5 to 25; version 14 added allowzero.
		Operator{Name: "Reshape", Since: []int{5, 13, 14, 19, 21, 23, 24, 25}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"allowzero"}, Parameters: []int{1}, View: true, Infer: inferReshape, Gradient: sameElementsGradient},
		// Flatten, ONNX 1 to 25: to a matrix, cut at an axis.
		Operator{Name: "Flatten", Since: []int{1, 9, 11, 13, 21, 23, 24, 25}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis"}, View: true, Infer: inferFlatten, Gradient: sameElementsGradient},
		// Squeeze and Unsqueeze, ONNX 1 to 25; version 13 made axes an input.
		Operator{Name: "Squeeze", Since: []int{1, 11, 13, 21, 23, 24, 25}, Inputs: Between(1, 2), Outputs: Exactly(1),
			Attributes: []string{"axes"}, Parameters: []int{1}, View: true, Infer: inferSqueeze, Gradient: sameElementsGradient},
		Operator{Name: "Unsqueeze", Since: []int{1, 11, 13, 21, 23, 24, 25}, Inputs: Between(1, 2), Outputs: Exactly(1),
			Attributes: []string{"axes"}, Parameters: []int{1}, View: true, Infer: inferUnsqueeze, Gradient: sameElementsGradient},
	)
}

// sameElementsGradient is the gradient of operators that change the shape
// alone.
func sameElementsGradient(b *Backward) { b.Set(0, b.Reshape(b.Gradient(0), b.Input(0))) }

func inferReshape(c *Inference) error {
	if c.Node.Since < 14 {
		if err := c.unwanted("allowzero"); err != nil {
			return err
		}
	}
	if err := c.wantParameters(1); err != nil {
		return err
	}
	target := c.numbers(1)
	if target == nil {
		c.Set(0, c.Type(0), c.listed(1))
		return nil
	}
	shape, err := c.reshaped(c.Shape(0), target, c.Node.Int("allowzero", 0) != 0)
	c.Set(0, c.Type(0), shape)
	return err
}

// reshaped returns the shape that Reshape gives to data of the given shape
// (nil when unknown). In target −1 stands for what is left, and 0 for the
// dimension of the same place unless allowZero.
func (c *Inference) reshaped(data []Dim, target []Number, allowZero bool) ([]Dim, error) {
	shape := make([]Dim, len(target), len(target)+1)
	inferred, zero := -1, false
	kept := make([]bool, len(data)) // dimensions that the target copies
	open := false                   // some of the target is not known
	var stated []Dim
	for i, n := range target {
		t := n.Value
		switch {
		case n.Unknown:
			shape[i], open = c.Fresh(), true
		case n.Symbol != 0:
			shape[i] = n.Symbol
			stated = append(stated, shape[i])
		case t == -1 && inferred >= 0:
			return nil, fmt.Errorf("target shape %s has more than one -1", formatNumbers(target))
		case t == -1:
			inferred = i
		case t < 0:
			return nil, fmt.Errorf("target shape %s has a negative dimension", formatNumbers(target))
		case t == 0 && !allowZero && data == nil:
			shape[i] = c.Fresh()
		case t == 0 && !allowZero && i >= len(data):
			return nil, fmt.Errorf("target shape %s copies dimension %d, which data of shape %s lack", formatNumbers(target), i, FormatDims(data))
		case t == 0 && !allowZero:
			shape[i], kept[i] = data[i], true
		default:
			shape[i], zero = Dim(t), zero || t == 0
			stated = append(stated, shape[i])
		}
	}
	if inferred >= 0 && allowZero && zero {
		return nil, fmt.Errorf("target shape %s has both 0 and -1, which allowzero forbids", formatNumbers(target))
	}
	if data == nil || open {
		if inferred >= 0 {
			shape[inferred] = c.Fresh()
		}
		return shape, nil
	}
	if inferred < 0 && slices.Contains(data, 0) && slices.Contains(shape, 0) {
		return shape, nil // no elements on either side
	}
	var rest []Dim
	for i, d := range data {
		if !kept[i] {
			rest = append(rest, d)
		}
	}
	left, err := c.quotient(rest, stated)
	switch {
	case err != nil:
	case inferred >= 0 && slices.Contains(stated, 0):
		err = errors.New("-1 could be anything")
	case inferred >= 0:
		shape[inferred] = left
	case left.Known() && left != 1:
		err = errors.New("the numbers of elements differ")
	}
	if err != nil {
		return nil, fmt.Errorf("data of shape %s cannot take the shape %s: %w", FormatDims(data), formatNumbers(target), err)
	}
	return shape, nil
}

// quotient returns by what the dimensions of b must be multiplied to hold as
// many elements as a.
func (c *Inference) quotient(a, b []Dim) (Dim, error) {
	dividend, divisor := Dim(1), Dim(1)
	var symbols, others []Dim
	for _, d := range a {
		if d.Known() {
			dividend = c.Mul(dividend, d)
		} else {
			symbols = append(symbols, d)
		}
	}
	for _, d := range b {
		if d.Known() {
			divisor = c.Mul(divisor, d)
		} else {
			others = append(others, d)
		}
	}
	switch {
	case dividend == math.MaxInt || divisor == math.MaxInt:
		return 0, errors.New("there are too many elements")
	case divisor == 0 && dividend == 0:
		return 1, nil
	case divisor == 0 && len(symbols) > 0:
		return c.Fresh(), nil
	case divisor == 0:
		return 0, errors.New("the numbers of elements differ")
	case dividend == 0 && len(others) == 0:
		return 0, nil
	case len(symbols)+len(others) > 0:
		if d, ok := c.Symbols.quotient(append(symbols, dividend), append(others, divisor)); ok {
			return d, nil
		}
		return c.Fresh(), nil
	case dividend%divisor != 0:
		return 0, errors.New("the numbers of elements differ")
	}
	return dividend / divisor, nil
}

func inferFlatten(c *Inference) error {
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, c.Type(0), c.Unknown(2))
		return nil
	}
	axis := len(shape)
	if a := c.Node.Int("axis", 1); a != int64(axis) {
		var err error
		if axis, err = Axis(a, len(shape)); err != nil {
			return err
		}
	}
	c.Set(0, c.Type(0), []Dim{c.product(shape[:axis]), c.product(shape[axis:])})
	return nil
}

// wantAxes checks how a node of Squeeze or Unsqueeze gives its axes.
func (c *Inference) wantAxes() error {
	if err := c.wantForm(13, 1, "axes"); err != nil {
		return err
	}
	return c.wantParameters(1)
}

func inferSqueeze(c *Inference) error {
	if err := c.wantAxes(); err != nil {
		return err
	}
	shape := c.Shape(0)
	c.Set(0, c.Type(0), nil)
	given, known := c.AxesInput(1)
	if shape == nil || !known {
		if n := c.Shape(1); shape != nil && len(n) == 1 && n[0] > 0 && int(n[0]) <= len(shape) {
			c.Set(0, c.Type(0), c.Unknown(len(shape)-int(n[0])))
		}
		return nil
	}
	if !c.Has(1) && c.Node.Attribute("axes") == nil {
		var out []Dim
		for _, d := range shape {
			if !d.Known() {
				return nil // it may be 1, so the rank is open
			}
			if d != 1 {
				out = append(out, d)
			}
		}
		c.Set(0, c.Type(0), JoinDims(out))
		return nil
	}
	axes, err := Axes(given, len(shape))
	if err != nil {
		return err
	}
	for _, a := range axes {
		if shape[a].Known() && shape[a] != 1 {
			return fmt.Errorf("axis %d of %s has length %d and cannot be squeezed", a, FormatDims(shape), shape[a])
		}
	}
	c.Set(0, c.Type(0), reducedShape(shape, axes, false))
	return nil
}

func inferUnsqueeze(c *Inference) error {
	if err := c.wantAxes(); err != nil {
		return err
	}
	if !c.Has(1) && c.Node.Attribute("axes") == nil {
		return errors.New("has no axes")
	}
	shape := c.Shape(0)
	given, known := c.AxesInput(1)
	if shape == nil || !known {
		c.Set(0, c.Type(0), nil)
		if n := c.Shape(1); shape != nil && len(n) == 1 && n[0].Known() && n[0] <= maxListedRank {
			c.Set(0, c.Type(0), c.Unknown(len(shape)+int(n[0])))
		}
		return nil
	}
	rank := len(shape) + len(given)
	axes, err := Axes(given, rank)
	if err != nil {
		return err
	}
	out := make([]Dim, 0, rank)
	for next := shape; len(out) < rank; {
		if len(axes) > 0 && axes[0] == len(out) {
			out, axes = append(out, 1), axes[1:]
		} else {
			out, next = append(out, next[0]), next[1:]
		}
	}
	c.Set(0, c.Type(0), JoinDims(out))
	return nil
}
