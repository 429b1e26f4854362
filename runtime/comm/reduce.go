package comm

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Reduction combines the elements of all ranks, in the order of ranks; over NCCL
// in an order that depends on their number and the machine alone.
type Reduction int

const (
	Sum Reduction = iota // of half precision: in float32, rounded once
	Max                  // NaN where one is, but over NCCL
)

// CheckReduction fails for types that cannot be reduced.
func CheckReduction(t onnx.DataType, r Reduction) error {
	if r != Sum && r != Max {
		return fmt.Errorf("reduction %d is not known; there are Sum and Max", r)
	}
	switch t {
	case onnx.Float32, onnx.Float64, onnx.Float16, onnx.BFloat16, onnx.Int64:
		return nil
	}
	return fmt.Errorf("%s cannot be reduced, only float32, float64, float16, bfloat16 and int64", t)
}

// reduce puts the reduction of parts, which are of the same size, into dst,
// which may be one of them.
func reduce(dst []byte, t onnx.DataType, parts [][]byte, r Reduction) {
	switch t {
	case onnx.Float32:
		reduceAs[float32](dst, t, parts, r)
	case onnx.Float64:
		reduceAs[float64](dst, t, parts, r)
	case onnx.Int64:
		reduceAs[int64](dst, t, parts, r)
	default:
		reduceHalf(dst, t, parts, r)
	}
}

// view returns bytes as a tensor of one dimension.
func view(data []byte, t onnx.DataType) *tensor.Tensor {
	return &tensor.Tensor{Type: t, Shape: []int{len(data) / tensor.ByteSize(t, 1)}, Data: data}
}

// tile is how many elements are reduced at a time, which stay in cache.
const tile = 1 << 11

func reduceAs[T float32 | float64 | int64](dst []byte, t onnx.DataType, parts [][]byte, r Reduction) {
	out := tensor.Of[T](view(dst, t))
	in := make([][]T, len(parts))
	for i, p := range parts {
		in[i] = tensor.Of[T](view(p, t))
	}
	sum := make([]T, min(tile, len(out)))
	for lo := 0; lo < len(out); lo += tile {
		sum := sum[:min(tile, len(out)-lo)]
		copy(sum, in[0][lo:])
		for _, x := range in[1:] {
			combine(sum, x[lo:lo+len(sum)], r)
		}
		copy(out[lo:], sum)
	}
}

func combine[T float32 | float64 | int64](sum, x []T, r Reduction) {
	if r == Sum {
		for i, v := range x {
			sum[i] += v
		}
		return
	}
	for i, v := range x {
		sum[i] = max(sum[i], v)
	}
}

func reduceHalf(dst []byte, t onnx.DataType, parts [][]byte, r Reduction) {
	n := len(dst) / 2
	sum, x := make([]float32, min(tile, n)), make([]float32, min(tile, n))
	for lo := 0; lo < n; lo += tile {
		size := min(tile, n-lo)
		sum, x := tensor.FromSlice(sum[:size], size), tensor.FromSlice(x[:size], size)
		at := func(p []byte) *tensor.Tensor { return view(p[2*lo:2*(lo+size)], t) }
		tensor.ConvertFloat(sum, at(parts[0]))
		for _, p := range parts[1:] {
			tensor.ConvertFloat(x, at(p))
			combine(tensor.Of[float32](sum), tensor.Of[float32](x), r)
		}
		tensor.ConvertFloat(at(dst), sum)
	}
}
