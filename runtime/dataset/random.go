package dataset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/inspect"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The dimensions that a model leaves open, where nothing else is asked for.
const (
	defaultBatch  = 2 // the first dimension, and those with "batch" in their name
	defaultPast   = 0 // those with "past" in their name: caches are empty
	defaultLength = 8 // all others
)

// maxElements bounds what a mistyped dimension allocates.
const maxElements = 1 << 30

// Random makes values for inputs of a model, the same ones for the same seed.
//
// Dims gives the model's open dimensions by name, or as INPUT:AXIS, such as
// "x:0"; others get a small default. A dimension named "a + b" is the sum.
// Floats are drawn from the standard normal distribution. Integers that select
// from a table are drawn below its size; others are 1, as are booleans: such
// an input is usually a mask.
func Random(m *onnx.Model, inputs []*onnx.ValueInfo, dims map[string]int, seed uint64) (map[string]*tensor.Tensor, error) {
	if err := checkDims(inputs, dims); err != nil {
		return nil, err
	}
	tensors := map[string]*tensor.Tensor{}
	for i, v := range inputs {
		if v.Type == nil || v.Type.Kind != onnx.KindTensor || v.Type.Shape == nil {
			return nil, fmt.Errorf("input %q is %s: its shape is not known, give it as a file", v.Name, v.Type)
		}
		shape := make([]int, len(v.Type.Shape.Dims))
		for axis := range shape {
			shape[axis] = dimension(v, axis, dims)
		}
		if n, err := tensor.CheckedCount(v.Type.ElemType, shape); err != nil || n > maxElements {
			return nil, fmt.Errorf("input %q: a shape of %s is too large", v.Name, tensor.FormatShape(shape))
		}
		bound, ok := inspect.IndexBound(m.Graph, v.Name)
		if !ok {
			bound = 0
		}
		// A generator for each input: what one draws does not depend on others.
		t, err := draw(v.Type.ElemType, shape, bound, rand.New(rand.NewPCG(seed, uint64(i))))
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", v.Name, err)
		}
		tensors[v.Name] = t
	}
	return tensors, nil
}

func axisName(v *onnx.ValueInfo, axis int) string { return fmt.Sprintf("%s:%d", v.Name, axis) }

// checkDims refuses names that no input has.
func checkDims(inputs []*onnx.ValueInfo, dims map[string]int) error {
	var open []string
	for _, v := range inputs {
		if v.Type == nil || v.Type.Shape == nil {
			continue
		}
		for axis, d := range v.Type.Shape.Dims {
			switch {
			case d.Known:
			case d.Param == "":
				open = append(open, axisName(v, axis))
			case !slices.Contains(open, d.Param):
				open = append(open, d.Param)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(dims)) {
		if dims[name] < 0 {
			return fmt.Errorf("dimension %s=%d must not be negative", name, dims[name])
		}
		if slices.Contains(open, name) {
			continue
		}
		if len(open) == 0 {
			return fmt.Errorf("there is no open dimension %q: all of the model's are fixed", name)
		}
		return fmt.Errorf("there is no open dimension %q; the model has %s", name, strings.Join(open, ", "))
	}
	return nil
}

func dimension(v *onnx.ValueInfo, axis int, dims map[string]int) int {
	d := v.Type.Shape.Dims[axis]
	if d.Known {
		return int(d.Value)
	}
	if n, ok := dims[axisName(v, axis)]; ok && d.Param == "" {
		return n
	}
	if n, ok := dims[d.Param]; ok {
		return n
	}
	if parts := strings.Split(d.Param, " + "); len(parts) > 1 {
		sum := 0
		for _, name := range parts {
			sum += named(name, axis, dims)
		}
		return sum
	}
	return named(d.Param, axis, dims)
}

func named(name string, axis int, dims map[string]int) int {
	if n, ok := dims[name]; ok {
		return n
	}
	if n, err := strconv.Atoi(name); err == nil {
		return n
	}
	switch {
	case strings.Contains(name, "past"):
		return defaultPast
	case strings.Contains(name, "batch"), name == "" && axis == 0:
		return defaultBatch
	}
	return defaultLength
}

func draw(t onnx.DataType, shape []int, bound int64, r *rand.Rand) (*tensor.Tensor, error) {
	x := tensor.New(t, shape...)
	if t == onnx.Bool {
		fill(tensor.Of[bool](x), func() bool { return true })
		return x, nil
	}
	if t.IsFloat() {
		wide := tensor.New(onnx.Float32, shape...)
		fill(tensor.Of[float32](wide), func() float32 { return float32(r.NormFloat64()) })
		switch t {
		case onnx.Float32, onnx.Float64, onnx.Float16, onnx.BFloat16:
			tensor.ConvertFloat(x, wide)
			return x, nil
		}
		return nil, fmt.Errorf("random %s is not supported, give it as a file", t)
	}
	integer := func() int64 {
		if bound > 0 {
			return r.Int64N(bound)
		}
		return 1
	}
	switch t {
	case onnx.Int64:
		fillIntegers[int64](x, integer)
	case onnx.Int32:
		fillIntegers[int32](x, integer)
	case onnx.Int16:
		fillIntegers[int16](x, integer)
	case onnx.Int8:
		fillIntegers[int8](x, integer)
	case onnx.Uint64:
		fillIntegers[uint64](x, integer)
	case onnx.Uint32:
		fillIntegers[uint32](x, integer)
	case onnx.Uint16:
		fillIntegers[uint16](x, integer)
	case onnx.Uint8:
		fillIntegers[uint8](x, integer)
	default:
		return nil, fmt.Errorf("random %s is not supported, give it as a file", t)
	}
	return x, nil
}

func fill[T any](values []T, next func() T) {
	for i := range values {
		values[i] = next()
	}
}

func fillIntegers[T int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64](x *tensor.Tensor, next func() int64) {
	fill(tensor.Of[T](x), func() T { return T(next()) })
}
