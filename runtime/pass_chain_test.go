package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestFuseChains(t *testing.T) {
	constants := scalars(map[string]float32{"half": 0.5, "one": 1})
	constants["row"], constants["table"] = tensor.New(onnx.Float32, 6), tensor.New(onnx.Float32, 1, 6)
	for _, c := range []struct{ name, nodes, want string }{
		{"chain", "a = Exp(x)\nb = Mul(a, row)\ny = Add(b, x)", "{Exp Mul Add}"},
		{"used several times", "a = Exp(x)\nb = Sin(a)\nc = Add(b, a)\ny = Sub(c, a)", "{Exp Sin Add Sub}"},
		{"through booleans", "a = Greater(x, half)\nb = Not(a)\ny = Where(b, x, one)", "{Greater Not Where}"},
		{"split by another operator", "a = Exp(x)\nb = Abs(a)\nc = Softmax(b)\nd = Neg(c)\ny = Sqrt(d)", "{Exp Abs} Softmax {Neg Sqrt}"},
		{"used outside too", "a = Exp(x)\nb = Softmax(a)\nc = Sin(a)\ny = Add(b, c)", "Exp Softmax {Sin Add}"},
		{"of another shape", "a = Exp(z)\nb = Neg(a)\nc = Add(x, b)\ny = Abs(c)", "{Exp Neg} {Add Abs}"},
		{"scalars", "a = Abs(s)\nb = Sqrt(a)\ny = Mul(x, b)", "Abs Sqrt Mul"},
		{"limits that are computed", "a = Abs(s)\nb = Exp(x)\nc = Clip(b, a)\ny = Neg(c)", "Abs Exp Clip Neg"},
		{"limits that are constant", "b = Exp(x)\nc = Clip(b, half)\ny = Neg(c)", "{Exp Clip Neg}"},
		{"alone", "y = Exp(x)", "Exp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			passCase{inputs: []string{"x float32[n,6]", "z float32[6]", "s float32[]"}, outputs: []string{"y float32[n,6]"}, constants: constants,
				nodes: steps(t, c.nodes), want: c.want}.run(t)
		})
	}
}
