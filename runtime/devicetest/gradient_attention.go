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
	groupQueryCases()
	recurrenceCases()
}

// groupQueryCases are those of ONNX Runtime's GroupQueryAttention.
func groupQueryCases() {
	number, real := onnx.IntAttribute, onnx.FloatAttribute
	type attributes = []*onnx.Attribute
	absent := Input{Absent: true}
	flat := func(width int) Input { return Random(2, 5, width) }
	table := func(half int) Input { return Input{Shape: []int{9, half}, Frozen: true} }
	past := Input{Shape: []int{2, 2, 4, 4}, Frozen: true}
	last, all := Fixed([]int32{4, 4}, 2), Fixed([]int32{5})
	places := Fixed([]int64{0, 1, 2, 3, 4, 8, 7, 6, 5, 4}, 2, 5)
	in := func(optional ...Input) []Input {
		return append([]Input{flat(16), flat(8), flat(8), absent, absent, last, all}, optional...)
	}
	rotary := number("do_rotary", 1)
	for name, c := range map[string]struct {
		attributes attributes
		in         []Input
	}{
		"plain":            {nil, in()},
		"packed":           {nil, []Input{flat(32), absent, absent, absent, absent, last, all}},
		"scale":            {attributes{real("scale", 2)}, in()},
		"softcap":          {attributes{real("softcap", 0.5)}, in()},
		"window":           {attributes{number("local_window_size", 2)}, in()},
		"not causal":       {attributes{number("causal", 0)}, []Input{flat(16), flat(8), flat(8), absent, absent, Fixed([]int32{4, 2}, 2), all}},
		"padding":          {nil, []Input{flat(16), flat(8), flat(8), absent, absent, Fixed([]int32{4, 2}, 2), all}},
		"bias":             {nil, in(absent, absent, absent, Random(1, 4, 5, 5))},
		"sinks":            {nil, in(absent, absent, absent, absent, Random(4))},
		"smooth":           {attributes{number("smooth_softmax", 1), number("local_window_size", 3)}, in()},
		"sinks and bias":   {attributes{real("softcap", 1)}, in(absent, absent, absent, Random(2, 1, 5, 5), Random(4))},
		"rotary":           {attributes{rotary}, in(table(2), table(2))},
		"rotary/part":      {attributes{rotary}, in(table(1), table(1), places)},
		"rotary/interlace": {attributes{rotary, number("rotary_interleaved", 1)}, in(table(2), table(2), places)},
		"rotary/packed":    {attributes{rotary}, []Input{flat(32), absent, absent, absent, absent, last, all, table(2), table(2)}},
		"past": {attributes{rotary}, []Input{flat(16), flat(8), flat(8), past, past, Fixed([]int32{8, 6}, 2), Fixed([]int32{9}),
			table(2), table(2), absent, Random(1, 1, 5, 9)}},
		"past/packed": {attributes{number("local_window_size", 4)}, []Input{flat(32), absent, absent, past, past, Fixed([]int32{8, 6}, 2), Fixed([]int32{9})}},
		"past/room": {attributes{rotary}, []Input{flat(16), flat(8), flat(8), {Shape: []int{2, 2, 9, 4}, Frozen: true}, {Shape: []int{2, 2, 9, 4}, Frozen: true},
			Fixed([]int32{4, 2}, 2), all, table(2), table(2)}},
		"past/not causal": {attributes{number("causal", 0)}, []Input{flat(16), flat(8), flat(8), past, past, Fixed([]int32{8, 6}, 2), Fixed([]int32{9})}},
	} {
		c.attributes = append(c.attributes, number("num_heads", 4), number("kv_num_heads", 2))
		for _, outputs := range []int{1, 3} {
			GradientCases = append(GradientCases, GradientCase{Name: fmt.Sprintf("GroupQueryAttention/%s/%d", name, outputs), Domain: "com.microsoft",
				OpType: "GroupQueryAttention", Inputs: c.in, Outputs: outputs, Attributes: c.attributes})
		}
	}
	GradientCases = append(GradientCases, GradientCase{Name: "GroupQueryAttention/packed present", Domain: "com.microsoft", OpType: "GroupQueryAttention",
		Inputs: []Input{flat(32), absent, absent, absent, absent, last, all}, Outputs: 3, Ignore: []int{0, 2},
		Attributes: attributes{number("num_heads", 4), number("kv_num_heads", 2)}})
}

// recurrenceCases are those of operators whose state goes from token to token.
func recurrenceCases() {
	number := onnx.IntAttribute
	absent := Input{Absent: true}
	flat := func(width int) Input { return Random(2, 7, width) }
	state := Random(2, 2, 3, 2)
	decay, beta := Within(-1, 0, 2, 7, 6), Within(0.1, 0.9, 2, 7, 2)
	for name, c := range map[string]struct {
		rule     string
		optional []Input
	}{
		"linear":               {"linear", nil},
		"linear/state":         {"linear", []Input{state, decay, beta}},
		"gated":                {"gated", []Input{absent, decay}},
		"gated/heads":          {"gated", []Input{state, Within(-1, 0, 2, 7, 2)}},
		"delta":                {"delta", []Input{state, absent, beta}},
		"delta/shared":         {"delta", []Input{absent, absent, Within(0.1, 0.9, 2, 7, 1)}},
		"gated_delta":          {"gated_delta", []Input{state, decay, beta}},
		"gated_delta/no state": {"gated_delta", []Input{absent, Within(-1, 0, 2, 7, 2), beta}},
	} {
		for _, ignore := range [][]int{nil, {0}, {1}} {
			GradientCases = append(GradientCases, GradientCase{Name: fmt.Sprint("LinearAttention/", name, ignore), OpType: "LinearAttention", Opset: 27,
				Inputs: append([]Input{flat(12), flat(6), flat(4)}, c.optional...), Outputs: 2, Ignore: ignore,
				Attributes: []*onnx.Attribute{number("q_num_heads", 4), number("kv_num_heads", 2), onnx.StringAttribute("update_rule", c.rule)}})
		}
	}
	GradientCases = append(GradientCases, GradientCase{Name: "LinearAttention/scale", OpType: "LinearAttention", Opset: 27,
		Inputs:     []Input{Random(1, 1, 6), Random(1, 1, 6), Random(1, 1, 4)},
		Attributes: []*onnx.Attribute{number("q_num_heads", 2), number("kv_num_heads", 2), onnx.StringAttribute("update_rule", "linear"), onnx.FloatAttribute("scale", 2)}})

	x, past := Random(2, 3, 5), Random(2, 3, 3)
	for name, in := range map[string][]Input{
		"plain":      {x, Random(3, 1, 4)},
		"bias":       {x, Random(3, 1, 4), Random(3)},
		"state":      {x, Random(3, 1, 4), Random(3), past},
		"no bias":    {x, Random(3, 1, 4), absent, past},
		"short":      {Random(2, 3, 2), Random(3, 1, 4), Random(3), past},
		"one weight": {x, Random(3, 1, 1)},
	} {
		for _, activation := range []string{"none", "silu"} {
			for _, ignore := range [][]int{nil, {0}, {1}} {
				if name == "one weight" && ignore != nil {
					continue
				}
				GradientCases = append(GradientCases, GradientCase{Name: fmt.Sprint("CausalConvWithState/", name, "/", activation, ignore), OpType: "CausalConvWithState",
					Opset: 27, Inputs: in, Outputs: 2, Ignore: ignore, Attributes: []*onnx.Attribute{onnx.StringAttribute("activation", activation)}})
			}
		}
	}
}
