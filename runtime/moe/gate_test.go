package moe

import (
	"math"
	"slices"
	"strings"
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

func TestNewGateRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		topK  int
		gate  string
		fails string
	}{
		{"more choices than experts", 5, GateNaive, "top_k is 5, more than the 4 experts"},
		{"no choices", 0, GateNaive, "must be 1 to the number of experts"},
		{"unknown gate", 1, "other", `gate "other" is not known; there are`},
	} {
		config := NaiveConfig(c.topK, GELU)
		config.Gate = c.gate
		if _, err := NewGate(config, 4); err == nil || !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: error is %v, want one with %q", c.name, err, c.fails)
		}
	}
}
