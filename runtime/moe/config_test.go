package moe

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestConfigRoundTrip(t *testing.T) {
	for _, activation := range Activations {
		for _, gate := range Gates {
			for _, normalize := range []bool{true, false} {
				for _, q := range []Quantization{{}, {Bits: 4, Block: 64}, {Bits: 8, Block: 16}} {
					c := Config{TopK: 3, Gate: gate, Activation: activation, Normalize: normalize, Quantization: q}
					got, err := ParseConfig(&onnx.Node{Attributes: c.Encode()})
					if err != nil || got != c {
						t.Errorf("%+v came back as %+v, %v", c, got, err)
					}
				}
			}
		}
	}
}

func TestParseConfig(t *testing.T) {
	topK := onnx.IntAttribute(AttributeTopK, 2)
	reference := &onnx.Attribute{Name: AttributeTopK, Type: onnx.AttributeInt, RefName: "k"}
	for _, c := range []struct {
		name       string
		attributes []*onnx.Attribute
		want       Config
		fails      string // part of the error
	}{
		{"defaults", []*onnx.Attribute{topK}, Config{TopK: 2, Gate: "naive", Activation: GELU, Normalize: true}, ""},
		{"all", []*onnx.Attribute{onnx.StringAttribute("activation", "silu"), topK, onnx.IntAttribute("normalize", 0)},
			Config{TopK: 2, Gate: "naive", Activation: SiLU}, ""},
		{"default block", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 4)},
			Config{TopK: 2, Gate: "naive", Activation: GELU, Normalize: true, Quantization: Quantization{4, 32}}, ""},
		{"floating-point experts", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 0)}, Config{TopK: 2, Gate: "naive", Activation: GELU, Normalize: true}, ""},
		{"block without bits", []*onnx.Attribute{topK, onnx.IntAttribute("block_size", 32)}, Config{}, "block_size needs expert_bits"},
		{"block no power of two", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 8), onnx.IntAttribute("block_size", 48)}, Config{}, "block_size is 48"},
		{"block huge", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 8), onnx.IntAttribute("block_size", 1<<62)}, Config{}, "block_size is"},
		{"no top_k", nil, Config{}, "top_k is missing"},
		{"top_k 0", []*onnx.Attribute{onnx.IntAttribute("top_k", 0)}, Config{}, "top_k is 0"},
		{"top_k huge", []*onnx.Attribute{onnx.IntAttribute("top_k", 1<<32+1)}, Config{}, "must be 1 to"},
		{"top_k float", []*onnx.Attribute{onnx.FloatAttribute("top_k", 2)}, Config{}, "attribute type"},
		{"top_k unresolved", []*onnx.Attribute{reference}, Config{}, "refers to"},
		{"normalize 2", []*onnx.Attribute{topK, onnx.IntAttribute("normalize", 2)}, Config{}, "must be 0 or 1"},
		{"unknown gate", []*onnx.Attribute{topK, onnx.StringAttribute("gate", "nice")}, Config{}, "there are naive"},
		{"unknown activation", []*onnx.Attribute{topK, onnx.StringAttribute("activation", "gelo")}, Config{}, "gelu, gelu_tanh"},
		{"unknown attribute", []*onnx.Attribute{topK, onnx.IntAttribute("topk", 2)}, Config{}, "there are top_k, gate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseConfig(&onnx.Node{Attributes: c.attributes})
			switch {
			case c.fails == "" && err != nil:
				t.Error(err)
			case c.fails == "" && got != c.want:
				t.Errorf("got %+v, want %+v", got, c.want)
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("error is %v, want one with %q", err, c.fails)
			}
		})
	}
}
