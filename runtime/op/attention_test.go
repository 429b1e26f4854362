package op

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestInferAttention(t *testing.T) {
	heads := func(q, kv int64) []*onnx.Attribute {
		return attribute(onnx.IntAttribute("q_num_heads", q), onnx.IntAttribute("kv_num_heads", kv))
	}
	mask := func(shape ...Dim) Fact { return Fact{Type: onnx.Bool, Shape: shape} }
	q, kv := shaped(B, 8, 3, 16), shaped(B, 2, 5, 16)
	past := shaped(B, 2, 4, 16)
	testInference(t, []inferCase{
		{name: "4-D", op: "Attention", in: []Fact{q, kv, shaped(B, 2, 5, 6)}, want: "[B,8,3,6]"},
		{name: "3-D", op: "Attention", attrs: heads(8, 2), in: []Fact{shaped(B, S, 128), shaped(B, 5, 32), shaped(B, 5, 12)}, want: "[B,S,48]"},
		{name: "past", op: "Attention", in: []Fact{q, kv, kv, absent, past, past}, outputs: 4, want: "[B,8,3,16] [B,2,9,16] [B,2,9,16] [B,8,3,9]"},
		{name: "open past", op: "Attention", in: []Fact{q, kv, kv, absent, shaped(B, 2, S, 16), shaped(B, 2, S, 16)}, outputs: 2, want: "[B,8,3,16] [B,2,?,16]"},
		{name: "any rank", op: "Attention", in: []Fact{anyRank, anyRank, anyRank}, want: "[…]"},
		{name: "mask", op: "Attention", in: []Fact{q, kv, kv, mask(3, 5)}, want: "[B,8,3,16]"},
		{name: "short mask", op: "Attention", in: []Fact{q, kv, kv, mask(3, 4)}, want: "[B,8,3,16]"},
		{name: "short mask before version 24", op: "Attention", opset: 23, in: []Fact{q, kv, kv, mask(3, 4)}, fails: "does not broadcast"},
		{name: "long mask", op: "Attention", in: []Fact{q, kv, kv, mask(3, 6)}, fails: "for 5 keys"},
		{name: "no heads", op: "Attention", in: []Fact{shaped(B, 3, 16), shaped(B, 3, 16), shaped(B, 3, 16)}, fails: "number of heads"},
		{name: "uneven heads", op: "Attention", in: []Fact{shaped(B, 7, 3, 16), kv, kv}, fails: "evenly"},
		{name: "other sizes", op: "Attention", in: []Fact{q, shaped(B, 2, 5, 8), kv}, fails: "dimensions 16 and 8 differ"},
		{name: "half a past", op: "Attention", in: []Fact{q, kv, kv, absent, past}, fails: "together"},
		{name: "window too old", op: "Attention", opset: 24, attrs: attribute(onnx.IntAttribute("left_window_size", 1)), in: []Fact{q, kv, kv}, fails: "does not exist"},

		{name: "with positions", op: "RotaryEmbedding", in: []Fact{shaped(B, 2, S, 8), shaped(50, 4), shaped(50, 4), {Type: onnx.Int64, Shape: []Dim{B, S}}}, want: "[B,2,S,8]"},
		{name: "odd heads", op: "RotaryEmbedding", in: []Fact{shaped(B, 2, S, 7), shaped(50, 3), shaped(50, 3)}, fails: "even"},
		{name: "other tables", op: "RotaryEmbedding", in: []Fact{shaped(B, 2, S, 8), shaped(B, S, 3), shaped(B, S, 3)}, fails: "input 1 has shape"},
	})
}
