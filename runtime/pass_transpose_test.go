package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestFoldTransposes(t *testing.T) {
	const fused = "com.microsoft::FusedMatMul"
	perm := func(axes ...int64) []*onnx.Attribute { return []*onnx.Attribute{onnx.IntsAttribute("perm", axes...)} }
	for _, c := range []struct {
		name, nodes, want string
		first, last       []*onnx.Attribute // of those nodes
	}{
		{"weight", "t = Transpose(w)\ny = MatMul(x, t)", fused, nil, nil},
		{"weight by name", "t = Transpose(w)\ny = MatMul(x, t)", fused, perm(1, 0), nil},
		{"twice", "t = Transpose(w)\ny = microsoft.FusedMatMul(x, t)", fused, perm(1, 0), []*onnx.Attribute{onnx.IntAttribute("transB", 1), onnx.FloatAttribute("alpha", 2)}},
		{"left", "t = Transpose(x)\ny = MatMul(t, w)", fused, perm(0, 2, 1), nil},
		{"batch", "t = Transpose(x)\ny = MatMul(t, w)", "Transpose MatMul", perm(1, 0, 2), nil},
		{"another use", "t = Transpose(w)\np = MatMul(x, t)\ny = MatMul(p, t)", fused + " " + fused, nil, nil},
		{"Gemm", "t = Transpose(w)\ny = Gemm(v, t, w)", "Gemm", nil, []*onnx.Attribute{onnx.FloatAttribute("beta", 2)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes := steps(t, c.nodes)
			nodes[0].Attributes = c.first
			nodes[len(nodes)-1].Attributes = c.last
			passCase{inputs: []string{"x float32[6,6,6]", "w float32[6,6]", "v float32[6,6]"}, outputs: []string{"y float32[]"}, nodes: nodes, want: c.want}.run(t)
		})
	}
}
