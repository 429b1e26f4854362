package op

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// fmoeShapes are the shapes of a layer of 8 experts, d = 4, h = 16, in input
// order. Tests replace some.
var fmoeShapes = map[int][]Dim{
	moe.InputX:          {-1, 10, 4},
	moe.InputGateWeight: {4, 8},
	moe.InputGateBias:   {8},
	moe.InputFC1Weight:  {8, 16, 4},
	moe.InputFC1Bias:    {8, 16},
	moe.InputFC2Weight:  {8, 4, 16},
	moe.InputFC2Bias:    {8, 4},
	moe.InputFC3Weight:  {8, 16, 4},
	moe.InputFC3Bias:    {8, 16},
}

// halfExperts are the types of a layer in float16 with a router of others.
func halfExperts(gateWeight, gateBias onnx.DataType) map[int]onnx.DataType {
	types := map[int]onnx.DataType{}
	for slot := range fmoeShapes {
		types[slot] = onnx.Float16
	}
	types[moe.InputGateWeight], types[moe.InputGateBias] = gateWeight, gateBias
	return types
}

func inferFMoEShapes(topK int, shapes map[int][]Dim, types map[int]onnx.DataType) ([]Fact, error) {
	config := moe.NaiveConfig(topK, moe.GELU)
	n := &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(), Outputs: []string{"y", "loss", "count"},
		Inputs: make([]string, moe.InputCount)}
	facts := make([]Fact, moe.InputCount)
	for slot, shape := range shapes {
		n.Inputs[slot] = fmt.Sprint("in", slot)
		facts[slot] = Fact{Type: onnx.Float32, Shape: shape}
		if t, ok := types[slot]; ok {
			facts[slot].Type = t
		}
	}
	node, err := Resolve(n, moe.Version)
	if err != nil {
		return nil, err
	}
	return Infer(node, facts, &Symbols{last: -100})
}

// TestInferQuantizedFMoE: the shapes and types of weights in fewer bits.
func TestInferQuantizedFMoE(t *testing.T) {
	valid := map[int]Fact{
		moe.InputX: {Type: onnx.Float32, Shape: []Dim{-1, 40}}, moe.InputGateWeight: {Type: onnx.Float32, Shape: []Dim{40, 8}},
		moe.InputFC1Weight: {Type: onnx.Uint8, Shape: []Dim{8, 70, 2, 16}}, moe.InputFC1Scales: {Type: onnx.Float32, Shape: []Dim{8, 70, 2}},
		moe.InputFC2Weight: {Type: onnx.Uint8, Shape: []Dim{8, 40, 3, 16}}, moe.InputFC2Scales: {Type: onnx.Float32, Shape: []Dim{8, 40, 3}},
	}
	half := map[int]Fact{moe.InputFC1Weight: {Type: onnx.BFloat16, Shape: []Dim{8, 70, 40}}, moe.InputFC2Weight: {Type: onnx.BFloat16, Shape: []Dim{8, 40, 70}},
		moe.InputFC1Scales: {}, moe.InputFC2Scales: {}}
	int4 := moe.Quantization{Bits: 4, Block: 32}
	fact := func(slot int, t onnx.DataType, shape ...Dim) map[int]Fact {
		return map[int]Fact{slot: {Type: t, Shape: shape}}
	}
	for _, c := range []struct {
		name         string
		quantization moe.Quantization
		replace      map[int]Fact
		fails        string
	}{
		{"int4", int4, nil, ""},
		{"bfloat16", moe.Quantization{}, half, ""},
		{"no bits", moe.Quantization{}, nil, "has fc1_scales, but no attribute expert_bits"},
		{"5 bits", moe.Quantization{Bits: 5, Block: 32}, nil, "expert_bits is 5; it can be 4 or 8"},
		{"block of 8", moe.Quantization{Bits: 4, Block: 8}, nil, "block_size is 8; it can be a power of two from 16"},
		{"8 bits", moe.Quantization{Bits: 8, Block: 32}, nil, "fc1_weight has shape [8,70,2,16], needs [8,?,2,32]"},
		{"other blocks", int4, fact(moe.InputFC2Weight, onnx.Uint8, 8, 40, 2, 16), "fc2_weight has shape [8,40,2,16], needs [8,40,3,16]"},
		{"floating-point weights", int4, fact(moe.InputFC1Weight, onnx.Float32, 8, 70, 2, 16), "input 5 has elements of type uint8, others have float32"},
		{"no scales", int4, map[int]Fact{moe.InputFC2Scales: {}}, "need both fc2_weight and fc2_scales"},
		{"scales of other blocks", int4, fact(moe.InputFC1Scales, onnx.Float32, 8, 70, 3), "fc1_scales has shape [8,70,3], needs [8,70,2]"},
		{"scales of float16", int4, fact(moe.InputFC1Scales, onnx.Float16, 8, 70, 2), "fc1_scales has type float16, must be float32"},
		{"float64 tokens", int4, fact(moe.InputX, onnx.Float64, 3, 40), "tokens have type float64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := moe.NaiveConfig(2, moe.GELU)
			config.Quantization = c.quantization
			n := &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(), Outputs: []string{"y"}, Inputs: make([]string, moe.InputCount)}
			facts := make([]Fact, moe.InputCount)
			for slot := range facts {
				facts[slot] = valid[slot]
				if f, ok := c.replace[slot]; ok {
					facts[slot] = f
				}
				if facts[slot].Type != onnx.Undefined {
					n.Inputs[slot] = moe.InputNames[slot]
				}
			}
			node, err := Resolve(n, moe.Version)
			if err != nil {
				t.Fatal(err)
			}
			out, err := Infer(node, facts, &Symbols{last: -100})
			switch {
			case c.fails == "" && err != nil:
				t.Error(err)
			case c.fails == "" && (out[0].Type != onnx.Float32 || FormatDims(out[0].Shape) != "[?,40]"):
				t.Errorf("got %v", out)
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("error is %v, want one with %q", err, c.fails)
			}
		})
	}
}

func TestInferFMoE(t *testing.T) {
	with := func(slot int, shape []Dim) map[int][]Dim {
		shapes := map[int][]Dim{}
		for s, d := range fmoeShapes {
			shapes[s] = d
		}
		if shapes[slot] = shape; shape == nil {
			delete(shapes, slot)
		}
		return shapes
	}
	for _, c := range []struct {
		name   string
		topK   int
		shapes map[int][]Dim
		types  map[int]onnx.DataType
		want   string // shapes of Y and expert_count
		fails  string // part of the error
	}{
		{name: "everything there", topK: 2, shapes: fmoeShapes, want: "[?,10,4] [8]"},
		{name: "no gate bias", topK: 8, shapes: with(moe.InputGateBias, nil), want: "[?,10,4] [8]"},
		{name: "one token", topK: 1, shapes: with(moe.InputX, []Dim{4}), want: "[4] [8]"},
		{name: "width of X from the weights", topK: 1, shapes: with(moe.InputX, []Dim{3, -7}), want: "[3,4] [8]"},
		{name: "nothing known", topK: 1, shapes: map[int][]Dim{moe.InputX: {-1, -2}, moe.InputGateWeight: {-3, -4},
			moe.InputFC1Weight: {-5, -6, -7}, moe.InputFC2Weight: {-8, -9, -10}}, want: "[?,?] [?]"},

		{name: "top_k above the experts", topK: 9, shapes: fmoeShapes, fails: "top_k is 9, more than the 8 experts"},
		{name: "scalar", topK: 2, shapes: with(moe.InputX, []Dim{}), fails: "scalar"},
		{name: "width of X", topK: 2, shapes: with(moe.InputX, []Dim{3, 5}), fails: "gate_weight has shape [4,8], needs [5,?]"},
		{name: "router of other experts", topK: 2, shapes: with(moe.InputGateWeight, []Dim{4, 7}), fails: "gate_bias"},
		{name: "empty tokens", topK: 1, shapes: map[int][]Dim{moe.InputX: {1 << 40, 0}, moe.InputGateWeight: {0, 4},
			moe.InputFC1Weight: {4, 3, 0}, moe.InputFC2Weight: {4, 0, 3}}, fails: "d_model is 0"},
		{name: "gate bias", topK: 2, shapes: with(moe.InputGateBias, []Dim{1, 8}), fails: "gate_bias has shape [1,8], needs [8]"},
		{name: "fc1 transposed", topK: 2, shapes: with(moe.InputFC1Weight, []Dim{8, 4, 16}), fails: "fc1_weight has shape [8,4,16], needs [8,?,4]"},
		{name: "fc2 transposed", topK: 2, shapes: with(moe.InputFC2Weight, []Dim{8, 16, 4}), fails: "fc2_weight has shape [8,16,4], needs [8,4,16]"},
		{name: "fc2 bias", topK: 2, shapes: with(moe.InputFC2Bias, []Dim{4}), fails: "fc2_bias"},
		{name: "fc3 of other width", topK: 2, shapes: with(moe.InputFC3Weight, []Dim{8, 17, 4}), fails: "fc3_weight"},
		{name: "fc3 bias alone", topK: 2, shapes: with(moe.InputFC3Weight, nil), fails: "fc3_bias without fc3_weight"},
		{name: "no fc2", topK: 2, shapes: with(moe.InputFC2Weight, nil), fails: "lacks its input 5, fc2_weight"},
		{name: "noise", topK: 2, shapes: with(moe.InputNoiseWeight, []Dim{4, 8}), fails: "noise_weight"},
		{name: "mixed types", topK: 2, shapes: fmoeShapes, types: map[int]onnx.DataType{moe.InputFC1Weight: onnx.Float16}, fails: "float16"},
		{name: "router in float32 of experts in float16", topK: 2, shapes: fmoeShapes, types: halfExperts(onnx.Float32, onnx.Float32), want: "[?,10,4] [8]"},
		{name: "router in float64 of experts in float16", topK: 2, shapes: fmoeShapes, types: halfExperts(onnx.Float64, onnx.Float64), fails: "router has type float64, its experts float16"},
		{name: "router in two types", topK: 2, shapes: fmoeShapes, types: halfExperts(onnx.Float16, onnx.Float32), fails: "input 2 has elements of type float32"},
		{name: "router in float16 of experts in float32", topK: 2, shapes: fmoeShapes,
			types: map[int]onnx.DataType{moe.InputGateWeight: onnx.Float16, moe.InputGateBias: onnx.Float16}, fails: "router has type float16"},
		{name: "integers", topK: 2, shapes: with(moe.InputGateWeight, nil), fails: "gate_weight"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := inferFMoEShapes(c.topK, c.shapes, c.types)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v, want one with %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := FormatDims(out[moe.OutputY].Shape) + " " + FormatDims(out[moe.OutputExpertCount].Shape); got != c.want {
				t.Errorf("shapes %s, want %s", got, c.want)
			}
			want := onnx.Float32
			if x, ok := c.types[moe.InputX]; ok {
				want = x
			}
			if out[moe.OutputY].Type != want || out[moe.OutputExpertCount].Type != onnx.Int64 || out[moe.OutputAuxLoss].Type != onnx.Float32 || len(out[moe.OutputAuxLoss].Shape) != 0 {
				t.Errorf("outputs are %v", out)
			}
		})
	}
}

// TestInferFMoEGates: the inputs that gates take, and the outputs that tell of
// them.
func TestInferFMoEGates(t *testing.T) {
	scalar := []Dim{}
	noise, step, mask := moe.InputNoiseWeight, moe.InputStep, moe.InputMask
	type inputs = map[int]Fact
	f := func(t onnx.DataType, shape ...Dim) Fact { return Fact{Type: t, Shape: append([]Dim{}, shape...)} }
	for _, c := range []struct {
		name  string
		gate  string
		topK  int
		x     Fact
		more  inputs
		want  string // shapes of all outputs
		fails string
	}{
		{name: "naive", gate: moe.GateNaive, topK: 2, x: f(onnx.Float32, -1, 10, 4), want: "[?,10,4] [] [8] [] [?,10,2] [?,10,2] [?,10,8]"},
		{name: "one token", gate: moe.GateNaive, topK: 3, x: f(onnx.Float64, 4), want: "[4] [] [8] [] [3] [3] [8]"},
		{name: "unknown tokens", gate: moe.GateNaive, topK: 2, x: Fact{Type: onnx.Float32}, want: "unknown [] [8] [] unknown unknown unknown"},
		{name: "float16", gate: moe.GateNaive, topK: 2, x: f(onnx.Float16, 5, 4), want: "[5,4] [] [8] [] [5,2] [5,2] [5,8]"},
		{name: "experts choose", gate: moe.GateExpertChoice, topK: 2, x: f(onnx.Float32, 3, 4), want: "[3,4] [] [8] [] [3,8] [3,8] [3,8]"},
		{name: "everything", gate: moe.GateNoisy, topK: 2, x: f(onnx.Float32, 3, 5, 4), more: inputs{noise: f(onnx.Float32, 4, 8), step: f(onnx.Int64, scalar...),
			mask: f(onnx.Bool, 3, 5)}, want: "[3,5,4] [] [8] [] [3,5,2] [3,5,2] [3,5,8]"},
		{name: "a flat mask", gate: moe.GateNaive, topK: 2, x: f(onnx.Float32, 3, 5, 4), more: inputs{mask: f(onnx.Bool, 15)}, want: "[3,5,4] [] [8] [] [3,5,2] [3,5,2] [3,5,8]"},
		{name: "noise in evaluation", gate: moe.GateNoisy, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{noise: f(onnx.Float32, 4, 8)}, want: "[3,4] [] [8] [] [3,2] [3,2] [3,8]"},

		{name: "short mask", gate: moe.GateNaive, topK: 2, x: f(onnx.Float32, 3, 5, 4), more: inputs{mask: f(onnx.Bool, 3)}, fails: "mask has shape [3] for tokens [3,5]; it must have an element for each token"},
		{name: "integer mask", gate: moe.GateNaive, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{mask: f(onnx.Int64, 3)}, fails: "mask has type int64, must be bool"},
		{name: "list of steps", gate: moe.GateNaive, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{step: f(onnx.Int64, 2)}, fails: "step has shape [2], needs []"},
		{name: "fractional step", gate: moe.GateNaive, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{step: f(onnx.Float32)}, fails: "step has type float32, must be int64"},
		{name: "balanced by a bias", gate: moe.GateTokenRounding, topK: 2, x: f(onnx.BFloat16, 3, 4), more: inputs{moe.InputSelectionBias: f(onnx.BFloat16, 8)}, want: "[3,4] [] [8] [] [3,8] [3,8] [3,8]"},
		{name: "bias of another gate", gate: moe.GateGShard, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{moe.InputSelectionBias: f(onnx.Float32, 8)}, fails: "has selection_bias, which the gate gshard does not take"},
		{name: "selection bias", gate: moe.GateSigmoid, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{moe.InputSelectionBias: f(onnx.Float32, 7)}, fails: "selection_bias has shape [7], needs [8]"},
		{name: "no noise in training", gate: moe.GateNoisy, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{step: f(onnx.Int64)}, fails: "lacks noise_weight, which the gate noisy takes in training"},
		{name: "noise", gate: moe.GateNaive, topK: 2, x: f(onnx.Float32, 3, 4), more: inputs{noise: f(onnx.Float32, 4, 8)}, fails: "has noise_weight, which the gate naive does not take"},
		{name: "top-k", gate: moe.GateSwitch, topK: 2, x: f(onnx.Float32, 3, 4), fails: "the gate switch takes top_k 1 only"},
		{name: "unknown gate", gate: "best", topK: 2, x: f(onnx.Float32, 3, 4), fails: `gate "best" is not known; there are`},
		{name: "what to do about an unknown gate", gate: "best", topK: 2, x: f(onnx.Float32, 3, 4), fails: `must call moe.Register with the gate first, or "fmoefy regate" gives the model another one`},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := moe.DefaultConfig(c.gate)
			config.TopK = c.topK
			n := &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(), Outputs: moe.OutputNames[:moe.OutputHidden], Inputs: make([]string, moe.InputCount)}
			facts := make([]Fact, moe.InputCount)
			facts[moe.InputX] = c.x
			for _, slot := range []int{moe.InputGateWeight, moe.InputFC1Weight, moe.InputFC2Weight} {
				facts[slot] = Fact{Type: c.x.Type, Shape: fmoeShapes[slot]}
			}
			for slot, fact := range c.more {
				facts[slot] = fact
			}
			for slot := range facts {
				if facts[slot].Type != onnx.Undefined {
					n.Inputs[slot] = moe.InputNames[slot]
				}
			}
			node, err := Resolve(n, moe.Version)
			if err != nil {
				t.Fatal(err)
			}
			out, err := Infer(node, facts, &Symbols{last: -100})
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v, want one with %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var shapes []string
			for _, o := range out {
				shape := "unknown"
				if o.Shape != nil {
					shape = FormatDims(o.Shape)
				}
				shapes = append(shapes, shape)
			}
			if got := strings.Join(shapes, " "); got != c.want {
				t.Errorf("shapes %s, want %s", got, c.want)
			}
			router := c.x.Type
			if router.Bits() == 16 {
				router = onnx.Float32
			}
			for slot, want := range []onnx.DataType{c.x.Type, router, onnx.Int64, router, onnx.Int64, router, router} {
				if out[slot].Type != want {
					t.Errorf("%s has type %s, want %s", moe.OutputNames[slot], out[slot].Type, want)
				}
			}
		})
	}
}
