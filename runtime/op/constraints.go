package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// The element types that arithmetic on real numbers is defined for in most
// operators.
var floatTypes = []onnx.DataType{onnx.Float32, onnx.Float64, onnx.Float16, onnx.BFloat16}

// typeAmong returns the element type that the given inputs share, Undefined
// where none is known. It fails where two differ, or where the type is not
// among the allowed.
func (c *Inference) typeAmong(allowed []onnx.DataType, inputs ...int) (onnx.DataType, error) {
	t, err := c.sameType(inputs...)
	if err == nil && t != onnx.Undefined && !slices.Contains(allowed, t) {
		err = fmt.Errorf("input %d has elements of type %s, needs one of %v", inputs[0], t, allowed)
	}
	return t, err
}

// wantShape fails where input i is known to have another shape than want.
// A nil want says nothing, and symbols in it fit every dimension.
func (c *Inference) wantShape(i int, want ...Dim) error {
	have := c.Shape(i)
	if have == nil {
		return nil
	}
	fits := len(have) == len(want)
	for j := 0; fits && j < len(want); j++ {
		_, err := Unify(have[j], want[j])
		fits = err == nil
	}
	if !fits {
		return fmt.Errorf("input %d has shape %s, needs %s", i, FormatDims(have), FormatDims(want))
	}
	return nil
}

// wantRank fails where input i is known to have another rank than those
// that are allowed.
func (c *Inference) wantRank(i int, ranks ...int) error {
	if have := c.Shape(i); have != nil && !slices.Contains(ranks, len(have)) {
		return fmt.Errorf("input %d has shape %s, needs rank %v", i, FormatDims(have), ranks)
	}
	return nil
}

// wantBroadcast fails where input i is known not to broadcast to shape
// (ONNX's unidirectional broadcasting).
func (c *Inference) wantBroadcast(i int, shape []Dim) error {
	have := c.Shape(i)
	if have == nil || shape == nil {
		return nil
	}
	fits := len(have) <= len(shape)
	for j := 1; fits && j <= len(have); j++ {
		from, to := have[len(have)-j], shape[len(shape)-j]
		fits = from == 1 || !from.Known() || !to.Known() || from == to
	}
	if !fits {
		return fmt.Errorf("input %d of shape %s does not broadcast to %s", i, FormatDims(have), FormatDims(shape))
	}
	return nil
}
