package op

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Number is an integer as it is known before a run: a value, a symbol that is
// a dimension (and so not negative), or nothing.
type Number struct {
	Value   int64
	Symbol  Dim // 0 for none
	Unknown bool
}

var unknownNumber = Number{Unknown: true}

func numberOf(d Dim) Number {
	if d.Known() {
		return Number{Value: int64(d)}
	}
	return Number{Symbol: d}
}

// dim returns a number as a dimension, a fresh symbol where it is unknown.
func (c *Inference) dim(n Number) Dim {
	switch {
	case n.Unknown:
		return c.Fresh()
	case n.Symbol != 0:
		return n.Symbol
	}
	return Dim(n.Value)
}

func formatNumbers(list []Number) string {
	out := make([]any, len(list))
	for i, n := range list {
		if out[i] = n.Value; n.Unknown || n.Symbol != 0 {
			out[i] = "?"
		}
	}
	return fmt.Sprint(out)
}

// numbers returns what is known of the elements of an integer input; nil where
// that is nothing.
func (c *Inference) numbers(i int) []Number {
	if i >= len(c.Inputs) {
		return nil
	}
	f := c.Inputs[i]
	if f.Value == nil {
		return f.Numbers
	}
	ints, known := c.Ints(i)
	if !known {
		return nil
	}
	list := make([]Number, len(ints))
	for i, v := range ints {
		list[i] = Number{Value: v}
	}
	return list
}

// few returns the numbers of an input that does not have many.
func (c *Inference) few(i int) []Number {
	if v := c.Value(i); v != nil && v.Len() > maxListedRank {
		return nil
	}
	return c.numbers(i)
}

// dimensions returns the shape that an input states, nil where not even its
// rank is known.
func (c *Inference) dimensions(i int) ([]Dim, error) {
	list := c.numbers(i)
	if list == nil {
		return c.listed(i), nil
	}
	shape := make([]Dim, len(list), len(list)+1)
	for i, n := range list {
		if n.Value < 0 {
			return nil, fmt.Errorf("shape %s has a negative dimension", formatNumbers(list))
		}
		shape[i] = c.dim(n)
	}
	return shape, nil
}

// inferNumbers follows the dimensions of shapes through the operators with
// which exporters compute other shapes from them.
func (c *Inference) inferNumbers() {
	if len(c.Outputs) != 1 || c.Outputs[0].Value != nil || len(c.Outputs[0].Shape) > 1 || c.Node.Operator.Domain != "" {
		return
	}
	out := &c.Outputs[0]
	if out.Type != onnx.Int64 && out.Type != onnx.Int32 && out.Type != onnx.Bool || out.Shape == nil {
		return
	}
	count := Dim(1)
	if len(out.Shape) == 1 {
		count = out.Shape[0]
	}
	if !count.Known() || count > maxListedRank {
		return
	}
	list := c.computed(int(count))
	if len(list) != int(count) {
		return
	}
	known, useful := true, false
	for _, n := range list {
		known = known && !n.Unknown && n.Symbol == 0
		useful = useful || !n.Unknown
	}
	if !useful {
		return
	}
	out.Numbers = list
	if known && out.Type == onnx.Int64 {
		out.Value = tensor.New(onnx.Int64, out.Ints()...)
		for i, n := range list {
			tensor.Of[int64](out.Value)[i] = n.Value
		}
	}
}

// computed returns the elements of the node's output, of which there are
// count, or a list of another length where nothing is known.
func (c *Inference) computed(count int) (list []Number) {
	a, b := c.few(0), c.few(1)
	switch c.Node.OpType {
	case "Shape":
		shape := c.Shape(0)
		if shape == nil {
			return nil
		}
		lo, hi := ShapeRange(c.Node, len(shape))
		for _, d := range shape[lo:hi] {
			list = append(list, numberOf(d))
		}
	case "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten":
		return a
	case "Cast":
		if c.Outputs[0].Type != onnx.Bool && (c.Type(0) == onnx.Int64 || c.Type(0) == onnx.Int32) {
			return a
		}
	case "Gather":
		for _, n := range b {
			at := n.Value
			if at < 0 {
				at += int64(len(a))
			}
			if n.Unknown || n.Symbol != 0 || at < 0 || at >= int64(len(a)) {
				return nil
			}
			list = append(list, a[at])
		}
	case "Concat":
		for i := range c.Inputs {
			part, shape := c.few(i), c.Shape(i)
			if part == nil && len(shape) == 1 && shape[0].Known() && shape[0] <= maxListedRank {
				part = make([]Number, shape[0])
				for i := range part {
					part[i] = unknownNumber
				}
			}
			if list = append(list, part...); len(list) > count {
				return nil
			}
		}
	case "Slice":
		strides, err := SliceStrides(c.Node, Dims(len(a)), c.Ints)
		if err != nil || len(strides) != 1 {
			return nil
		}
		for i := range int(strides[0].Length) {
			list = append(list, a[strides[0].Start+i*strides[0].Step])
		}
	case "Add", "Sub", "Mul", "Div", "Equal":
		return combined(count, a, b, map[string]func(x, y Number) Number{
			"Add": c.add, "Sub": c.subtract, "Mul": c.multiply, "Div": c.divide, "Equal": equal}[c.Node.OpType])
	case "Where":
		condition := a
		a, b = b, c.few(2)
		for i := range count {
			x, y, ok := element(a, i), element(b, i), element(condition, i)
			switch {
			case ok.Unknown || ok.Symbol != 0:
				x = unknownNumber
			case ok.Value == 0:
				x = y
			}
			list = append(list, x)
		}
	}
	return list
}

// element returns element i of a list that one element may stand for.
func element(list []Number, i int) Number {
	switch {
	case len(list) == 1:
		return list[0]
	case i < len(list):
		return list[i]
	}
	return unknownNumber
}

func combined(count int, a, b []Number, f func(x, y Number) Number) (list []Number) {
	for i := range count {
		x, y := element(a, i), element(b, i)
		if x.Unknown || y.Unknown {
			list = append(list, unknownNumber)
		} else {
			list = append(list, f(x, y))
		}
	}
	return list
}

// small bounds numbers with which arithmetic cannot overflow.
const small = math.MaxInt32

func (n Number) small() bool { return n.Symbol == 0 && n.Value > -small && n.Value < small }

// dimension reports whether a number may be a dimension.
func (n Number) dimension() bool { return !n.Unknown && n.Value >= 0 && n.Value < small }

func (c *Inference) add(x, y Number) Number {
	switch {
	case x.small() && y.small():
		return Number{Value: x.Value + y.Value}
	case x.dimension() && y.dimension():
		return numberOf(c.Add(c.dim(x), c.dim(y)))
	}
	return unknownNumber
}

func (c *Inference) subtract(x, y Number) Number {
	if x.small() && y.small() {
		return Number{Value: x.Value - y.Value}
	}
	if x.dimension() && y.dimension() {
		if y == (Number{}) {
			return x
		}
		if d, ok := c.Symbols.difference(c.dim(x), c.dim(y)); ok {
			return numberOf(d)
		}
	}
	return unknownNumber
}

func (c *Inference) multiply(x, y Number) Number {
	switch {
	case x.small() && y.small():
		return Number{Value: x.Value * y.Value}
	case x.dimension() && y.dimension():
		return numberOf(c.Mul(c.dim(x), c.dim(y)))
	}
	return unknownNumber
}

func (c *Inference) divide(x, y Number) Number {
	switch {
	case x.small() && y.small() && y.Value != 0:
		return Number{Value: x.Value / y.Value}
	case x.dimension() && y.dimension() && x != (Number{}) && y != (Number{}):
		if d, ok := c.Symbols.quotient([]Dim{c.dim(x)}, []Dim{c.dim(y)}); ok {
			return numberOf(d)
		}
	}
	return unknownNumber
}

// equal is 1 or 0, where that is known. Symbols are not negative.
func equal(x, y Number) Number {
	switch {
	case x == y:
		return Number{Value: 1}
	case x.Symbol == 0 && y.Symbol == 0, x.Symbol != 0 && y.Value < 0, y.Symbol != 0 && x.Value < 0:
		return Number{}
	}
	return unknownNumber
}
