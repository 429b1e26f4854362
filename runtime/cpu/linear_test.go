package cpu

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestLinear compares with a product, a sum, an activation and another sum, one
// after the other.
func TestLinear(t *testing.T) {
	for _, c := range []struct{ x, residual, y []int }{
		{[]int{1, 7}, nil, []int{1, 33}},
		{[]int{7}, []int{33}, []int{33}},
		{[]int{5, 70}, []int{5, 270}, []int{5, 270}},
		{[]int{2, 3, 65, 40}, []int{2, 3, 65, 600}, []int{2, 3, 65, 600}},
		{[]int{1, 9, 17}, []int{6, 9, 5}, []int{6, 9, 5}}, // the product is repeated
		{[]int{6, 9, 17}, []int{9, 1}, []int{6, 9, 5}},    // the residual is repeated
		{[]int{3, 17}, []int{2, 1, 1}, []int{2, 3, 5}},    // both are
		{[]int{3, 17}, []int{1, 3, 5}, []int{1, 3, 5}},    // neither is, but ranks differ
		{[]int{4, 0}, []int{4, 3}, []int{4, 3}},           // sums of nothing
		{[]int{0, 4}, []int{1, 3}, []int{0, 3}},
		{[]int{1, 4}, []int{0, 3}, []int{0, 3}},
	} {
		k, n := c.x[len(c.x)-1], c.y[len(c.y)-1]
		x, bias := random[float64](1, c.x...), random[float64](3, n)
		var residual *tensor.Tensor
		if c.residual != nil {
			residual = random[float64](4, c.residual...)
		}
		for _, o := range []struct {
			alpha      float32
			transposed bool
			bias       bool
			activation string // of ONNX
			name       moe.Activation
		}{
			{1, false, false, "", moe.Identity},
			{1, false, true, "Gelu", moe.GELU},
			{0.5, true, true, "Relu", moe.ReLU},
			{0.3, false, false, "Swish", moe.SiLU},
			{1, true, true, "HardSwish", moe.HardSwish},
		} {
			t.Run(fmt.Sprint(c.x, c.residual, o), func(t *testing.T) {
				w := random[float64](2, k, n)
				stored, transposed := w, int64(0)
				if o.transposed {
					stored, transposed = permuted(w, []int{1, 0}), 1
				}
				in := []*tensor.Tensor{x, stored, nil, residual}
				if o.bias {
					in[2] = bias
				}
				attributes := []*onnx.Attribute{onnx.FloatAttribute("alpha", o.alpha), onnx.IntAttribute("transB", transposed),
					onnx.StringAttribute("activation", string(o.name))}
				run := func(threads int, constant bool, in []*tensor.Tensor) *tensor.Tensor {
					t.Helper()
					n := &onnx.Node{Domain: moe.Domain, OpType: "Linear", Outputs: []string{"y"}, Attributes: attributes}
					return compute(t, threads, constant, n, 1, in...)[0]
				}
				for _, elements := range []onnx.DataType{onnx.Float32, onnx.Float64} {
					in := as(elements, in)
					want := linearReference(t, o.alpha, o.activation, in[0], as(elements, []*tensor.Tensor{w})[0], in[2], in[3])
					one := run(1, true, in)
					if got := tensor.FormatShape(one.Shape); got != tensor.FormatShape(c.y) {
						t.Fatalf("shape %s, want %s", got, tensor.FormatShape(c.y))
					}
					wantNear(t, elements.String(), one, floats(want), 1e-6)
					wantNear(t, "variable weight", run(1, false, in), floats(want), 1e-6)
					if many := run(3, true, in); !bytes.Equal(one.Data, many.Data) {
						t.Error("three threads give other bits than one")
					}
				}
			})
		}
	}
}

func linearReference(t *testing.T, alpha float32, activation string, x, w, bias, residual *tensor.Tensor) *tensor.Tensor {
	t.Helper()
	one := func(domain, opType string, opset int64, attributes []*onnx.Attribute, in ...*tensor.Tensor) *tensor.Tensor {
		return compute(t, 1, true, &onnx.Node{Domain: domain, OpType: opType, Outputs: []string{"y"}, Attributes: attributes}, opset, in...)[0]
	}
	y := one("com.microsoft", "FusedMatMul", 1, []*onnx.Attribute{onnx.FloatAttribute("alpha", alpha)}, x, w)
	if bias != nil {
		y = one("", "Add", 14, nil, y, bias)
	}
	if activation != "" {
		y = one("", activation, 24, nil, y)
	}
	if residual != nil {
		y = one("", "Add", 14, nil, y, residual)
	}
	return y
}
