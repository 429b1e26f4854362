package op

import (
	"errors"
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	Register(
		// Range, ONNX 11 and 27: the numbers from start to before limit.
		// Version 27 added 16-bit floats, computed in float32.
		Operator{Name: "Range", Since: []int{11, 27}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"stash_type"}, Parameters: []int{0, 1, 2}, Infer: inferRange},
	)
}

func inferRange(c *Inference) error {
	if s := c.Node.Int("stash_type", 1); s != 1 {
		return fmt.Errorf("attribute stash_type is %d; only 1, float32, is supported", s)
	}
	t, err := c.sameType(0, 1, 2)
	if err != nil {
		return err
	}
	c.Set(0, t, []Dim{c.rangeLength()})
	values := [3]*tensor.Tensor{c.Value(0), c.Value(1), c.Value(2)}
	for i, v := range values {
		if v == nil {
			return nil
		}
		if v.Len() != 1 {
			return fmt.Errorf("input %d has shape %s, needs a scalar", i, tensor.FormatShape(v.Shape))
		}
	}
	count, err := rangeCount(t, values)
	if err != nil {
		return err
	}
	c.Set(0, t, []Dim{count})
	return nil
}

// rangeLength returns the length of a range of which start and limit are not
// known but their difference is.
func (c *Inference) rangeLength() Dim {
	var x [3]Number
	for i := range x {
		list := c.numbers(i)
		if len(list) != 1 {
			return c.Fresh()
		}
		x[i] = list[0]
	}
	if n := c.subtract(x[1], x[0]); x[2] == (Number{Value: 1}) && n.Symbol != 0 {
		return n.Symbol
	}
	return c.Fresh()
}

// rangeCount returns how many numbers there are from start to before limit in
// steps of delta.
func rangeCount(t onnx.DataType, v [3]*tensor.Tensor) (Dim, error) {
	var count float64
	switch t {
	case onnx.Float64:
		count = realCount(tensor.Of[float64](v[0])[0], tensor.Of[float64](v[1])[0], tensor.Of[float64](v[2])[0])
	case onnx.Float32, onnx.Float16, onnx.BFloat16:
		var x [3]float32
		for i := range v {
			wide := tensor.New(onnx.Float32)
			tensor.ConvertFloat(wide, v[i])
			x[i] = tensor.Of[float32](wide)[0]
		}
		count = realCount(x[0], x[1], x[2])
	default:
		var x [3]int64
		for i := range v {
			list, err := v[i].Ints()
			if err != nil {
				return 0, err
			}
			x[i] = list[0]
		}
		return integerCount(x[0], x[1], x[2])
	}
	switch {
	case math.IsNaN(count) || math.IsInf(count, 0) || count > 1<<53:
		return 0, errors.New("start, limit and delta do not give a finite range")
	case count <= 0:
		return 0, nil
	}
	return Dim(count), nil
}

// realCount takes the difference in the elements' own precision and the rest
// in float64, as other runtimes do, so that rounding does not add an element.
func realCount[T float32 | float64](start, limit, delta T) float64 {
	return math.Ceil(float64(limit-start) / float64(delta))
}

// integerCount counts in uint64, which holds every difference of two int64.
func integerCount(start, limit, delta int64) (Dim, error) {
	var distance, step uint64
	switch {
	case delta == 0:
		return 0, errors.New("delta is 0")
	case delta > 0 && limit > start:
		distance, step = uint64(limit)-uint64(start), uint64(delta)
	case delta < 0 && limit < start:
		distance, step = uint64(start)-uint64(limit), -uint64(delta)
	default:
		return 0, nil
	}
	count := (distance-1)/step + 1
	if count > math.MaxInt {
		return math.MaxInt, nil
	}
	return Dim(count), nil
}
