package cpu

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestGatherGradient compares sums of many runs with a loop in their order, bit
// by bit, for several numbers of threads.
func TestGatherGradient(t *testing.T) {
	for _, c := range []struct{ outer, rows, inner, count int }{
		{1, 100, 64, 5000}, {1, 5000, 33, 100}, {3, 7, 5, 40}, {4, 9, 1, 1000}, {1, 1, 3, 10}, {2, 4, 3, 0},
	} {
		random := rand.New(rand.NewPCG(3, 4))
		x := tensor.New(onnx.Float32, c.outer, c.count, c.inner)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(random.NormFloat64())
		}
		indices := make([]int64, c.count)
		for i := range indices {
			indices[i] = random.Int64N(2*int64(c.rows)) - int64(c.rows)
		}
		want := tensor.New(onnx.Float32, c.outer, c.rows, c.inner)
		for o := range c.outer {
			for i, at := range indices {
				row := (int(at) + c.rows) % c.rows
				for j := range c.inner {
					tensor.Of[float32](want)[(o*c.rows+row)*c.inner+j] += tensor.Of[float32](x)[(o*c.count+i)*c.inner+j]
				}
			}
		}
		for _, threads := range []int{1, 2, 5} {
			n := &onnx.Node{Domain: moe.Domain, OpType: "GatherGradient", Outputs: []string{"y"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", 1)}}
			shape := tensor.FromSlice([]int64{int64(c.outer), int64(c.rows), int64(c.inner)})
			got := compute(t, threads, false, n, 1, x, tensor.FromSlice(indices), shape)[0]
			if !bytes.Equal(got.Data, want.Data) {
				t.Errorf("%+v with %d threads: the sums differ", c, threads)
			}
		}
	}
}

// TestStepDropout: what is dropped depends on seed, layer, step and place, not
// on threads, and is as much as the ratio says.
func TestStepDropout(t *testing.T) {
	const length = 100_003
	x := tensor.New(onnx.Float32, length)
	for i := range tensor.Of[float32](x) {
		tensor.Of[float32](x)[i] = float32(i + 1)
	}
	drop := func(threads int, ratio float32, seed, layer, step int64) []float32 {
		n := &onnx.Node{Domain: moe.Domain, OpType: "Dropout", Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("seed", seed), onnx.IntAttribute("layer", layer)}}
		return tensor.Of[float32](compute(t, threads, false, n, 1, x, tensor.Scalar(ratio), tensor.Scalar(step))[0])
	}
	first := drop(1, 0.25, 5, 6, 7)
	dropped := 0
	for i, v := range first {
		switch v {
		case 0:
			dropped++
		case float32(i+1) * float32(1/0.75):
		default:
			t.Fatalf("element %d is %g, not 0 or %d/0.75", i, v, i+1)
		}
	}
	if share := float64(dropped) / length; share < 0.245 || share > 0.255 {
		t.Errorf("%g of the elements are dropped, not 0.25", share)
	}
	same := func(other []float32) (n int) {
		for i, v := range other {
			if (v == 0) == (first[i] == 0) {
				n++
			}
		}
		return n
	}
	for _, threads := range []int{2, 5} {
		if n := same(drop(threads, 0.25, 5, 6, 7)); n != length {
			t.Errorf("%d threads drop other elements", threads)
		}
	}
	for _, c := range [][3]int64{{6, 6, 7}, {5 + 1<<32, 6, 7}, {5, 7, 7}, {5, 6, 8}} {
		// Two independent choices agree with probability 0.25² + 0.75².
		if share := float64(same(drop(1, 0.25, c[0], c[1], c[2]))) / length; share < 0.615 || share > 0.635 {
			t.Errorf("seed, layer and step %v agree with others on %g of the elements", fmt.Sprint(c), share)
		}
	}
	if whole := drop(2, 0, 5, 6, 7); whole[0] != 1 || whole[length-1] != length {
		t.Error("the ratio 0 changes elements")
	}
}
