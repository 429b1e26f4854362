package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, name := range []string{"Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"} {
		register("", name, newElementwise)
	}
	registerAnyType("", "Where", newWhere)

	defineOrder[int8]()
	defineOrder[int16]()
	defineOrder[int32]()
	defineOrder[int64]()
	defineOrder[uint8]()
	defineOrder[uint16]()
	defineOrder[uint32]()
	defineOrder[uint64]()
	defineOrder[float32]()
	defineOrder[float64]()

	define[bool]("Equal", overTwo(eachPair(func(x, y bool) bool { return x == y })))
	elementwise["Equal"][onnx.String] = overTwoOf(stringsOf, stringsOf, tensor.Of[bool],
		eachPair(func(x, y string) bool { return x == y }))
	define[bool]("And", overTwo(eachPair(func(x, y bool) bool { return x && y })))
	define[bool]("Or", overTwo(eachPair(func(x, y bool) bool { return x || y })))
	define[bool]("Xor", overTwo(eachPair(func(x, y bool) bool { return x != y })))
	define[bool]("Not", overOne(each(func(x bool) bool { return !x })))
	defineClassify[float32]()
	defineClassify[float64]()
}

func defineOrder[T number]() {
	define[T]("Equal", overTwo(equal[T]))
	define[T]("Greater", overTwo(greater[T]))
	define[T]("Less", overTwo(func(out []bool, x, y []T) { greater(out, y, x) }))
	define[T]("GreaterOrEqual", overTwo(greaterOrEqual[T]))
	define[T]("LessOrEqual", overTwo(func(out []bool, x, y []T) { greaterOrEqual(out, y, x) }))
}

func equal[T number](out []bool, x, y []T) {
	x, y = x[:len(out)], y[:len(out)]
	for i := range out {
		out[i] = x[i] == y[i]
	}
}

func greater[T number](out []bool, x, y []T) {
	x, y = x[:len(out)], y[:len(out)]
	for i := range out {
		out[i] = x[i] > y[i]
	}
}

func greaterOrEqual[T number](out []bool, x, y []T) {
	x, y = x[:len(out)], y[:len(out)]
	for i := range out {
		out[i] = x[i] >= y[i]
	}
}

func defineClassify[T float]() {
	define[T]("IsNaN", overOne(each(func(x T) bool { return x != x })))
	define[T]("IsInf", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		negative, positive := n.Int("detect_negative", 1) != 0, n.Int("detect_positive", 1) != 0
		return overOne(each(func(x T) bool {
			return negative && math.IsInf(float64(x), -1) || positive && math.IsInf(float64(x), 1)
		}))(d, n, c)
	})
}

// newWhere chooses between elements by their width, whatever their type.
func newWhere(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		t := c.Out[0].Type
		switch {
		case t == onnx.String:
			return bindWhere(d, c, stringsOf)
		case t.Bits() == 8:
			return bindWhere(d, c, tensor.Of[uint8])
		case t.Bits() == 16:
			return bindWhere(d, c, tensor.Of[uint16])
		case t.Bits() == 32:
			return bindWhere(d, c, tensor.Of[uint32])
		case t.Bits() == 64:
			return bindWhere(d, c, tensor.Of[uint64])
		case t.Bits() == 128:
			return bindWhere(d, c, tensor.Of[complex128])
		}
		return nil, device.UnsupportedType(t)
	}), nil
}

func bindWhere[T any](d *Device, c *device.Call, elements func(*tensor.Tensor) []T) (func() error, error) {
	walk, err := newBroadcast(c.Out[0].Shape, c.In[0].Shape, c.In[1].Shape, c.In[2].Shape)
	if err != nil {
		return nil, err
	}
	conditions, lefts, rights := newOperands[bool](d, walk, 0), newOperands[T](d, walk, 1), newOperands[T](d, walk, 2)
	body := func(lo, hi int) {
		condition := conditions.take(tensor.Of[bool](c.In[0]))
		left, right := lefts.take(elements(c.In[1])), rights.take(elements(c.In[2]))
		out := elements(c.Out[0])
		for lo < hi {
			n := walk.piece(lo, hi)
			choose(out[lo:lo+n], condition.at(lo, n), left.at(lo, n), right.at(lo, n))
			lo += n
		}
		conditions.give(condition)
		lefts.give(left)
		rights.give(right)
	}
	return d.overElements(c.Out[0], body), nil
}

// choose reads both operands, so that numbers are chosen without a branch that
// nobody could foretell.
func choose[T any](out []T, condition []bool, a, b []T) {
	condition, a, b = condition[:len(out)], a[:len(out)], b[:len(out)]
	for i, first := range condition {
		x, y := a[i], b[i]
		if first {
			y = x
		}
		out[i] = y
	}
}
