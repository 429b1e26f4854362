package op

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestInferProducts(t *testing.T) {
	attributes := func(names ...string) (list []*onnx.Attribute) {
		for _, n := range names {
			list = append(list, onnx.IntAttribute(n, 1))
		}
		return list
	}
	f := func(shape ...Dim) Fact { return Fact{Type: onnx.Float32, Shape: shape} }
	scalar := Fact{Type: onnx.Float32, Shape: []Dim{}}
	unknown := Fact{Type: onnx.Float32}
	const n = -1
	for _, c := range []struct {
		name       string
		domain     string
		attributes []*onnx.Attribute
		opset      int64
		inputs     []Fact
		want       string
		fails      string
	}{
		{name: "MatMul", inputs: []Fact{f(2, 3), f(3, 4)}, want: "[2,4]"},
		{name: "MatMul", inputs: []Fact{f(n, 8, 3), f(3, 4)}, want: "[?,8,4]"},
		{name: "MatMul", inputs: []Fact{f(5, 1, 2, 3), f(7, 3, 4)}, want: "[5,7,2,4]"},
		{name: "MatMul", inputs: []Fact{f(3), f(3)}, want: "[]"},
		{name: "MatMul", inputs: []Fact{f(3), f(5, 3, 2)}, want: "[5,2]"},
		{name: "MatMul", inputs: []Fact{f(5, 2, 3), f(3)}, want: "[5,2]"},
		{name: "MatMul", inputs: []Fact{f(0, 3), f(3, 0)}, want: "[0,0]"},
		{name: "MatMul", inputs: []Fact{unknown, f(3, 2)}, want: "[…]"},
		{name: "MatMul", inputs: []Fact{f(2, 3), f(4, 5)}, fails: "cannot multiply matrices of shapes [2,3] and [4,5]"},
		{name: "MatMul", inputs: []Fact{f(2, 2, 3), f(4, 3, 5)}, fails: "broadcast"},
		{name: "MatMul", inputs: []Fact{scalar, f(3)}, fails: "scalar"},
		{name: "MatMul", inputs: []Fact{f(3), {Type: onnx.Float64, Shape: []Dim{3}}}, fails: "float64"},
		{name: "MatMul", inputs: []Fact{{Type: onnx.Bool}, {Type: onnx.Bool}}, fails: "bool"},

		{name: "FusedMatMul", domain: "com.microsoft", attributes: attributes("transA"), inputs: []Fact{f(6, 3, 2), f(3, 4)}, want: "[6,2,4]"},
		{name: "FusedMatMul", domain: "com.microsoft", attributes: attributes("transB"), inputs: []Fact{f(2, 3), f(6, 4, 3)}, want: "[6,2,4]"},
		{name: "FusedMatMul", domain: "com.microsoft", attributes: attributes("transBatchA"), inputs: []Fact{f(2, 7, 6, 3), f(7, 6, 3, 4)}, want: "[7,6,2,4]"},
		{name: "FusedMatMul", domain: "com.microsoft", attributes: attributes("transBatchB", "transB"), inputs: []Fact{f(6, 2, 3), f(4, 6, 3)}, want: "[6,2,4]"},

		{name: "Gemm", inputs: []Fact{f(n, 3), f(3, 4)}, want: "[?,4]"},
		{name: "Gemm", attributes: attributes("transA", "transB"), inputs: []Fact{f(3, 2), f(4, 3), f(4)}, want: "[2,4]"},
		{name: "Gemm", inputs: []Fact{unknown, unknown, f(2, 1)}, want: "[?,?]"},
		{name: "Gemm", inputs: []Fact{f(2, 3), f(3, 4), scalar}, want: "[2,4]"},
		{name: "Gemm", inputs: []Fact{f(2, 3), f(3, 4), f(3)}, fails: "does not broadcast"},
		{name: "Gemm", inputs: []Fact{f(2, 3), f(3, 4), f(1, 2, 4)}, fails: "does not broadcast"},
		{name: "Gemm", attributes: attributes("transB"), inputs: []Fact{f(2, 3), f(3, 4)}, fails: "transB=1"},
		{name: "Gemm", inputs: []Fact{f(1, 2, 3), f(3, 4)}, fails: "needs a matrix"},
		{name: "Gemm", opset: 9, inputs: []Fact{f(2, 3), f(3, 4)}, fails: "only since version 11"},
		{name: "FusedGemm", domain: "com.microsoft", inputs: []Fact{f(2, 3), f(3, 4)}, want: "[2,4]"},
	} {
		node := &onnx.Node{Domain: c.domain, OpType: c.name, Attributes: c.attributes,
			Inputs: []string{"a", "b", "c"}[:len(c.inputs)], Outputs: []string{"y"}}
		if c.opset == 0 {
			c.opset = 13
		}
		what := c.name
		for _, f := range c.inputs {
			what += " " + FormatDims(f.Shape)
		}
		t.Run(what, func(t *testing.T) {
			resolved, err := Resolve(node, c.opset)
			if err != nil {
				t.Fatal(err)
			}
			out, err := Infer(resolved, c.inputs, &Symbols{last: -100})
			switch {
			case c.fails != "":
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v, want one with %q", err, c.fails)
				}
			case err != nil:
				t.Error(err)
			case FormatDims(out[0].Shape) != c.want:
				t.Errorf("shape %s, want %s", FormatDims(out[0].Shape), c.want)
			}
		})
	}
}
