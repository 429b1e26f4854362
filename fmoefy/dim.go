package fmoefy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

// dim is a dimension as far as the graph tells it: the product of a number
// and symbols. Equal dims are equal in every run.
type dim struct {
	factor  int64
	symbols string // sorted, joined by "·"
}

func number(n int64) dim { return dim{factor: n} }

func symbol(name string) dim { return dim{factor: 1, symbols: name} }

func (d dim) known() bool { return d.symbols == "" }

func (d dim) is(n int64) bool { return d.known() && d.factor == n }

func axisOf(v string, i int) dim { return symbol(fmt.Sprintf("%s#%d", v, i)) }

// declared returns d as a file states it.
func (d dim) declared() onnx.Dim {
	name, isParam := strings.CutPrefix(d.symbols, "$")
	switch {
	case d.known():
		return onnx.Dim{Known: true, Value: d.factor}
	case isParam && d.factor == 1 && !strings.Contains(name, "·"):
		return onnx.Dim{Param: name}
	}
	return onnx.Dim{}
}

func (d dim) list() []string {
	if d.symbols == "" {
		return nil
	}
	return strings.Split(d.symbols, "·")
}

func product(dims ...dim) dim {
	n, symbols := int64(1), []string(nil)
	for _, d := range dims {
		n *= d.factor
		symbols = append(symbols, d.list()...)
	}
	slices.Sort(symbols)
	return dim{n, strings.Join(symbols, "·")}
}

// over returns d divided by e, and false where that is not a dim.
func (d dim) over(e dim) (dim, bool) {
	if e.factor == 0 || d.factor%e.factor != 0 {
		return dim{}, false
	}
	symbols := d.list()
	for _, s := range e.list() {
		i := slices.Index(symbols, s)
		if i < 0 {
			return dim{}, false
		}
		symbols = slices.Delete(symbols, i, i+1)
	}
	return dim{d.factor / e.factor, strings.Join(symbols, "·")}, true
}

func numbers(list []int64) []dim {
	dims := make([]dim, len(list))
	for i, n := range list {
		dims[i] = number(n)
	}
	return dims
}

// arithmetic computes with two dimensions; only a product is one again where
// they are not numbers.
func arithmetic(opType string, a, b dim) (dim, bool) {
	switch {
	case opType == "Mul":
		return product(a, b), true
	case !a.known() || !b.known() || opType == "Div" && b.factor == 0:
		return dim{}, false
	case opType == "Add":
		return number(a.factor + b.factor), true
	case opType == "Sub":
		return number(a.factor - b.factor), true
	}
	return number(a.factor / b.factor), true
}

// broadcast returns the shape of an elementwise operation that gives value.
func broadcast(a, b []dim, value string) []dim {
	if a == nil || b == nil {
		return nil
	}
	if len(a) < len(b) {
		a, b = b, a
	}
	shape := slices.Clone(a)
	for i, y := range b {
		i += len(a) - len(b)
		switch x := shape[i]; {
		case x == y || y.is(1):
		case x.is(1) || y.known():
			shape[i] = y
		case !x.known():
			shape[i] = axisOf(value, i)
		}
	}
	return shape
}

// gathered returns the shape of Gather's output.
func gathered(data, indices []dim, axis int) []dim {
	if axis < 0 {
		axis += len(data)
	}
	if data == nil || indices == nil || axis < 0 || axis >= len(data) {
		return nil
	}
	return slices.Concat(data[:axis], indices, data[axis+1:])
}
