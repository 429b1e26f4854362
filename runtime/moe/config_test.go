package moe

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestConfigRoundTrip(t *testing.T) {
	for name, x := range map[string]struct {
		gate   string
		topK   int
		change func(c *Config)
	}{
		"defaults":     {GateNaive, 3, func(c *Config) {}},
		"over all":     {GateNaive, 3, func(c *Config) { c.Normalize = false }},
		"4 bits":       {GateNaive, 3, func(c *Config) { c.Quantization = Quantization{Bits: 4, Block: 64} }},
		"8 bits":       {GateNoisy, 3, func(c *Config) { c.Quantization = Quantization{Bits: 8, Block: 16} }},
		"sigmoid":      {GateNaive, 3, func(c *Config) { c.Scores, c.RoutedScaling = ScoresSigmoid, 2.5 }},
		"ones":         {GateSwipe, 3, func(c *Config) { c.Scores = ScoresOne }},
		"capacity":     {GateExpertChoice, 3, func(c *Config) { c.CapacityTrain, c.CapacityEval = 1.3, Unlimited }},
		"random":       {GateGShard, 2, func(c *Config) { c.RandomRouting = false }},
		"groups":       {GateSigmoid, 3, func(c *Config) { c.Groups, c.TopGroups = 4, 2 }},
		"workers":      {GateTopology, 2, func(c *Config) { c.Workers, c.WorkersPerNode, c.Fraction = 8, 4, 0.2 }},
		"keys, jitter": {GateSwitch, 1, func(c *Config) { c.Seed, c.Layer, c.Jitter = 1<<40, 3, 0.01 }},
		"tile":         {GateTokenRounding, 3, func(c *Config) { c.Tile = 64 }},
	} {
		for _, activation := range Activations {
			c := DefaultConfig(x.gate)
			c.TopK, c.Activation = x.topK, activation
			x.change(&c)
			got, err := ParseConfig(&onnx.Node{Attributes: c.Encode()})
			if err != nil || got != c {
				t.Errorf("%s: %+v came back as %+v, %v", name, c, got, err)
			}
		}
	}
}

func TestParseConfig(t *testing.T) {
	topK := onnx.IntAttribute(AttributeTopK, 2)
	naive := func(topK int, activation Activation, normalize bool, q Quantization) Config {
		c := NaiveConfig(topK, activation)
		c.Normalize, c.Quantization = normalize, q
		return c
	}
	reference := &onnx.Attribute{Name: AttributeTopK, Type: onnx.AttributeInt, RefName: "k"}
	for _, c := range []struct {
		name       string
		attributes []*onnx.Attribute
		want       Config
		fails      string // part of the error
	}{
		{"defaults", []*onnx.Attribute{topK}, naive(2, GELU, true, Quantization{}), ""},
		{"all", []*onnx.Attribute{onnx.StringAttribute("activation", "silu"), topK, onnx.IntAttribute("normalize", 0)},
			naive(2, SiLU, false, Quantization{}), ""},
		{"default block", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 4)},
			naive(2, GELU, true, Quantization{4, 32}), ""},
		{"floating-point experts", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 0)}, naive(2, GELU, true, Quantization{}), ""},
		{"block without bits", []*onnx.Attribute{topK, onnx.IntAttribute("block_size", 32)}, Config{}, "block_size needs expert_bits"},
		{"block no power of two", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 8), onnx.IntAttribute("block_size", 48)}, Config{}, "block_size is 48"},
		{"block huge", []*onnx.Attribute{topK, onnx.IntAttribute("expert_bits", 8), onnx.IntAttribute("block_size", 1<<62)}, Config{}, "block_size is"},
		{"no top_k", nil, Config{}, "top_k is 0 or missing"},
		{"top_k 0", []*onnx.Attribute{onnx.IntAttribute("top_k", 0)}, Config{}, "top_k is 0"},
		{"top_k huge", []*onnx.Attribute{onnx.IntAttribute("top_k", 1<<32+1)}, Config{}, "must be 1 to"},
		{"top_k float", []*onnx.Attribute{onnx.FloatAttribute("top_k", 2)}, Config{}, "attribute type"},
		{"top_k unresolved", []*onnx.Attribute{reference}, Config{}, "refers to"},
		{"normalize 2", []*onnx.Attribute{topK, onnx.IntAttribute("normalize", 2)}, Config{}, "must be 0 or 1"},
		{"unknown gate", []*onnx.Attribute{topK, onnx.StringAttribute("gate", "nice")}, Config{}, "there are "},
		{"unknown activation", []*onnx.Attribute{topK, onnx.StringAttribute("activation", "gelo")}, Config{}, "gelu, gelu_tanh"},
		{"scores", []*onnx.Attribute{topK, onnx.StringAttribute("scores", "softmin")}, Config{}, "there are softmax, sigmoid, one"},
		{"no capacity", []*onnx.Attribute{topK, onnx.FloatAttribute("capacity_factor_eval", 0)}, Config{}, "capacity_factor_eval is 0, must be above 0, or -1 for no limit"},
		{"scaling by 0", []*onnx.Attribute{topK, onnx.FloatAttribute("routed_scaling", 0)}, Config{}, "must be positive"},
		{"top groups", []*onnx.Attribute{topK, onnx.IntAttribute("groups", 2), onnx.IntAttribute("top_groups", 3)}, Config{}, "1 to the number of groups, 2"},
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

func TestWithGate(t *testing.T) {
	c := DefaultConfig(GateSwitch)
	c.TopK, c.Activation, c.CapacityEval, c.Jitter, c.Seed, c.Layer = 1, SiLU, 3, 0.2, 7, 2
	for gate, change := range map[string]func(c *Config){
		GateSwitch: func(*Config) {},
		GateDC:     func(c *Config) { c.Normalize, c.RandomRouting, c.Jitter = true, true, 0 },
		GateNaive: func(c *Config) {
			c.Normalize, c.CapacityTrain, c.CapacityEval, c.Jitter = true, Unlimited, Unlimited, 0
		},
	} {
		want := c
		want.Gate = gate
		change(&want)
		if got := c.WithGate(gate); got != want {
			t.Errorf("with the gate %s:\n%+v, want\n%+v", gate, got, want)
		}
	}
}
