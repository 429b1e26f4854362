package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestRecogniseNormalizations(t *testing.T) {
	constants := scalars(map[string]float32{"eps": 1e-5, "one": 1, "two": 2, "half": 0.5, "minushalf": -0.5})
	constants["w"] = floats([]int{4}, 1, 2, 3, 4)
	constants["b"] = floats([]int{4}, 0.5, -1, 2, 0)
	constants["wide"] = floats([]int{2, 1, 4}, 1, 2, 3, 4, 5, 6, 7, 8)
	const mean = "m = ReduceMean(h)\nd = Sub(h, m)\n"
	for _, c := range []struct{ name, nodes, want string }{
		{"LayerNorm of PyTorch's exporters", mean + `
			s = Pow(d, two)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Sqrt(a)
			q = Div(d, r)
			p = Mul(q, w)
			y = Add(p, b)`, "Relu LayerNormalization"},
		{"without weight and bias", mean + `
			s = Mul(d, d)
			v = ReduceMean(s)
			a = Add(eps, v)
			r = Pow(a, minushalf)
			y = Mul(r, d)`, "Relu LayerNormalization"},
		{"weight and bias first", mean + `
			s = Mul(d, d)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Pow(a, half)
			q = Div(d, r)
			p = Mul(w, q)
			y = Add(b, p)`, "Relu LayerNormalization"},
		{"residual behind", mean + `
			s = Mul(d, d)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Sqrt(a)
			q = Div(d, r)
			p = Mul(q, w)
			y = Add(p, h)`, "Relu LayerNormalization Add"},
		{"weight that differs between rows", mean + `
			s = Mul(d, d)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Sqrt(a)
			q = Div(d, r)
			y = Mul(q, wide)`, "Relu LayerNormalization Mul"},
		{"RMS norm", `
			s = Pow(h, two)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Sqrt(a)
			i = Div(one, r)
			q = Mul(h, i)
			y = Mul(w, q)`, "Relu RMSNormalization"},
		{"RMS norm with Reciprocal", `
			s = Mul(h, h)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Sqrt(a)
			i = Reciprocal(r)
			y = Mul(h, i)`, "Relu RMSNormalization"},
		{"mean square of another value", `
			s = Mul(x, x)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Sqrt(a)
			y = Div(h, r)`, "Mul ReduceMean Add Sqrt Relu Div"},
		{"divided the other way around", `
			s = Mul(h, h)
			v = ReduceMean(s)
			a = Add(v, eps)
			r = Sqrt(a)
			y = Div(r, h)`, "Relu Mul ReduceMean Add Sqrt Div"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes := steps(t, "h = Relu(x)\n"+c.nodes)
			for _, n := range nodes {
				if n.OpType == "ReduceMean" {
					n.Attributes = append(n.Attributes, onnx.IntsAttribute("axes", -1))
				}
			}
			output := "y float32[2,n,4]"
			passCase{inputs: []string{"x float32[2,n,4]"}, outputs: []string{output}, constants: constants, nodes: nodes, want: c.want}.run(t)
		})
	}
}
