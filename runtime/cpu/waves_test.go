package cpu

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestWaves: a product has the same bits whether its operands are constant or
// not, transposed or not, whatever the number of threads.
func TestWaves(t *testing.T) {
	for _, s := range []struct{ m, k, n int }{
		{300, 1500, 1100}, // waves of rows, columns and depth
		{2500, 1024, 520},
		{290, 1030, 515},
		{298, 700, 8}, // the last piece has few rows
	} {
		a, b := random[float32](1, s.m, s.k), random[float32](2, s.k, s.n)
		multiply := func(threads int, constant bool, transA, transB int64, a, b *tensor.Tensor) *tensor.Tensor {
			return compute(t, threads, constant, &onnx.Node{Domain: "com.microsoft", OpType: "FusedMatMul", Outputs: []string{"y"},
				Attributes: []*onnx.Attribute{onnx.IntAttribute("transA", transA), onnx.IntAttribute("transB", transB), onnx.FloatAttribute("alpha", 0.5)}}, 1, a, b)[0]
		}
		want := multiply(1, true, 0, 0, a, b)
		for _, threads := range []int{1, 2, 4} {
			for order := range int64(4) {
				transA, transB := order%2, order/2
				x, y := a, b
				if transA == 1 {
					x = permuted(a, []int{1, 0})
				}
				if transB == 1 {
					y = permuted(b, []int{1, 0})
				}
				t.Run(fmt.Sprint(s, threads, transA, transB), func(t *testing.T) {
					if got := multiply(threads, false, transA, transB, x, y); !slices.Equal(got.Data, want.Data) {
						t.Error("other bits than with constant operands")
					}
				})
			}
		}
	}
}
