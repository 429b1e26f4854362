package devicetest

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	number, real := onnx.IntAttribute, onnx.FloatAttribute
	type attributes = []*onnx.Attribute
	attention := func(name string, opset int64, a attributes, in ...Input) {
		GradientCases = append(GradientCases, GradientCase{Name: "Attention/" + name, OpType: "Attention", Opset: opset, Inputs: in, Attributes: a})
	}
	q, k, v := Random(2, 4, 5, 3), Random(2, 4, 6, 3), Random(2, 4, 6, 2)
	flat := func(tokens, width int) Input { return Random(2, tokens, width) }
	inf, lowest := math.Inf(-1), -math.MaxFloat32
	absent := Input{Absent: true}
	for _, opset := range []int64{23, 24, 25} {
		attention(fmt.Sprint("plain/", opset), opset, nil, q, k, v)
		attention(fmt.Sprint("mask/", opset), opset, nil, q, k, v, Random(2, 4, 5, 6))
	}
	attention("3D", 23, attributes{number("q_num_heads", 4), number("kv_num_heads", 4)}, flat(5, 12), flat(6, 12), flat(6, 8))
	attention("groups", 23, attributes{number("q_num_heads", 4), number("kv_num_heads", 2)}, flat(5, 12), flat(6, 6), flat(6, 4))
	attention("shared", 23, nil, q, Random(2, 1, 6, 3), Random(2, 1, 6, 2))
	attention("causal", 23, attributes{number("is_causal", 1)}, q, k, v)
	attention("causal/one part", 23, attributes{number("is_causal", 1)}, Random(4, 4, 7, 3), Random(4, 4, 7, 3), Random(4, 4, 7, 3))
	attention("causal/long", 23, attributes{number("is_causal", 1)}, Random(1, 2, 100, 5), Random(1, 1, 100, 5), Random(1, 1, 100, 3))
	attention("one query", 23, nil, Random(2, 4, 1, 3), Random(2, 2, 6, 3), Random(2, 2, 6, 2))
	attention("scale", 23, attributes{real("scale", 2)}, q, k, v)
	attention("softcap", 23, attributes{real("softcap", 0.5), number("is_causal", 1)}, q, k, v)
	attention("windows", 25, attributes{number("left_window_size", 2), number("right_window_size", 1)}, q, k, v)
	attention("far window", 25, attributes{number("left_window_size", 2), number("right_window_size", 0)}, Random(1, 1, 60, 3), Random(1, 1, 60, 3), Random(1, 1, 60, 2))
	attention("boolean mask", 23, nil, q, k, v, Fixed([]bool{true, false, true, true, true, false}, 6))
	attention("nothing visible", 23, nil, q, k, v, Fixed([]bool{false}, 1, 1))
	attention("hidden keys", 23, attributes{real("softcap", 2)}, q, k, v, Fixed([]float64{0, inf, 1, inf, -1, 0}, 1, 6))
	attention("a query that sees no key", 23, nil, q, k, v, Fixed([]float64{0, lowest, 0, 0, 0}, 5, 1))
	attention("mask of a position bias", 23, nil, q, k, v, Random(1, 4, 5, 6))
	attention("mask of queries", 23, attributes{number("is_causal", 1)}, q, k, v, Random(5, 6))
	attention("mask of one key", 23, nil, q, k, v, Random(5, 1))
	attention("short mask", 24, nil, q, k, v, Random(5, 4))
	attention("lengths", 24, attributes{number("is_causal", 1)}, q, k, v, absent, absent, absent, Fixed([]int64{6, 4}, 2))

	table := func(shape ...int) Input { return Input{Shape: shape, Frozen: true} }
	for name, c := range map[string]struct {
		attributes attributes
		in         []Input
	}{
		"4D":          {nil, []Input{Random(2, 3, 5, 4), table(2, 5, 2), table(2, 5, 2)}},
		"3D":          {attributes{number("num_heads", 3)}, []Input{Random(2, 5, 12), table(9, 2), table(9, 2), Fixed([]int64{0, 1, 2, 3, 4, 8, 7, 6, 5, 4}, 2, 5)}},
		"interleaved": {attributes{number("interleaved", 1), number("rotary_embedding_dim", 2)}, []Input{Random(2, 3, 5, 4), table(2, 5, 1), table(2, 5, 1)}},
	} {
		GradientCases = append(GradientCases, GradientCase{Name: "RotaryEmbedding/" + name, OpType: "RotaryEmbedding", Inputs: c.in, Attributes: c.attributes})
	}
	GradientCases = append(GradientCases, GradientCase{Domain: "com.microsoft", OpType: "RotaryEmbedding",
		Inputs: []Input{Random(2, 3, 5, 4), Fixed([]int64{2}, 1), table(9, 2), table(9, 2)}})

	const microsoft = "com.microsoft"
	heads := number("num_heads", 2)
	marks := []int32{1, 0, 1, 1, 1, 0, 0, 1, 1, 1}
	keep := Fixed(marks, 2, 5)
	for name, c := range map[string]struct {
		attributes attributes
		in         []Input
	}{
		"plain":        {nil, []Input{flat(3, 6), flat(5, 6), flat(5, 4)}},
		"bias":         {attributes{real("scale", 1.5)}, []Input{flat(3, 6), flat(5, 6), flat(5, 4), Random(16)}},
		"causal":       {attributes{number("unidirectional", 1)}, []Input{flat(5, 6), flat(5, 6), flat(5, 4)}},
		"padding":      {attributes{real("mask_filter_value", -3)}, []Input{flat(3, 6), flat(5, 6), flat(5, 4), absent, keep}},
		"lengths":      {attributes{real("mask_filter_value", -3)}, []Input{flat(3, 6), flat(5, 6), flat(5, 4), absent, Fixed([]int32{3, 5}, 2)}},
		"3D":           {attributes{real("mask_filter_value", -3)}, []Input{flat(1, 6), flat(5, 6), flat(5, 4), absent, Fixed(marks, 2, 1, 5)}},
		"scores":       {nil, []Input{flat(3, 6), flat(5, 6), flat(5, 4), absent, keep, Random(1, 2, 3, 5)}},
		"heads":        {nil, []Input{flat(3, 6), Random(2, 2, 5, 3), Random(2, 2, 5, 2)}},
		"shared score": {nil, []Input{flat(3, 6), flat(5, 6), flat(5, 4), absent, absent, Random(1, 1, 3, 5)}},
	} {
		GradientCases = append(GradientCases, GradientCase{Name: "MultiHeadAttention/" + name, Domain: microsoft, OpType: "MultiHeadAttention",
			Inputs: c.in, Attributes: append(c.attributes, heads)})
	}
	for name, c := range map[string]struct {
		attributes attributes
		in         []Input
	}{
		"plain":   {nil, []Input{flat(5, 3), Random(3, 12)}},
		"sizes":   {attributes{onnx.IntsAttribute("qkv_hidden_sizes", 6, 6, 4), number("unidirectional", 1)}, []Input{flat(5, 3), Random(3, 16), Random(16)}},
		"padding": {attributes{real("mask_filter_value", -3)}, []Input{flat(5, 3), Random(3, 12), Random(12), keep, absent, Random(2, 1, 5, 5)}},
	} {
		GradientCases = append(GradientCases, GradientCase{Name: "com.microsoft::Attention/" + name, Domain: microsoft, OpType: "Attention",
			Inputs: c.in, Attributes: append(c.attributes, heads)})
	}
}
