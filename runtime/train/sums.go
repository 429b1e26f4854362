package train

import (
	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// sumPiece is the number of elements whose squares are added in float32.
const sumPiece = 1 << 10

// inFloat32 returns a tensor in float32 if it is of a narrower type.
func inFloat32(t *tensor.Tensor) *tensor.Tensor {
	if t.Type == onnx.Float32 || t.Type == onnx.Float64 {
		return t
	}
	wide := tensor.New(onnx.Float32, t.Shape...)
	tensor.ConvertFloat(wide, t)
	return wide
}

// sumOfSquares returns that of all elements of float32 or float64, added in an
// order that depends on their number alone.
func sumOfSquares(t *tensor.Tensor) float64 {
	sum := 0.0
	switch t.Type {
	case onnx.Float32:
		x := tensor.Of[float32](t)
		for lo := 0; lo < len(x); lo += sumPiece {
			piece := x[lo:min(lo+sumPiece, len(x))]
			sum += float64(simd.Dot(piece, piece))
		}
	case onnx.Float64:
		for _, v := range tensor.Of[float64](t) {
			sum += v * v
		}
	}
	return sum
}

// addTo adds to a tensor of float32 or float64 another one of its type and
// shape.
func addTo(sum, x *tensor.Tensor) {
	switch sum.Type {
	case onnx.Float32:
		simd.Axpy(1, tensor.Of[float32](x), tensor.Of[float32](sum))
	case onnx.Float64:
		s := tensor.Of[float64](sum)
		for i, v := range tensor.Of[float64](x) {
			s[i] += v
		}
	}
}
