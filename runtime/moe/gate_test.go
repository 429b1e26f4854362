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
		config  Config
		logits  []float64
		indices []int32
		scores  []float64
	}{
		{"best first", 4, Config{TopK: 2, Normalize: true}, []float64{0, 2, 1, -5}, []int32{1, 2}, []float64{e / (1 + e), 1 / (1 + e)}},
		{"several tokens", 2, Config{TopK: 1, Normalize: true}, []float64{0, 1, 3, 2, 5, 6}, []int32{1, 0, 1}, []float64{1, 1, 1}},
		{"no tokens", 3, Config{TopK: 2, Normalize: true}, nil, nil, nil},
		{"ties go to the lower index", 5, Config{TopK: 3, Normalize: true}, []float64{1, 7, 1, 7, 1}, []int32{1, 3, 0},
			[]float64{1 / (2 + math.Exp(-6)), 1 / (2 + math.Exp(-6)), math.Exp(-6) / (2 + math.Exp(-6))}},
		{"all equal", 4, Config{TopK: 2, Normalize: true}, []float64{0, 0, 0, 0}, []int32{0, 1}, []float64{.5, .5}},
		{"all chosen", 3, Config{TopK: 3, Normalize: true}, []float64{1, 2, 3}, []int32{2, 1, 0},
			[]float64{e * e / (1 + e + e*e), e / (1 + e + e*e), 1 / (1 + e + e*e)}},
		{"one expert", 1, Config{TopK: 1, Normalize: true}, []float64{-40}, []int32{0}, []float64{1}},
		{"softmax over all", 3, Config{TopK: 1}, []float64{1, 0, 0}, []int32{0}, []float64{e / (e + 2)}},
		{"softmax over all, all chosen", 2, Config{TopK: 2}, []float64{0, 1}, []int32{1, 0}, []float64{e / (e + 1), 1 / (e + 1)}},
		{"large logits do not overflow", 2, Config{TopK: 2, Normalize: true}, []float64{-1e300, 1e300}, []int32{1, 0}, []float64{1, 0}},
		{"masked experts", 3, Config{TopK: 2, Normalize: true}, []float64{-inf, 1, -inf}, []int32{1, 0}, []float64{1, 0}},
		{"not a number is chosen last", 3, Config{TopK: 2, Normalize: true}, []float64{nan, 1, 1}, []int32{1, 2}, []float64{.5, .5}},
		{"nothing but not a number", 3, Config{TopK: 2, Normalize: true}, []float64{nan, nan, nan}, []int32{0, 1}, []float64{nan, nan}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Gate = GateNaive
			testNaive(t, c.experts, c.config, c.logits, c.indices, c.scores, 1e-15)
			testNaive(t, c.experts, c.config, narrow(c.logits), c.indices, narrow(c.scores), 1e-7)
		})
	}
}

func testNaive[T Float](t *testing.T, experts int, config Config, logits []T, wantIndices []int32, wantScores []T, tolerance float64) {
	gate, err := NewGate[T](config, experts)
	if err != nil {
		t.Fatal(err)
	}
	indices, scores := make([]int32, len(wantIndices)), make([]T, len(wantScores))
	gate.Route(logits, indices, scores)
	if !slices.Equal(indices, wantIndices) {
		t.Errorf("experts %v, want %v", indices, wantIndices)
	}
	for i, want := range wantScores {
		if d := math.Abs(float64(scores[i] - want)); d > tolerance || (want != want) != (scores[i] != scores[i]) {
			t.Errorf("scores %v, want %v", scores, wantScores)
		}
	}
	if n := testing.AllocsPerRun(1, func() { gate.Route(logits, indices, scores) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func narrow(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(max(min(v, math.MaxFloat32), -math.MaxFloat32))
		if math.IsInf(v, 0) {
			y[i] = float32(v)
		}
	}
	return y
}

func TestNewGateRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"more choices than experts": {TopK: 5, Gate: GateNaive},
		"no choices":                {TopK: 0, Gate: GateNaive},
		"unknown gate":              {TopK: 1, Gate: "other"},
	} {
		if g, err := NewGate[float32](c, 4); err == nil {
			t.Errorf("%s: got %v, want an error", name, g)
		}
	}
}
