package op

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func typed(t onnx.DataType, dims ...Dim) Fact { return Fact{Type: t, Shape: append([]Dim{}, dims...)} }

func TestInferArithmetic(t *testing.T) {
	left := attribute(onnx.StringAttribute("direction", "LEFT"))
	testInference(t, []inferCase{
		{name: "same", op: "Add", in: []Fact{shaped(B, 3), shaped(B, 3)}, want: "[B,3]"},
		{name: "broadcast", op: "Add", in: []Fact{shaped(B, 1, S), shaped(4, 1)}, want: "[B,4,S]"},
		{name: "scalar", op: "Mul", in: []Fact{shaped(), shaped()}, want: "[]"},
		{name: "symbol and number", op: "Sub", in: []Fact{shaped(B), shaped(7)}, want: "[7]"},
		{name: "two symbols", op: "Div", in: []Fact{shaped(B), shaped(S)}, want: "[?]"},
		{name: "nothing", op: "Add", in: []Fact{shaped(0, 3), shaped(1, 3)}, want: "[0,3]"},
		{name: "any rank", op: "Add", in: []Fact{anyRank, shaped(2)}, want: "[…]"},
		{name: "contradiction", op: "Add", in: []Fact{shaped(2), shaped(3)}, fails: "do not broadcast"},
		{name: "types", op: "Add", in: []Fact{shaped(2), int64s(1)}, fails: "type int64"},
		{name: "before broadcasting", op: "Add", opset: 6, in: []Fact{shaped(2), shaped(2)}, fails: "older than the oldest"},

		{name: "one", op: "Max", in: []Fact{shaped(B, 2)}, want: "[B,2]"},
		{name: "three", op: "Sum", in: []Fact{shaped(B, 1), shaped(2), shaped(1, 1, 1)}, want: "[1,B,2]"},
		{name: "three types", op: "Mean", in: []Fact{shaped(1), shaped(1), int64s(1)}, fails: "input 2"},

		{name: "mixed types", op: "Pow", in: []Fact{shaped(B, 2), int64s(2)}, want: "[B,2]"},
		{name: "mixed types before version 12", op: "Pow", opset: 11, in: []Fact{shaped(B, 2), int64s(2)}, fails: "type int64"},
		{name: "shift", op: "BitShift", attrs: left, in: []Fact{int64s(1, 2), int64s(1)}, want: "[2]"},
		{name: "no direction", op: "BitShift", in: []Fact{int64s(1), int64s(1)}, fails: "direction"},
		{name: "slope", op: "PRelu", in: []Fact{shaped(B, 3, S), shaped(3, 1)}, want: "[B,3,S]"},
		{name: "slope too large", op: "PRelu", in: []Fact{shaped(3), shaped(2, 3)}, fails: "does not broadcast to [3]"},

		{name: "inputs", op: "Clip", in: []Fact{shaped(B), scalar(float32(0)), absent}, want: "[B]"},
		{name: "attributes", op: "Clip", opset: 10, attrs: attribute(onnx.FloatAttribute("min", 0)), in: []Fact{shaped(B)}, want: "[B]"},
		{name: "attribute in version 11", op: "Clip", opset: 11, attrs: attribute(onnx.FloatAttribute("min", 0)), in: []Fact{shaped(B)}, fails: "does not exist"},
		{name: "input in version 6", op: "Clip", opset: 10, in: []Fact{shaped(B), shaped()}, fails: "takes attributes"},
		{name: "vector limit", op: "Clip", in: []Fact{shaped(4), shaped(4)}, fails: "needs a scalar"},
		{name: "integers too early", op: "Clip", opset: 11, in: []Fact{int64s(1)}, fails: "type int64"},
	})
}

func TestInferComparison(t *testing.T) {
	truth := func(dims ...Dim) Fact { return typed(onnx.Bool, dims...) }
	testInference(t, []inferCase{
		{name: "broadcast", op: "Less", in: []Fact{shaped(B, 1), shaped(3)}, want: "[B,3]"},
		{name: "types", op: "Equal", in: []Fact{shaped(1), int64s(1)}, fails: "type int64"},
		{name: "logic", op: "And", in: []Fact{truth(B), truth(1)}, want: "[B]"},
		{name: "logic of numbers", op: "Not", in: []Fact{shaped(1)}, fails: "needs bool"},
		{name: "integers", op: "IsNaN", in: []Fact{int64s(1)}, fails: "floating-point"},
		{name: "choice", op: "Where", in: []Fact{truth(B, 1), shaped(3), shaped()}, want: "[B,3]"},
		{name: "choice by number", op: "Where", in: []Fact{shaped(1), shaped(3), shaped()}, fails: "needs bool"},
		{name: "choice of two types", op: "Where", in: []Fact{truth(1), shaped(3), int64s(1)}, fails: "type int64"},
	})
	out, err := inferOne(inferCase{op: "Less", in: []Fact{shaped(1), shaped(1)}})
	if err != nil || out[0].Type != onnx.Bool {
		t.Errorf("Less gives %v, %v; want bool", out, err)
	}
}

func TestInferActivation(t *testing.T) {
	testInference(t, []inferCase{
		{name: "plain", op: "Relu", in: []Fact{shaped(B, 3)}, want: "[B,3]"},
		{name: "form", op: "Gelu", attrs: attribute(onnx.StringAttribute("approximate", "sigmoid")), in: []Fact{shaped(1)}, fails: "approximate"},
		{name: "two inputs", op: "SwiGLU", in: []Fact{shaped(B, 3), shaped(2, S)}, want: "[2,3]"},
		{name: "no broadcasting", op: "SwiGLU", in: []Fact{shaped(2, 3), shaped(3)}, fails: "must have the same"},
		{name: "unknown attribute", op: "Relu", attrs: attribute(onnx.FloatAttribute("alpha", 1)), in: []Fact{shaped(1)}, fails: "not supported"},
	})
}

func TestInferCast(t *testing.T) {
	to := func(v onnx.DataType) *onnx.Attribute { return onnx.IntAttribute("to", int64(v)) }
	for _, c := range []struct {
		inferCase
		want onnx.DataType
	}{
		{inferCase{op: "Cast", attrs: attribute(to(onnx.Int64)), in: []Fact{shaped(B)}}, onnx.Int64},
		{inferCase{op: "CastLike", in: []Fact{shaped(B), int64s(1)}}, onnx.Int64},
		{inferCase{op: "CastLike", in: []Fact{shaped(B), {Shape: []Dim{}}}}, onnx.Undefined},
		{inferCase{op: "BitCast", attrs: attribute(to(onnx.Int32)), in: []Fact{shaped(B)}}, onnx.Int32},
	} {
		out, err := inferOne(c.inferCase)
		if err != nil || out[0].Type != c.want || formatFacts(out) != "[B]" {
			t.Errorf("%s gives %v, %v; want %s[B]", c.op, out, err, c.want)
		}
	}
	testInference(t, []inferCase{
		{name: "no type", op: "Cast", in: []Fact{shaped(1)}, fails: "lacks its attribute to"},
		{name: "no such type", op: "Cast", attrs: attribute(onnx.IntAttribute("to", 1<<40)), in: []Fact{shaped(1)}, fails: "no element type"},
		{name: "mode", op: "Cast", attrs: attribute(to(onnx.Float8E8M0), onnx.StringAttribute("round_mode", "away")), in: []Fact{shaped(1)}, fails: "round_mode"},
		{name: "saturate too early", op: "Cast", opset: 18, attrs: attribute(to(onnx.Float16), onnx.IntAttribute("saturate", 0)), in: []Fact{shaped(1)}, fails: "does not exist"},
		{name: "width", op: "BitCast", attrs: attribute(to(onnx.Int64)), in: []Fact{shaped(1)}, fails: "another width"},
		{name: "strings", op: "BitCast", attrs: attribute(to(onnx.Int64)), in: []Fact{stringly(1)}, fails: "another width"},
	})
}

func TestInferDropout(t *testing.T) {
	testInference(t, []inferCase{
		{name: "old", op: "Dropout", opset: 11, attrs: attribute(onnx.FloatAttribute("ratio", 0.2)), in: []Fact{shaped(B, 2)}, outputs: 2, want: "[B,2] [B,2]"},
		{name: "new", op: "Dropout", in: []Fact{shaped(B, 2), scalar(float32(0.2)), scalar(true)}, outputs: 2, want: "[B,2] [B,2]"},
		{name: "ratio given twice", op: "Dropout", attrs: attribute(onnx.FloatAttribute("ratio", 0.2)), in: []Fact{shaped(B, 2)}, fails: "does not exist"},
		{name: "ratio vector", op: "Dropout", in: []Fact{shaped(B, 2), shaped(2)}, fails: "needs a scalar"},
		{name: "training by number", op: "Dropout", in: []Fact{shaped(B, 2), absent, scalar(int64(1))}, fails: "needs bool"},
	})
}

func TestInferRandom(t *testing.T) {
	testInference(t, []inferCase{
		{name: "shape", op: "RandomNormal", attrs: attribute(onnx.IntsAttribute("shape", 2, 3)), want: "[2,3]"},
		{name: "no shape", op: "RandomNormal", fails: "lacks its attribute shape"},
		{name: "huge shape", op: "RandomUniform", attrs: attribute(onnx.IntsAttribute("shape", 1<<62, 1<<62)), fails: "too large"},
		{name: "negative shape", op: "RandomUniform", attrs: attribute(onnx.IntsAttribute("shape", -1)), fails: "negative"},
		{name: "like", op: "RandomNormalLike", in: []Fact{shaped(B)}, want: "[B]"},
		{name: "integers", op: "RandomNormalLike", in: []Fact{int64s(1)}, fails: "floating-point"},
		{name: "drawing", op: "Bernoulli", attrs: attribute(onnx.IntAttribute("dtype", int64(onnx.Bool))), in: []Fact{shaped(B)}, want: "[B]"},
	})
}

func TestInferQuantization(t *testing.T) {
	bytes := func(dims ...Dim) Fact { return typed(onnx.Uint8, dims...) }
	block := onnx.IntAttribute("block_size", 4)
	testInference(t, []inferCase{
		{name: "whole", op: "QuantizeLinear", in: []Fact{shaped(B, 3), shaped()}, want: "[B,3]"},
		{name: "axis", op: "QuantizeLinear", in: []Fact{shaped(2, 3), shaped(3), bytes(3)}, want: "[2,3]"},
		{name: "other axis", op: "QuantizeLinear", attrs: attribute(axis(-2)), in: []Fact{shaped(2, 3), shaped(2), bytes(2)}, want: "[2,3]"},
		{name: "blocks", op: "QuantizeLinear", attrs: attribute(block), in: []Fact{shaped(2, 9), shaped(2, 3)}, want: "[2,9]"},
		{name: "too few blocks", op: "QuantizeLinear", attrs: attribute(block), in: []Fact{shaped(2, 9), shaped(2, 2)}, fails: "needs [2 3]"},
		{name: "wrong axis", op: "QuantizeLinear", attrs: attribute(axis(2)), in: []Fact{shaped(2, 3), shaped(3)}, fails: "axis 2"},
		{name: "zero point of another shape", op: "QuantizeLinear", in: []Fact{shaped(2, 3), shaped(3), bytes(2)}, fails: "must have the same"},
		{name: "zero point of another type", op: "QuantizeLinear", attrs: attribute(onnx.IntAttribute("output_dtype", int64(onnx.Int8))), in: []Fact{shaped(2), shaped(), bytes()}, fails: "zero point has"},
		{name: "vector in version 10", op: "DequantizeLinear", opset: 10, in: []Fact{bytes(2, 3), shaped(3)}, fails: "version 10 takes a scalar"},
		{name: "to integers", op: "DequantizeLinear", attrs: attribute(onnx.IntAttribute("output_dtype", int64(onnx.Int8))), in: []Fact{bytes(2), shaped()}, fails: "is none of"},
		{name: "dynamic", op: "DynamicQuantizeLinear", in: []Fact{shaped(B, 2)}, outputs: 3, want: "[B,2] [] []"},
		{name: "product", op: "MatMulInteger", in: []Fact{bytes(B, 2, 3), bytes(3, 4), bytes(), bytes(4)}, want: "[B,2,4]"},
		{name: "zero point by row", op: "MatMulInteger", in: []Fact{bytes(2, 3), bytes(3, 4), bytes(2)}, want: "[2,4]"},
		{name: "zero point of wrong length", op: "MatMulInteger", in: []Fact{bytes(2, 3), bytes(3, 4), bytes(3)}, fails: "does not fit"},
		{name: "floats", op: "MatMulInteger", in: []Fact{shaped(2, 3), bytes(3, 4)}, fails: "needs one of"},
	})
}

func TestGranularity(t *testing.T) {
	for _, c := range []struct {
		name         string
		shape, scale []int
		attrs        []*onnx.Attribute
		want         []int // element of the scale for each of the tensor's
	}{
		{"whole", []int{2, 2}, []int{}, nil, []int{0, 0, 0, 0}},
		{"last axis", []int{2, 3}, []int{3}, nil, []int{0, 1, 2, 0, 1, 2}},
		{"first axis", []int{2, 3}, []int{2}, attribute(axis(0)), []int{0, 0, 0, 1, 1, 1}},
		{"blocks along the last axis", []int{2, 3}, []int{2, 2}, attribute(onnx.IntAttribute("block_size", 2)), []int{0, 0, 1, 2, 2, 3}},
		{"blocks along the first axis", []int{3, 2}, []int{2, 2}, attribute(axis(0), onnx.IntAttribute("block_size", 2)), []int{0, 1, 0, 1, 2, 3}},
	} {
		n := &Node{Node: &onnx.Node{Attributes: c.attrs}, Since: 25}
		g, err := NewGranularity(n, c.shape, c.scale, nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for i, want := range c.want {
			index, run := g.At(i)
			if index != want {
				t.Errorf("%s: element %d has scale %d, want %d", c.name, i, index, want)
			}
			for j := i; j < min(i+min(run, 100), len(c.want)); j++ {
				if c.want[j] != want {
					t.Errorf("%s: the run of %d elements from %d passes element %d", c.name, run, i, j)
				}
			}
		}
	}
}
