package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestFixTargets(t *testing.T) {
	constants := map[string]*tensor.Tensor{
		"zero": tensor.FromSlice([]int64{0}), "one": tensor.FromSlice([]int64{1}), "rest": tensor.FromSlice([]int64{-1}),
		"heads": tensor.FromSlice([]int64{2, 4}),
	}
	for _, c := range []struct{ name, nodes, want string }{
		{"dimensions that stay", `
			s = Shape(x)
			b = Gather(s, zero)
			n = Gather(s, one)
			target = Concat(b, n, heads)
			y = Reshape(x, target)`, "Reshape"},
		{"a dimension that is left", `
			s = Shape(x)
			n = Gather(s, one)
			target = Concat(rest, n, one)
			y = Reshape(x, target)`, "Reshape"},
		{"two dimensions that move", `
			s = Shape(x)
			b = Gather(s, zero)
			n = Gather(s, one)
			target = Concat(n, b, heads)
			y = Reshape(x, target)`, "Shape Gather Gather Concat Reshape"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes := steps(t, c.nodes)
			for _, n := range nodes {
				if n.OpType == "Concat" {
					n.Attributes = append(n.Attributes, onnx.IntAttribute("axis", 0))
				}
			}
			passCase{inputs: []string{"x float32[batch,n,8]"}, outputs: []string{"y float32[]"},
				constants: constants, nodes: nodes, want: c.want}.run(t)
		})
	}
}
