package cpu

import (
	"fmt"
	"math"
	"math/cmplx"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestDFT compares with the sum that defines the transform, for lengths with
// all kinds of factors, and turns it back.
func TestDFT(t *testing.T) {
	for _, length := range []int{1, 2, 3, 7, 8, 12, 31, 45, 64, 400} {
		x := random[float64](1, 2, length, 3, 2)
		axis, size := tensor.Scalar(int64(1)), tensor.Scalar(int64(length))
		node := func(attributes ...*onnx.Attribute) func() *onnx.Node {
			return func() *onnx.Node {
				return &onnx.Node{OpType: "DFT", Outputs: []string{"y"}, Attributes: attributes}
			}
		}
		values := floats(x)
		at := func(b, k, j int) complex128 {
			i := ((b*length+k)*3 + j) * 2
			return complex(values[i], values[i+1])
		}
		want := make([]float64, len(values))
		indices([]int{2, length, 3}, func(index []int) {
			sum := complex(0, 0)
			for k := range length {
				angle := -2 * math.Pi * float64(k*index[1]%length) / float64(length)
				sum += at(index[0], k, index[2]) * cmplx.Rect(1, angle)
			}
			i := ((index[0]*length+index[1])*3 + index[2]) * 2
			want[i], want[i+1] = real(sum), imag(sum)
		})
		y := onEveryPool(t, node(), 20, x, size, axis)[0]
		wantNear(t, fmt.Sprint("transform of ", length), y, want, 1e-12)
		back := compute(t, 1, false, node(onnx.IntAttribute("inverse", 1))(), 20, y, size, axis)[0]
		wantNear(t, fmt.Sprint("inverse of ", length), back, values, 1e-12)
	}
}

// TestDFTOfReal: a real signal gives half of the bins, from which it comes
// back; where the length differs, it is cut or filled up with zeros.
func TestDFTOfReal(t *testing.T) {
	half := onnx.IntAttribute("onesided", 1)
	for _, length := range []int{6, 7, 10} {
		x := random[float64](1, 1, 7, 1)
		size := tensor.Scalar(int64(length))
		bins := compute(t, 1, false, &onnx.Node{OpType: "DFT", Outputs: []string{"y"}, Attributes: []*onnx.Attribute{half}}, 20, x, size)[0]
		if got := fmt.Sprint(bins.Shape); got != fmt.Sprint([]int{1, length/2 + 1, 2}) {
			t.Errorf("shape %s for length %d", got, length)
		}
		back := compute(t, 1, false, &onnx.Node{OpType: "DFT", Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{half, onnx.IntAttribute("inverse", 1)}}, 20, bins, size)[0]
		want := make([]float64, length)
		copy(want, floats(x))
		wantNear(t, fmt.Sprint("signal of ", length), back, want, 1e-12)
	}
}

// TestSTFT: it is the DFT of each frame times the window.
func TestSTFT(t *testing.T) {
	const length, frame, step = 50, 12, 5
	x, window := random[float32](1, 2, length, 1), random[float32](2, frame)
	node := func() *onnx.Node { return &onnx.Node{OpType: "STFT", Outputs: []string{"y"}} }
	y := onEveryPool(t, node, 17, x, tensor.Scalar(int64(step)), window)[0]
	var want []float64
	for b := range 2 {
		for start := 0; start+frame <= length; start += step {
			part := make([]float32, frame)
			for i := range part {
				part[i] = tensor.Of[float32](x)[b*length+start+i] * tensor.Of[float32](window)[i]
			}
			bins := compute(t, 1, false, &onnx.Node{OpType: "DFT", Outputs: []string{"y"},
				Attributes: []*onnx.Attribute{onnx.IntAttribute("onesided", 1)}}, 17, tensor.FromSlice(part, 1, frame, 1))[0]
			want = append(want, floats(bins)...)
		}
	}
	wantNear(t, "STFT", y, want, 0)
}
