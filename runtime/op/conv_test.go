package op

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestInferWindows(t *testing.T) {
	list := func(name string, v ...int64) *onnx.Attribute { return onnx.IntsAttribute(name, v...) }
	auto := func(v string) *onnx.Attribute { return onnx.StringAttribute("auto_pad", v) }
	group := func(v int64) *onnx.Attribute { return onnx.IntAttribute("group", v) }
	square, ceil := list("kernel_shape", 3, 3), onnx.IntAttribute("ceil_mode", 1)
	x, w := shaped(B, 4, 7, S), shaped(6, 4, 3, 3)
	testInference(t, []inferCase{
		{name: "plain", op: "Conv", in: []Fact{x, w}, want: "[B,6,5,?]"},
		{name: "strides, pads, dilations", op: "Conv", attrs: attribute(list("strides", 2, 2), list("pads", 1, 0, 1, 0), list("dilations", 2, 1)), in: []Fact{x, w}, want: "[B,6,3,?]"},
		{name: "same", op: "Conv", attrs: attribute(auto("SAME_LOWER"), list("strides", 2, 2)), in: []Fact{x, w}, want: "[B,6,4,?]"},
		{name: "groups", op: "Conv", attrs: attribute(group(2)), in: []Fact{x, shaped(6, 2, 3, 3), shaped(6)}, want: "[B,6,5,?]"},
		{name: "1-D", op: "Conv", in: []Fact{shaped(B, 4, 9), shaped(6, 4, 2)}, want: "[B,6,8]"},
		{name: "open kernel", op: "Conv", in: []Fact{x, shaped(6, 4, S, S)}, want: "[B,6,?,?]"},
		{name: "any rank", op: "Conv", in: []Fact{anyRank, w}, want: "[?,6,?,?]"},
		{name: "other channels", op: "Conv", in: []Fact{x, shaped(6, 3, 3, 3)}, fails: "other channels"},
		{name: "uneven groups", op: "Conv", attrs: attribute(group(4)), in: []Fact{x, shaped(6, 1, 3, 3)}, fails: "does not divide"},
		{name: "other kernel", op: "Conv", attrs: attribute(list("kernel_shape", 2, 3)), in: []Fact{x, w}, fails: "but the weight has"},
		{name: "large kernel", op: "Conv", in: []Fact{x, shaped(6, 4, 8, 3)}, fails: "does not fit"},
		{name: "no stride", op: "Conv", attrs: attribute(list("strides", 0, 1)), in: []Fact{x, w}, fails: "strides"},
		{name: "wrong bias", op: "Conv", in: []Fact{x, w, shaped(4)}, fails: "input 2"},

		{name: "plain", op: "ConvTranspose", in: []Fact{shaped(B, 4, 5), shaped(4, 3, 3)}, want: "[B,3,7]"},
		{name: "strides and padding", op: "ConvTranspose", attrs: attribute(list("strides", 2), list("pads", 1, 1), list("output_padding", 1)), in: []Fact{shaped(B, 4, 5), shaped(4, 3, 3)}, want: "[B,3,10]"},
		{name: "output_shape", op: "ConvTranspose", attrs: attribute(list("strides", 2), list("output_shape", 9)), in: []Fact{shaped(B, 4, 5), shaped(4, 3, 3)}, want: "[B,3,9]"},
		{name: "groups", op: "ConvTranspose", attrs: attribute(group(2)), in: []Fact{shaped(B, 4, 5), shaped(4, 3, 3)}, want: "[B,6,7]"},

		{name: "floor", op: "MaxPool", attrs: attribute(square, list("strides", 2, 2)), in: []Fact{shaped(B, 4, 8, S)}, outputs: 2, want: "[B,4,3,?] [B,4,3,?]"},
		{name: "ceil", op: "MaxPool", attrs: attribute(square, list("strides", 2, 2), ceil), in: []Fact{shaped(B, 4, 8, S)}, want: "[B,4,4,?]"},
		{name: "no window in the end's padding", op: "AveragePool", attrs: attribute(list("kernel_shape", 1), list("strides", 2), list("pads", 0, 1), ceil), in: []Fact{shaped(B, 4, 3)}, want: "[B,4,2]"},
		{name: "lacks its kernel", op: "MaxPool", in: []Fact{x}, fails: "kernel_shape"},
		{name: "huge kernel", op: "MaxPool", attrs: attribute(list("kernel_shape", 1<<20, 1<<20)), in: []Fact{x}, fails: "too large"},
		{name: "spatial", op: "GlobalAveragePool", in: []Fact{x}, want: "[B,4,1,1]"},
		{name: "unknown", op: "MaxPool", attrs: attribute(auto("SOME"), square), in: []Fact{x}, fails: "not known"},
	})
}

func TestInferLoss(t *testing.T) {
	reduction := func(v string) *onnx.Attribute { return onnx.StringAttribute("reduction", v) }
	labels := func(shape ...Dim) Fact { return Fact{Type: onnx.Int64, Shape: shape} }
	testInference(t, []inferCase{
		{name: "mean", op: "SoftmaxCrossEntropyLoss", in: []Fact{shaped(B, 5, S), labels(B, S)}, outputs: 2, want: "[] [B,5,S]"},
		{name: "none", op: "NegativeLogLikelihoodLoss", attrs: attribute(reduction("none")), in: []Fact{shaped(B, 5, S), labels(B, S)}, want: "[B,S]"},
		{name: "other labels", op: "NegativeLogLikelihoodLoss", in: []Fact{shaped(2, 5), labels(3)}, fails: "input 1 has shape [3]"},
		{name: "unknown reduction", op: "NegativeLogLikelihoodLoss", attrs: attribute(reduction("max")), in: []Fact{shaped(2, 5), labels(2)}, fails: "reduction"},
	})
}
