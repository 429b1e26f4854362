package runtime_test

import (
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestFuseLinear(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	weight := func(shape ...int) *tensor.Tensor {
		x := tensor.New(onnx.Float32, shape...)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(random.NormFloat64())
		}
		return x
	}
	constants := map[string]*tensor.Tensor{"w": weight(6, 6), "v": weight(6, 4), "wide": weight(4, 6), "bias": weight(6), "short": weight(4), "one": weight(1),
		"row": weight(1, 6), "table": weight(1, 5, 6), "batch": weight(2, 6, 6)}
	for _, c := range []struct {
		name, nodes, want string
		first             []*onnx.Attribute // of the first node
	}{
		{"bias", "p = MatMul(x, w)\ny = Add(bias, p)", "ai.fmoe::Linear", nil},
		{"activation", "p = MatMul(x, w)\ny = Relu(p)", "ai.fmoe::Linear", nil},
		{"residual", "p = MatMul(x, w)\ny = Add(p, x)", "ai.fmoe::Linear", nil},
		{"an MLP", `
			p = MatMul(x, v)
			q = Add(p, short)
			g = Gelu(q)
			p2 = MatMul(g, wide)
			q2 = Add(p2, bias)
			n = Neg(x)
			y = Add(q2, n)`, "ai.fmoe::Linear Neg ai.fmoe::Linear", nil},
		{"by ONNX Runtime's names", "p = MatMul(x, w)\ny = microsoft.BiasGelu(p, bias)", "ai.fmoe::Linear", nil},
		{"a bias of its own", "p = MatMul(x, w)\nq = Add(p, bias)\ny = microsoft.FastGelu(q, bias)", "ai.fmoe::Linear com.microsoft::FastGelu", nil},
		{"SiLU in parts", "p = MatMul(x, w)\ns = Sigmoid(p)\ny = Mul(p, s)", "ai.fmoe::Linear", nil},
		{"sum of products", "p = MatMul(x, w)\nq = MatMul(z, w)\ny = Add(p, q)", "MatMul ai.fmoe::Linear", nil},
		{"residual before the activation", "p = MatMul(x, w)\nq = Add(p, x)\ny = Relu(q)", "ai.fmoe::Linear Relu", nil},
		{"nothing to fold", "y = MatMul(x, w)", "MatMul", nil},
		{"another use", "p = MatMul(x, w)\nq = Relu(p)\ny = Mul(p, q)", "MatMul Relu Mul", nil},
		{"twice itself", "p = MatMul(x, w)\ny = Add(p, p)", "MatMul Add", nil},
		{"a scalar is no bias", "p = MatMul(x, w)\ny = Add(p, one)", "MatMul Add", nil},
		{"a table is no residual", "p = MatMul(x, w)\ny = Add(p, table)", "MatMul Add", nil},
		{"a batch of matrices", "p = MatMul(x, batch)\ny = Add(p, bias)", "MatMul Add", nil},
		{"FusedMatMul", "p = microsoft.FusedMatMul(x, w)\ny = Add(p, bias)", "ai.fmoe::Linear", []*onnx.Attribute{onnx.IntAttribute("transB", 1), onnx.FloatAttribute("alpha", 0.5)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes := steps(t, c.nodes)
			nodes[0].Attributes = c.first
			passCase{inputs: []string{"x float32[batch,n,6]", "z float32[batch,n,6]"}, outputs: []string{"y float32[batch,n,6]"}, constants: constants,
				nodes: nodes, want: c.want, opsetVersion: 24}.run(t)
		})
	}
	for _, c := range []struct {
		name, nodes, want string
		first             []*onnx.Attribute // of the first node
	}{
		{"row", "y = Gemm(x, w, bias)", "ai.fmoe::Linear", []*onnx.Attribute{onnx.IntAttribute("transB", 1)}},
		{"row and activation", "p = Gemm(x, w, bias)\ny = Tanh(p)", "ai.fmoe::Linear", []*onnx.Attribute{onnx.FloatAttribute("alpha", 2)}},
		{"weighted row", "p = Gemm(x, w, bias)\ny = Tanh(p)", "Gemm Tanh", []*onnx.Attribute{onnx.FloatAttribute("beta", 2)}},
		{"scalar", "y = Gemm(x, w, one)", "Gemm", nil},
		{"no row", "p = Gemm(x, w)\ny = Add(p, bias)", "ai.fmoe::Linear", []*onnx.Attribute{onnx.FloatAttribute("beta", 2)}},
		{"transposed", "p = Gemm(x, w)\ny = Add(p, bias)", "Gemm Add", []*onnx.Attribute{onnx.IntAttribute("transA", 1)}},
	} {
		t.Run("Gemm/"+c.name, func(t *testing.T) {
			nodes := steps(t, c.nodes)
			nodes[0].Attributes = c.first
			passCase{inputs: []string{"x float32[6,6]"}, outputs: []string{"y float32[6,6]"}, constants: constants,
				nodes: nodes, want: c.want}.run(t)
		})
	}
}
