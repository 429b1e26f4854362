package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestRemoveIdentities(t *testing.T) {
	perm := func(text string, p ...int64) *onnx.Node { return node(t, text, onnx.IntsAttribute("perm", p...)) }
	constants := map[string]*tensor.Tensor{"one": tensor.Scalar[float32](1),
		"start": tensor.FromSlice([]int64{0}), "end": tensor.FromSlice([]int64{4}), "axis": tensor.FromSlice([]int64{2}), "matrix": tensor.FromSlice([]int64{-1, 4}), "same": tensor.FromSlice([]int64{0, -1, 4}), "flat": tensor.FromSlice([]int64{-1, 2}), "back": tensor.FromSlice([]int64{2, -1, 4})}
	for _, c := range []struct {
		name  string
		nodes []*onnx.Node
		want  string
	}{
		{"Identity that is the output", steps(t, "a = Neg(x)\ny = Identity(a)"), "Neg"},
		{"Identity of an input", steps(t, "y = Identity(x)"), ""},
		{"same type", []*onnx.Node{node(t, "a = Cast(x)", onnx.IntAttribute("to", int64(onnx.Float32))), node(t, "y = Neg(a)")}, "Neg"},
		{"same shape", steps(t, "a = Reshape(x, same)\ny = Neg(a)"), "Neg"},
		{"reshaped and back", steps(t, "a = Reshape(x, matrix)\nb = Reshape(a, back)\ny = Neg(b)"), "Neg"},
		{"reshaped three times", steps(t, "a = Reshape(x, flat)\nb = Reshape(a, matrix)\nc = Neg(b)\ny = Reshape(c, back)"), "Reshape Neg Reshape"},
		{"whole axis", steps(t, "a = Slice(x, start, end, axis)\ny = Neg(a)"), "Neg"},
		{"empty part behind", []*onnx.Node{node(t, "e = Slice(x, end, end, axis)"), node(t, "a = Concat(x, e)", onnx.IntAttribute("axis", -1)), node(t, "y = Neg(a)")}, "Neg"},
		{"times 1", steps(t, "a = Mul(one, x)\nb = Div(a, one)\ny = Neg(b)"), "Neg"},
		{"1 divided", steps(t, "a = Div(one, x)\ny = Neg(a)"), "Div Neg"},
		{"no order", []*onnx.Node{perm("a = Transpose(x)", 0, 1, 2), node(t, "y = Neg(a)")}, "Neg"},
		{"Dropout outside training", steps(t, "a = Dropout(x)\ny = Neg(a)"), "Neg"},
	} {
		t.Run(c.name, func(t *testing.T) {
			passCase{inputs: []string{"x float32[2,n,4]"}, outputs: []string{"y float32[2,n,4]"}, constants: constants, nodes: c.nodes, want: c.want}.run(t)
		})
	}
}
