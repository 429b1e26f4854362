package cpu

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// indices calls f for every index into a shape.
func indices(shape []int, f func(index []int)) {
	index := make([]int, len(shape))
	for range tensor.Count(shape) {
		f(index)
		for i := len(index) - 1; i >= 0; i-- {
			if index[i]++; index[i] < shape[i] {
				break
			}
			index[i] = 0
		}
	}
}

// elementAt returns an element, dimensions of length 1 being broadcast and those
// that are missing in front left out.
func elementAt(x []float64, shape, index []int) float64 {
	index = index[len(index)-len(shape):]
	offset := 0
	for i, n := range shape {
		offset *= n
		if n > 1 {
			offset += index[i]
		}
	}
	return x[offset]
}

func TestMatMul(t *testing.T) {
	for _, c := range []struct{ a, b, y []int }{
		{[]int{1, 7}, []int{7, 300}, []int{1, 300}},
		{[]int{5, 700}, []int{700, 33}, []int{5, 33}},
		{[]int{130, 40}, []int{40, 270}, []int{130, 270}},
		{[]int{4, 9, 17}, []int{17, 5}, []int{4, 9, 5}},           // one product of 36 rows
		{[]int{1, 9, 17}, []int{6, 17, 5}, []int{6, 9, 5}},        // one left-hand matrix
		{[]int{2, 1, 3, 4}, []int{5, 4, 2}, []int{2, 5, 3, 2}},    // both broadcast
		{[]int{3, 1, 2, 4}, []int{1, 2, 4, 3}, []int{3, 2, 2, 3}}, // crosswise
		{[]int{2, 3, 0}, []int{0, 4}, []int{2, 3, 4}},             // sums of nothing
		{[]int{2, 0, 3}, []int{3, 4}, []int{2, 0, 4}},
		{[]int{0, 3, 2}, []int{0, 2, 4}, []int{0, 3, 4}},
	} {
		a, b := random[float64](1, c.a...), random[float64](2, c.b...)
		x, w := floats(a), floats(b)
		var want []float64
		indices(c.y, func(index []int) {
			sum, rank := 0.0, len(index)
			for k := range c.a[len(c.a)-1] {
				left, right := slices.Clone(index), slices.Clone(index)
				left[rank-1], right[rank-2] = k, k
				sum += elementAt(x, c.a, left) * elementAt(w, c.b, right)
			}
			want = append(want, sum)
		})
		for _, constant := range []bool{true, false} {
			t.Run(fmt.Sprint(c.a, c.b, constant), func(t *testing.T) {
				n := func() *onnx.Node { return &onnx.Node{OpType: "MatMul", Outputs: []string{"y"}} }
				wantNear(t, "float64", compute(t, 2, constant, n(), 13, a, b)[0], want, 1e-13)
				narrow := as(onnx.Float32, []*tensor.Tensor{a, b})
				one := compute(t, 1, constant, n(), 13, narrow...)[0]
				wantNear(t, "float32", one, want, 1e-5)
				if many := compute(t, 3, constant, n(), 13, narrow...)[0]; !bytes.Equal(one.Data, many.Data) {
					t.Error("three threads give other bits than one")
				}
			})
		}
	}
}

func TestMatMulIntegers(t *testing.T) {
	a := tensor.FromSlice([]int64{1, 2, 3, 4, 1 << 40, 0}, 2, 3)
	b := tensor.FromSlice([]int64{1, 0, 0, 1, -1, 5}, 3, 2)
	got := tensor.Of[int64](compute(t, 1, true, &onnx.Node{OpType: "MatMul", Outputs: []string{"y"}}, 13, a, b)[0])
	if want := []int64{-2, 17, 4, 1 << 40}; !slices.Equal(got, want) {
		t.Errorf("got %d, want %d", got, want)
	}
}

// TestFusedMatMul compares with MatMul on operands that were permuted by hand;
// ONNX Runtime 1.32 gives the same.
func TestFusedMatMul(t *testing.T) {
	for _, c := range []struct {
		transposed, transposedBatch int64
		stored                      []int // the operand as it is given
		order                       []int // its axes in the order of MatMul
	}{
		{0, 0, []int{5, 6, 2, 3}, []int{0, 1, 2, 3}},
		{1, 0, []int{5, 6, 3, 2}, []int{0, 1, 3, 2}},
		{0, 1, []int{2, 5, 6, 3}, []int{1, 2, 0, 3}},
		{1, 1, []int{3, 5, 6, 2}, []int{1, 2, 3, 0}},
	} {
		for operand, side := range []string{"A", "B"} {
			stored := random[float32](4, c.stored...)
			plain := permuted(stored, c.order)
			other := random[float32](5, 6, 3, 2)
			if operand == 1 {
				other = random[float32](6, 5, 1, 4, 2)
			}
			in, reference := []*tensor.Tensor{stored, other}, []*tensor.Tensor{plain, other}
			if operand == 1 {
				slices.Reverse(in)
				slices.Reverse(reference)
			}
			fused := &onnx.Node{Domain: "com.microsoft", OpType: "FusedMatMul", Outputs: []string{"y"}, Attributes: []*onnx.Attribute{
				onnx.IntAttribute("trans"+side, c.transposed), onnx.IntAttribute("transBatch"+side, c.transposedBatch), onnx.FloatAttribute("alpha", 0.5)}}
			want := floats(compute(t, 1, false, &onnx.Node{OpType: "MatMul", Outputs: []string{"y"}}, 13, reference...)[0])
			for i := range want {
				want[i] *= 0.5
			}
			for _, constant := range []bool{true, false} {
				wantNear(t, fmt.Sprint(side, c, constant), compute(t, 2, constant, fused, 1, in...)[0], want, 1e-6)
			}
		}
	}
}

// permuted returns the tensor with its axes in another order.
func permuted(x *tensor.Tensor, order []int) *tensor.Tensor {
	shape := make([]int, len(order))
	for i, axis := range order {
		shape[i] = x.Shape[axis]
	}
	values := floats(x)
	out := make([]float32, 0, len(values))
	indices(shape, func(index []int) {
		from := make([]int, len(order))
		for i, axis := range order {
			from[axis] = index[i]
		}
		out = append(out, float32(elementAt(values, x.Shape, from)))
	})
	return tensor.FromSlice(out, shape...)
}

func TestFusedGemm(t *testing.T) {
	a, b, c := random[float32](1, 3, 5), random[float32](2, 5, 4), random[float32](3, 3, 1)
	plain := floats(compute(t, 1, false, &onnx.Node{OpType: "Gemm", Outputs: []string{"y"}}, 13, a, b, c)[0])
	for name, f := range map[string]func(float64) float64{
		"Relu":        func(x float64) float64 { return max(x, 0) },
		"LeakyRelu":   func(x float64) float64 { return max(x, 0) + 0.3*min(x, 0) },
		"Sigmoid":     func(x float64) float64 { return 1 / (1 + math.Exp(-x)) },
		"Tanh":        math.Tanh,
		"HardSigmoid": func(x float64) float64 { return min(1, max(0, 0.3*x+0.1)) },
	} {
		fused := &onnx.Node{Domain: "com.microsoft", OpType: "FusedGemm", Outputs: []string{"y"}, Attributes: []*onnx.Attribute{
			onnx.StringAttribute("activation", name), onnx.FloatAttribute("activation_alpha", 0.3), onnx.FloatAttribute("activation_beta", 0.1)}}
		want := make([]float64, len(plain))
		for i, x := range plain {
			want[i] = f(x)
		}
		wantNear(t, name, compute(t, 1, true, fused, 1, a, b, c)[0], want, 1e-6)
	}
}

// TestMatMulSharedRows: pieces that share packed rows give the bits of those
// that pack their own, whatever the number of threads.
func TestMatMulSharedRows(t *testing.T) {
	const m, k, n = 150, 700, 1100
	a, b := random[float32](1, m, k), random[float32](2, k, n)
	if p := (product[float32]{a: newStack(a.Shape, []int{0, 1}, nil), b: newStack(b.Shape, []int{0, 1}, nil), packed: []*simd.Packed[float32]{}}); !p.sharesRows(n / 2) {
		t.Fatal("the product is too small")
	}
	want := compute(t, 1, false, nodeOf("MatMul"), 13, a, b)[0]
	one := compute(t, 1, true, nodeOf("MatMul"), 13, a, b)[0]
	wantNear(t, "constant matrix", one, floats(want), 1e-4)
	for _, threads := range []int{2, 4} {
		if got := compute(t, threads, true, nodeOf("MatMul"), 13, a, b)[0]; !bytes.Equal(got.Data, one.Data) {
			t.Errorf("%d threads give other bits than one", threads)
		}
	}
	alone := compute(t, 1, true, nodeOf("MatMul"), 13, tensor.FromSlice(tensor.Of[float32](a)[:k], 1, k), b)[0]
	if !bytes.Equal(alone.Data, one.Data[:len(alone.Data)]) {
		t.Error("a row has other bits among others than alone")
	}
}
