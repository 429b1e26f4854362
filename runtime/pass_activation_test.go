package runtime_test

import "testing"

func TestRecogniseActivations(t *testing.T) {
	constants := scalars(map[string]float32{"half": 0.5, "one": 1, "two": 2, "three": 3, "root2": 1.41421356, "invroot2": 0.70710678,
		"c": 0.044715, "k": 0.7978845608, "alpha": 1.702, "off": 1.3})
	for _, c := range []struct{ name, nodes, want string }{
		{"GELU of PyTorch's exporters", `
			d = Div(h, root2)
			e = Erf(d)
			s = Add(e, one)
			m = Mul(h, s)
			y = Mul(m, half)`, "Relu Gelu"},
		{"GELU with a product inside", `
			d = Mul(invroot2, h)
			e = Erf(d)
			s = Add(one, e)
			g = Mul(half, h)
			y = Mul(g, s)`, "Relu Gelu"},
		{"GELU halved at the error function", `
			d = Div(h, root2)
			e = Erf(d)
			s = Add(e, one)
			g = Div(s, two)
			y = Mul(g, h)`, "Relu Gelu"},
		{"GELU with another constant", `
			d = Div(h, off)
			e = Erf(d)
			s = Add(e, one)
			m = Mul(h, s)
			y = Mul(m, half)`, "Relu Div Erf Add Mul Mul"},
		{"tanh with a power", `
			p = Pow(h, three)
			q = Mul(c, p)
			r = Add(h, q)
			u = Mul(r, k)
			e = Tanh(u)
			s = Add(e, one)
			g = Mul(half, h)
			y = Mul(g, s)`, "Relu Gelu"},
		{"tanh with products", `
			p = Mul(h, h)
			p3 = Mul(p, h)
			q = Mul(p3, c)
			r = Add(q, h)
			u = Mul(k, r)
			e = Tanh(u)
			s = Add(one, e)
			m = Mul(s, h)
			y = Mul(m, half)`, "Relu Gelu"},
		{"tanh with x outside", `
			p = Mul(h, h)
			q = Mul(p, c)
			r = Add(q, one)
			o = Mul(h, r)
			u = Mul(k, o)
			e = Tanh(u)
			s = Add(one, e)
			m = Mul(s, h)
			y = Mul(m, half)`, "Relu Gelu"},
		{"SiLU", "s = Sigmoid(h)\ny = Mul(h, s)", "Relu Swish"},
		{"SiLU as a quotient", "n = Neg(h)\ne = Exp(n)\ns = Add(e, one)\ny = Div(h, s)", "Relu Swish"},
		{"SiLU of another value", "s = Sigmoid(h)\ny = Mul(x, s)", "Relu Sigmoid Mul"},
		{"quick GELU", "a = Mul(h, alpha)\ns = Sigmoid(a)\ny = Mul(h, s)", "Relu com.microsoft::QuickGelu"},
		{"Mish", "a = Softplus(h)\ns = Tanh(a)\ny = Mul(h, s)", "Relu Mish"},
		{"ONNX Runtime's", "a = microsoft.Gelu(h)\ny = microsoft.FastGelu(a)", "Relu Gelu Gelu"},
	} {
		t.Run(c.name, func(t *testing.T) {
			passCase{inputs: []string{"x float32[2,n]"}, outputs: []string{"y float32[2,n]"}, constants: constants,
				nodes: steps(t, "h = Relu(x)\n"+c.nodes), want: c.want}.run(t)
		})
	}
}
