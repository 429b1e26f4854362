package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestShareCommon(t *testing.T) {
	constants := map[string]*tensor.Tensor{"a0": tensor.FromSlice([]int64{0}), "also0": tensor.FromSlice([]int64{0}), "a1": tensor.FromSlice([]int64{1})}
	alpha := func(text string, v float32) *onnx.Node { return node(t, text, onnx.FloatAttribute("alpha", v)) }
	for _, c := range []struct {
		name  string
		nodes []*onnx.Node
		want  string
	}{
		{"equal chains", steps(t, "a = Abs(x)\nb = Abs(x)\nc = Neg(a)\nd = Neg(b)\ny = Concat(c, d)"), "Abs Neg Concat"},
		{"other order of inputs", steps(t, "n = Neg(x)\na = Sub(x, n)\nb = Sub(n, x)\ny = Concat(a, b)"), "Neg Sub Sub Concat"},
		{"equal attributes", append([]*onnx.Node{alpha("a = Elu(x)", 2), alpha("b = Elu(x)", 2)}, steps(t, "y = Concat(a, b)")...), "Elu Concat"},
		{"other attributes", append([]*onnx.Node{alpha("a = Elu(x)", 2), alpha("b = Elu(x)", 3)}, steps(t, "y = Concat(a, b)")...), "Elu Elu Concat"},
		{"equal constants", steps(t, "a = ReduceSum(x, a0)\nb = ReduceSum(x, also0)\ny = Concat(a, b)"), "ReduceSum Concat"},
		{"other constants", steps(t, "n = Abs(x)\na = CumSum(n, a0)\nb = CumSum(n, a1)\ny = Concat(a, b)"), "Abs CumSum CumSum Concat"},
		{"random numbers", steps(t, "a = RandomNormalLike(x)\nb = RandomNormalLike(x)\nc = Sub(a, a)\nd = Sub(b, b)\ny = Concat(c, d)"),
			"RandomNormalLike RandomNormalLike Sub Sub Concat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := c.nodes[len(c.nodes)-1]
			last.Attributes = append(last.Attributes, onnx.IntAttribute("axis", 0))
			passCase{inputs: []string{"x float32[4,n]"}, outputs: []string{"y float32[m,n]"}, constants: constants, nodes: c.nodes, want: c.want}.run(t)
		})
	}
}
