package tensor

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// Float64s returns the elements of a tensor of numbers or booleans as float64
// values, in a new slice. 64-bit integers beyond 2⁵³ are rounded; a complex
// number becomes two values.
func Float64s(t *Tensor) ([]float64, error) {
	switch t.Type {
	case onnx.Float32:
		return toFloat64(Of[float32](t)), nil
	case onnx.Float64:
		return toFloat64(Of[float64](t)), nil
	case onnx.Float16, onnx.BFloat16:
		wide := New(onnx.Float64, t.Shape...)
		ConvertFloat(wide, t)
		return Of[float64](wide), nil
	case onnx.Int64:
		return toFloat64(Of[int64](t)), nil
	case onnx.Uint64:
		return toFloat64(Of[uint64](t)), nil
	case onnx.Complex64:
		parts := *t
		parts.Type = onnx.Float32
		return Float64s(&parts)
	case onnx.Complex128:
		parts := *t
		parts.Type = onnx.Float64
		return Float64s(&parts)
	case onnx.String:
		return nil, fmt.Errorf("tensor of strings has no numbers")
	}
	if t.Type.IsFloat() || t.Type.Bits() < 8 { // the narrow types are compared by their codes
		return toFloat64(t.Data), nil
	}
	ints, err := t.Ints()
	if err != nil {
		return nil, err
	}
	return toFloat64(ints), nil
}

func toFloat64[T float32 | float64 | int64 | uint64 | uint8](v []T) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}
