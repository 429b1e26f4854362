package op

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestInferReduce(t *testing.T) {
	keep := func(v int64) *onnx.Attribute { return onnx.IntAttribute("keepdims", v) }
	noop := onnx.IntAttribute("noop_with_empty_axes", 1)
	testInference(t, []inferCase{
		{name: "all", op: "ReduceSum", in: []Fact{shaped(B, 2, 3)}, want: "[1,1,1]"},
		{name: "all, removed", op: "ReduceSum", attrs: attribute(keep(0)), in: []Fact{shaped(B, 2, 3)}, want: "[]"},
		{name: "none", op: "ReduceSum", attrs: attribute(noop), in: []Fact{shaped(B, 2, 3)}, want: "[B,2,3]"},
		{name: "attribute", op: "ReduceMean", opset: 17, attrs: attribute(axes(-1), keep(0)), in: []Fact{shaped(B, S, 3)}, want: "[B,S]"},
		{name: "input", op: "ReduceMean", in: []Fact{shaped(B, S, 3), int64s(-1, 0)}, want: "[1,S,1]"},
		{name: "open axes kept", op: "ReduceMax", in: []Fact{shaped(B, 2, 3), vector(1)}, want: "[?,?,?]"},
		{name: "open axes removed", op: "ReduceMax", attrs: attribute(keep(0)), in: []Fact{shaped(B, 2, 3), vector(2)}, want: "[?]"},
		{name: "open empty axes", op: "ReduceMax", attrs: attribute(keep(0), noop), in: []Fact{shaped(B, 2), vector(0)}, want: "[?,?]"},
		{name: "any number of axes", op: "ReduceMax", attrs: attribute(keep(0)), in: []Fact{shaped(B, 2, 3), vector(-5)}, want: "[…]"},
		{name: "any rank", op: "ReduceL2", in: []Fact{anyRank}, want: "[…]"},
		{name: "scalar", op: "ReduceL2", in: []Fact{shaped()}, want: "[]"},
		{name: "axis outside", op: "ReduceProd", in: []Fact{shaped(2), int64s(1)}, fails: "outside"},
		{name: "axis twice", op: "ReduceProd", in: []Fact{shaped(2, 3), int64s(1, -1)}, fails: "twice"},
		{name: "attribute too new", op: "ReduceSum", attrs: attribute(axes(0)), in: []Fact{shaped(2)}, fails: "as input 1"},
		{name: "input too old", op: "ReduceMean", opset: 17, in: []Fact{shaped(2), int64s(0)}, fails: "as an attribute"},
		{name: "strings", op: "ReduceMax", in: []Fact{stringly(2)}, fails: "string"},
		{name: "bool sum", op: "ReduceSum", in: []Fact{{Type: onnx.Bool, Shape: []Dim{2}}}, fails: "bool"},
	})
}

func TestInferNormalization(t *testing.T) {
	groups := func(v int64) *onnx.Attribute { return onnx.IntAttribute("num_groups", v) }
	testInference(t, []inferCase{
		{name: "last axis", op: "LayerNormalization", in: []Fact{shaped(B, S, 8), shaped(8), shaped(8)}, outputs: 3, want: "[B,S,8] [B,S,1] [B,S,1]"},
		{name: "two axes", op: "LayerNormalization", attrs: attribute(axis(1)), in: []Fact{shaped(B, 4, 8), shaped(4, 8)}, outputs: 2, want: "[B,4,8] [B,1,1]"},
		{name: "before it was standard", op: "LayerNormalization", opset: 11, in: []Fact{shaped(B, 8), shaped(8)}, want: "[B,8]"},
		{name: "any rank", op: "LayerNormalization", in: []Fact{anyRank, shaped(8)}, outputs: 2, want: "[…] […]"},
		{name: "wrong scale", op: "LayerNormalization", in: []Fact{shaped(B, 8), shaped(7)}, fails: "does not broadcast"},
		{name: "mixed types", op: "LayerNormalization", in: []Fact{shaped(B, 8), {Type: onnx.Float64}}, fails: "others have"},
		{name: "of its scale's type", op: "RMSNormalization", in: []Fact{{Type: onnx.Float16, Shape: []Dim{B, 8}}, shaped(8)}, want: "[B,8]"},
		{name: "integers", op: "RMSNormalization", in: []Fact{vector(8), vector(8)}, fails: "needs one of"},

		{name: "inference", op: "BatchNormalization", in: []Fact{shaped(B, 3, S), shaped(3), shaped(3), shaped(3), shaped(3)}, want: "[B,3,S]"},
		{name: "training", op: "BatchNormalization", attrs: attribute(onnx.IntAttribute("training_mode", 1)),
			in: []Fact{shaped(B, 3, S), shaped(3), shaped(3), shaped(3), shaped(3)}, outputs: 3, want: "[B,3,S] [3] [3]"},
		{name: "outputs of training", op: "BatchNormalization", in: []Fact{shaped(B, 3), shaped(3), shaped(3), shaped(3), shaped(3)}, outputs: 2, fails: "training"},
		{name: "wrong channels", op: "BatchNormalization", in: []Fact{shaped(B, 3), shaped(3), shaped(2), shaped(3), shaped(3)}, fails: "input 2 has shape [2]"},
		{name: "channels", op: "GroupNormalization", attrs: attribute(groups(2)), in: []Fact{shaped(B, 4, S), shaped(4), shaped(4)}, want: "[B,4,S]"},
		{name: "scale of groups", op: "GroupNormalization", opset: 18, attrs: attribute(groups(2)), in: []Fact{shaped(B, 4, S), shaped(2), shaped(2)}, want: "[B,4,S]"},
		{name: "no divisor", op: "GroupNormalization", attrs: attribute(groups(3)), in: []Fact{shaped(B, 4, S), shaped(4), shaped(4)}, fails: "does not divide"},
		{name: "other order", op: "LpNormalization", attrs: attribute(onnx.IntAttribute("p", 3)), in: []Fact{shaped(2)}, fails: "p is 3"},
	})
}
