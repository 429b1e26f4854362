package train

import (
	"sync"
	"sync/atomic"

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

// sumJob is the number of elements that one goroutine takes at a time.
const sumJob = 1 << 18

// sumsOfSquares returns those of tensors of float32 or float64, 0 for those
// that are nil, added in an order that depends on their lengths alone.
func sumsOfSquares(tensors []*tensor.Tensor, threads int) []float64 {
	type job struct {
		of     int
		lo, hi int
		sum    float64
	}
	var jobs []job
	for i, t := range tensors {
		for lo := 0; t != nil && lo < t.Len(); lo += sumJob {
			jobs = append(jobs, job{of: i, lo: lo, hi: min(lo+sumJob, t.Len())})
		}
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range max(1, min(threads, len(jobs))) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(jobs)); i = next.Add(1) - 1 {
				j := &jobs[i]
				j.sum = sumOfSquares(tensors[j.of], j.lo, j.hi)
			}
		})
	}
	all.Wait()
	sums := make([]float64, len(tensors))
	for _, j := range jobs {
		sums[j.of] += j.sum
	}
	return sums
}

// sumOfSquares returns that of the elements from lo to before hi.
func sumOfSquares(t *tensor.Tensor, lo, hi int) float64 {
	sum := 0.0
	switch t.Type {
	case onnx.Float32:
		x := tensor.Of[float32](t)[lo:hi]
		for len(x) > 0 {
			piece := x[:min(sumPiece, len(x))]
			sum += float64(simd.Dot(piece, piece))
			x = x[len(piece):]
		}
	case onnx.Float64:
		for _, v := range tensor.Of[float64](t)[lo:hi] {
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
