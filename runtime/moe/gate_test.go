package moe

import (
	"math"
	"slices"
	"testing"
)

func TestNaive(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	e := math.E
	for _, c := range []struct {
		name    string
		experts int
		topK    int
		overAll bool
		logits  []float64
		indices []int32
		scores  []float64
	}{
		{"best first", 4, 2, false, []float64{0, 2, 1, -5}, []int32{1, 2}, []float64{e / (1 + e), 1 / (1 + e)}},
		{"several tokens", 2, 1, false, []float64{0, 1, 3, 2, 5, 6}, []int32{1, 0, 1}, []float64{1, 1, 1}},
		{"no tokens", 3, 2, false, nil, nil, nil},
		{"ties go to the lower index", 5, 3, false, []float64{1, 7, 1, 7, 1}, []int32{1, 3, 0},
			[]float64{1 / (2 + math.Exp(-6)), 1 / (2 + math.Exp(-6)), math.Exp(-6) / (2 + math.Exp(-6))}},
		{"all equal", 4, 2, false, []float64{0, 0, 0, 0}, []int32{0, 1}, []float64{.5, .5}},
		{"all chosen", 3, 3, false, []float64{1, 2, 3}, []int32{2, 1, 0},
			[]float64{e * e / (1 + e + e*e), e / (1 + e + e*e), 1 / (1 + e + e*e)}},
		{"one expert", 1, 1, false, []float64{-40}, []int32{0}, []float64{1}},
		{"softmax over all", 3, 1, true, []float64{1, 0, 0}, []int32{0}, []float64{e / (e + 2)}},
		{"softmax over all, all chosen", 2, 2, true, []float64{0, 1}, []int32{1, 0}, []float64{e / (e + 1), 1 / (e + 1)}},
		{"large logits do not overflow", 2, 2, false, []float64{-1e300, 1e300}, []int32{1, 0}, []float64{1, 0}},
		{"masked experts", 3, 2, false, []float64{-inf, 1, -inf}, []int32{1, 0}, []float64{1, 0}},
		{"not a number is chosen last", 3, 2, false, []float64{nan, 1, 1}, []int32{1, 2}, []float64{.5, .5}},
		{"nothing but not a number", 3, 2, false, []float64{nan, nan, nan}, []int32{0, 1}, []float64{nan, nan}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := NaiveConfig(c.topK, GELU)
			config.Normalize = !c.overAll
			gate, err := NewGate(config, c.experts)
			if err != nil {
				t.Fatal(err)
			}
			b := &Batch{Tokens: len(c.logits) / c.experts, Experts: c.experts, Logits: c.logits,
				Indices: make([]int32, len(c.indices)), Scores: make([]float64, len(c.scores))}
			route := func() {
				gate.Choose(b, 0, b.Tokens)
				gate.Settle(b)
			}
			route()
			if !slices.Equal(b.Indices, c.indices) {
				t.Errorf("experts %v, want %v", b.Indices, c.indices)
			}
			for i, want := range c.scores {
				if d := math.Abs(b.Scores[i] - want); d > 1e-15 || (want != want) != (b.Scores[i] != b.Scores[i]) {
					t.Errorf("scores %v, want %v", b.Scores, c.scores)
				}
			}
			if n := testing.AllocsPerRun(1, route); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// TestRefusals: what does not go together is refused in a line that says what
// is allowed.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		gate   string
		topK   int
		change func(c *Config)
		want   string
	}{
		{GateNaive, 5, nil, "attribute top_k is 5, more than the 4 experts"},
		{GateNaive, 0, nil, "attribute top_k is 0 or missing, must be 1 to the number of experts"},
		{"other", 1, nil, `gate "other" is not known; there are dc, expert-choice, gshard, naive, noisy, sigmoid, swipe, switch, token-rounding, topology, zero`},
		{GateGShard, 3, nil, "top_k is 3; the gate gshard takes top_k 2 only"},
		{GateDC, 1, nil, "top_k is 1; the gate dc takes top_k 2 only"},
		{GateTopology, 4, nil, "top_k is 4; the gate topology takes top_k 2 only"},
		{GateSwitch, 2, nil, "top_k is 2; the gate switch takes top_k 1 only"},
		{GateGShard, 2, func(c *Config) { c.CapacityTrain = 0 }, "attribute capacity_factor_train is 0, must be above 0, or -1 for no limit"},
		{GateExpertChoice, 2, func(c *Config) { c.CapacityEval = -2 }, "attribute capacity_factor_eval is -2, must be above 0, or -1 for no limit"},
		{GateNaive, 2, func(c *Config) { c.CapacityEval = 1 }, "attribute capacity_factor_eval does not go with the gate naive, which takes none of its kind"},
		{GateSwitch, 1, func(c *Config) { c.RandomRouting = true }, "attribute random_routing does not go with the gate switch, which takes capacity_factor_train, capacity_factor_eval, jitter"},
		{GateSwitch, 1, func(c *Config) { c.Jitter = 1 }, "attribute jitter is 1, must be 0 to below 1"},
		{GateSigmoid, 2, func(c *Config) { c.Groups, c.TopGroups = 3, 1 }, "attribute groups is 3, must divide the number of experts, 4"},
		{GateSigmoid, 2, func(c *Config) { c.Groups, c.TopGroups = 2, 3 }, "attribute top_groups is 3, must be 1 to the number of groups, 2"},
		{GateSigmoid, 2, func(c *Config) { c.Groups, c.TopGroups = 4, 1 }, "top_k is 2, more than the 1 experts of top_groups 1"},
		{GateSigmoid, 2, func(c *Config) { c.Scores = ScoresSoftmax }, "scores are softmax; the gate sigmoid takes sigmoid only"},
		{GateZero, 2, func(c *Config) { c.Scores = ScoresOne }, "scores are one; the gate zero has the score 1/k and takes none"},
		{GateTokenRounding, 2, func(c *Config) { c.Tile = 0 }, "attribute tile is 0; the gate token-rounding takes 1 or more rows"},
		{GateSwipe, 2, func(c *Config) { c.Workers = 3 }, "attribute workers is 3, must divide the number of experts, 4"},
		{GateTopology, 2, func(c *Config) { c.Workers = 4 }, "4 experts on 4 nodes; the gate topology takes two experts or more on each node"},
		{GateTopology, 2, func(c *Config) { c.Workers, c.WorkersPerNode = 2, 3 }, "attribute workers_per_node is 3, must divide the number of workers, 2"},
	} {
		config := DefaultConfig(c.gate)
		config.TopK = c.topK
		if c.change != nil {
			c.change(&config)
		}
		if _, err := NewGate(config, 4); err == nil || err.Error() != c.want {
			t.Errorf("%s with top_k %d: error is %v, want %q", c.gate, c.topK, err, c.want)
		}
	}
}
