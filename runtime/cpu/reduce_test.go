package cpu

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// onEveryPool computes a node on pools of several sizes and fails where the
// outcomes differ in a single bit.
func onEveryPool(t *testing.T, n func() *onnx.Node, opset int64, in ...*tensor.Tensor) []*tensor.Tensor {
	t.Helper()
	out := compute(t, 1, false, n(), opset, in...)
	for _, threads := range []int{2, 5} {
		for i, y := range compute(t, threads, false, n(), opset, in...) {
			if !bytes.Equal(y.Data, out[i].Data) {
				t.Errorf("output %d differs between 1 and %d threads", i, threads)
			}
		}
	}
	return out
}

// reductions says what each kind of reduction makes of a list.
var reductions = map[string]func(x []float64) float64{
	"ReduceSum":       sum,
	"ReduceMean":      func(x []float64) float64 { return sum(x) / float64(len(x)) },
	"ReduceSumSquare": func(x []float64) float64 { return sum(mapped(x, func(v float64) float64 { return v * v })) },
	"ReduceL1":        func(x []float64) float64 { return sum(mapped(x, math.Abs)) },
	"ReduceLogSumExp": func(x []float64) float64 { return math.Log(sum(mapped(x, math.Exp))) },
	"ReduceMax": func(x []float64) float64 {
		top := math.Inf(-1)
		for _, v := range x {
			top = math.Max(top, v)
		}
		return top
	},
}

func sum(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}

func mapped(x []float64, f func(float64) float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = f(v)
	}
	return y
}

func TestReduce(t *testing.T) {
	for _, c := range []struct {
		shape []int
		axes  []int64
	}{
		{[]int{}, []int64{}},
		{[]int{1000}, []int64{0}},
		{[]int{70, 130}, []int64{1}},
		{[]int{70, 130}, []int64{0}}, // several blocks of columns
		{[]int{7, 5, 3}, []int64{1}},
		{[]int{7, 5, 3}, []int64{0, 2}},
		{[]int{4, 1, 5, 1, 3}, []int64{1, 2}},
		{[]int{2, 3, 4, 5, 6}, []int64{-1, 0, 2}},
		{[]int{3, 0, 2}, []int64{1}}, // of nothing
		{[]int{3, 0, 2}, []int64{0}}, // nothing
	} {
		x := random[float32](3, c.shape...)
		drop := make([]bool, len(c.shape))
		kept := append([]int{}, c.shape...)
		for _, a := range c.axes {
			a = (a + int64(len(c.shape))) % int64(len(c.shape))
			drop[a], kept[a] = true, 1
		}
		groups := make([][]float64, tensor.Count(kept))
		values := floats(x)
		indices(c.shape, func(index []int) {
			group, all := 0, 0
			for i, at := range index {
				all = all*c.shape[i] + at
				if !drop[i] {
					group = group*kept[i] + at
				}
			}
			groups[group] = append(groups[group], values[all])
		})
		for name, f := range reductions {
			var want []float64
			for _, g := range groups {
				want = append(want, f(g))
			}
			t.Run(fmt.Sprint(name, c.shape, c.axes), func(t *testing.T) {
				node := func() *onnx.Node { return &onnx.Node{OpType: name, Outputs: []string{"y"}} }
				y := onEveryPool(t, node, 20, x, tensor.FromSlice(c.axes))[0]
				for i, v := range floats(y) {
					same := v == want[i] || math.IsNaN(v) && math.IsNaN(want[i])
					if !same && !(math.Abs(v-want[i]) <= 1e-5*max(1, math.Abs(want[i]))) {
						t.Fatalf("element %d is %v, want %v", i, v, want[i])
					}
				}
			})
		}
	}
}

// TestReduceIntegers: integers wrap as their type does and are not rounded on
// the way, and empty sets give what is neutral.
func TestReduceIntegers(t *testing.T) {
	big := int64(1)<<53 + 1
	for _, c := range []struct {
		name string
		in   *tensor.Tensor
		want *tensor.Tensor
	}{
		{"ReduceSum", tensor.FromSlice([]int64{big, 1}), tensor.FromSlice([]int64{big + 1})},
		{"ReduceMax", tensor.FromSlice([]int64{big, big - 1}), tensor.FromSlice([]int64{big})},
		{"ReduceProd", tensor.FromSlice([]int32{1 << 20, 1 << 13}), tensor.FromSlice([]int32{0})},
		{"ReduceMean", tensor.FromSlice([]int32{-3, -4}), tensor.FromSlice([]int32{-3})},
		{"ReduceMax", tensor.FromSlice([]int8{}), tensor.FromSlice([]int8{-128})},
		{"ReduceMin", tensor.FromSlice([]uint8{}), tensor.FromSlice([]uint8{255})},
		{"ReduceMin", tensor.FromSlice([]bool{}), tensor.FromSlice([]bool{true})},
		{"ReduceMax", tensor.FromSlice([]bool{}), tensor.FromSlice([]bool{false})},
		{"ReduceMean", tensor.FromSlice([]int64{}), tensor.FromSlice([]int64{0})},
	} {
		y := compute(t, 1, false, &onnx.Node{OpType: c.name, Outputs: []string{"y"}}, 20, c.in)[0]
		if !bytes.Equal(y.Data, c.want.Data) {
			t.Errorf("%s of %s: bytes %v, want %v", c.name, c.in, y.Data, c.want.Data)
		}
	}
}
