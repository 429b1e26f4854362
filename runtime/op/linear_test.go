package op

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func TestInferLinear(t *testing.T) {
	transposed := onnx.IntAttribute("transB", 1)
	cases := []inferCase{
		{name: "matrix", in: []Fact{shaped(B, 4), shaped(4, 6)}, want: "[B,6]"},
		{name: "vector", in: []Fact{shaped(4), shaped(4, 6)}, want: "[6]"},
		{name: "transposed", attrs: attribute(transposed), in: []Fact{shaped(B, S, 4), shaped(6, 4), shaped(6)}, want: "[B,S,6]"},
		{name: "width of the bias", in: []Fact{shaped(B, 4), anyRank, shaped(6)}, want: "[B,6]"},
		{name: "residual", in: []Fact{shaped(B, S, 4), shaped(4, 6), absent, shaped(B, S, 6)}, want: "[B,S,6]"},
		{name: "repeated product", in: []Fact{shaped(1, 4), shaped(4, 6), absent, shaped(B, S, 6)}, want: "[B,S,6]"},
		{name: "unknown", in: []Fact{anyRank, shaped(4, 6)}, want: "[…]"},
		{name: "depths", in: []Fact{shaped(B, 5), shaped(4, 6)}, fails: "cannot multiply"},
		{name: "bias", in: []Fact{shaped(B, 4), shaped(4, 6), shaped(5)}, fails: "bias of shape [5]"},
		{name: "scalar", in: []Fact{shaped(), shaped(4, 6)}, fails: "scalar"},
		{name: "batch of weights", in: []Fact{shaped(B, 4), shaped(2, 4, 6)}, fails: "needs rank"},
		{name: "shape of the residual", in: []Fact{shaped(2, 4), shaped(4, 6), absent, shaped(3, 6)}, fails: "do not broadcast"},
		{name: "integers", in: []Fact{int64s(1, 2), shaped(2, 6)}, fails: "type"},
		{name: "activation", attrs: attribute(onnx.StringAttribute("activation", "wave")), in: []Fact{shaped(B, 4), shaped(4, 6)}, fails: "wave"},
	}
	for i := range cases {
		cases[i].domain, cases[i].op, cases[i].opset = moe.Domain, "Linear", 1
	}
	testInference(t, cases)
}
