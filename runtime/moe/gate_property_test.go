package moe

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// settings are configurations of all gates for 8 experts.
func settings() []Config {
	var list []Config
	add := func(gate string, topK int, change func(c *Config)) {
		c := DefaultConfig(gate)
		c.TopK, c.Seed, c.Layer = topK, 12345, 6
		if change != nil {
			change(&c)
		}
		list = append(list, c)
	}
	tight := func(c *Config) { c.CapacityTrain, c.CapacityEval, c.Workers = 0.6, 0.8, 2 }
	add(GateNaive, 3, nil)
	add(GateNoisy, 2, nil)
	add(GateGShard, 2, nil)
	add(GateGShard, 2, tight)
	add(GateSwitch, 1, tight)
	add(GateSwipe, 3, func(c *Config) { c.Workers = 4 })
	add(GateTopology, 2, func(c *Config) { c.Workers, c.WorkersPerNode = 4, 2 })
	add(GateDC, 2, tight)
	add(GateZero, 2, nil)
	add(GateExpertChoice, 2, tight)
	add(GateSigmoid, 3, func(c *Config) { c.Groups, c.TopGroups, c.RoutedScaling = 4, 2, 2.5 })
	add(GateTokenRounding, 2, func(c *Config) { c.Tile = 16 })
	return list
}

// randomBatch has N tokens before 8 experts, some of them masked.
func randomBatch(c Config, g Gate, tokens int, training bool) *Batch {
	r := rand.New(rand.NewPCG(uint64(tokens), 1))
	b := &Batch{Tokens: tokens, Experts: 8, Training: training, First: 7, WantLoss: true,
		Random: Random{Seed: uint64(c.Seed), Step: 3, Layer: uint32(c.Layer)},
		Logits: make([]float64, tokens*8), Noise: make([]float64, tokens*8), Mask: make([]bool, tokens),
		Indices: make([]int32, tokens*g.Slots()), Scores: make([]float64, tokens*g.Slots())}
	for i := range b.Logits {
		b.Logits[i], b.Noise[i] = r.NormFloat64()+float64(i%8)/4, r.NormFloat64()
	}
	for i := range b.Mask {
		b.Mask[i] = r.IntN(10) > 0
	}
	return b
}

// TestSplits: what a gate decides does not depend on the parts of a batch that
// Choose is called for, nor on their order or concurrency.
func TestSplits(t *testing.T) {
	const tokens = 203
	for _, c := range settings() {
		for _, training := range []bool{false, true} {
			g, err := NewGate(c, 8)
			if err != nil {
				t.Fatal(err)
			}
			want := randomBatch(c, g, tokens, training)
			g.Choose(want, 0, tokens)
			g.Settle(want)
			for _, size := range []int{1, 7, 64, 102} {
				got := randomBatch(c, g, tokens, training)
				var all sync.WaitGroup
				for lo := 0; lo < tokens; lo += size {
					all.Go(func() { g.Choose(got, lo, min(lo+size, tokens)) })
				}
				all.Wait()
				g.Settle(got)
				if !slices.Equal(got.Indices, want.Indices) || !slices.Equal(got.Scores, want.Scores) || got.BalanceLoss != want.BalanceLoss {
					t.Errorf("%s, training %v: parts of %d tokens decide otherwise", c.Gate, training, size)
				}
			}
		}
	}
}

// TestRandomNumbersOfTokens: a token's noise is the same wherever its batch
// begins.
func TestRandomNumbersOfTokens(t *testing.T) {
	for _, c := range []Config{DefaultConfig(GateNoisy), DefaultConfig(GateSwitch)} {
		c.TopK = 1
		g, err := NewGate(c, 8)
		if err != nil {
			t.Fatal(err)
		}
		whole, part := randomBatch(c, g, 50, true), randomBatch(c, g, 50, true)
		part.Tokens, part.First = 20, part.First+30
		part.Logits, part.Noise = part.Logits[30*8:], part.Noise[30*8:]
		g.Choose(whole, 0, 50)
		g.Choose(part, 0, 20)
		if !slices.Equal(part.Logits, whole.Logits[30*8:]) {
			t.Errorf("%s: other noise", c.Gate)
		}
	}
}

// TestCapacityIsKept: no expert has more rows than its capacity, and a slot is
// dropped only where there is no room.
func TestCapacityIsKept(t *testing.T) {
	for _, gate := range []string{GateGShard, GateSwitch, GateDC, GateExpertChoice} {
		for _, factor := range []float64{0.1, 0.5, 1, 1.2, 100, Unlimited} {
			for _, workers := range []int{1, 2, 4, 8} {
				c := DefaultConfig(gate)
				c.CapacityTrain, c.CapacityEval, c.Workers, c.TopK = factor, factor, workers, 2
				if gate == GateSwitch {
					c.TopK = 1
				}
				g, err := NewGate(c, 8)
				if err != nil {
					t.Fatal(err)
				}
				b := randomBatch(c, g, 101, false)
				g.Choose(b, 0, b.Tokens)
				wanted := slices.Clone(b.Indices)
				g.Settle(b)
				sources := 1
				if gate == GateGShard {
					sources = workers
				}
				limits := capacities(g, c, b)
				for w := range sources {
					lo, hi := b.part(w, sources)
					var rows, wants [8]int
					for s := lo * g.Slots(); s < hi*g.Slots(); s++ {
						if e := b.Indices[s]; e >= 0 {
							rows[e]++
						}
						if e := wanted[s]; e >= 0 {
							wants[e]++
						}
					}
					for e := range rows {
						if want := min(limits[w], wants[e]); gate != GateExpertChoice && rows[e] != want || rows[e] > limits[w] {
							t.Errorf("%s, c = %v, %d workers: expert %d has %d rows of worker %d, capacity %d", gate, factor, workers, e, rows[e], w, limits[w])
						}
					}
				}
			}
		}
	}
}

// TestSwipeFillsWorkers: all workers compute as many rows as their tokens have
// choices.
func TestSwipeFillsWorkers(t *testing.T) {
	c := DefaultConfig(GateSwipe)
	c.TopK, c.Workers = 3, 4
	g, err := NewGate(c, 8)
	if err != nil {
		t.Fatal(err)
	}
	b := randomBatch(c, g, 101, true)
	g.Choose(b, 0, b.Tokens)
	g.Settle(b)
	var rows [4]int
	for _, e := range b.Indices {
		if e >= 0 {
			rows[e/2]++
		}
	}
	for w, n := range rows {
		if want := 3 * b.unmasked(b.part(w, 4)); n != want {
			t.Errorf("worker %d has %d rows, want %d", w, n, want)
		}
	}
}

// TestTokenRoundingFillsTiles: in training the rows of experts are multiples of
// the tile.
func TestTokenRoundingFillsTiles(t *testing.T) {
	c := DefaultConfig(GateTokenRounding)
	c.TopK, c.Tile = 2, 16
	g, err := NewGate(c, 8)
	if err != nil {
		t.Fatal(err)
	}
	b := randomBatch(c, g, 300, true)
	g.Choose(b, 0, b.Tokens)
	g.Settle(b)
	var rows [8]int
	for _, e := range b.Indices {
		if e >= 0 {
			rows[e]++
		}
	}
	for e, n := range rows {
		if n%16 != 0 {
			t.Errorf("expert %d has %d rows", e, n)
		}
	}
}

func TestGatesDoNotAllocate(t *testing.T) {
	for _, c := range settings() {
		for _, training := range []bool{false, true} {
			g, err := NewGate(c, 8)
			if err != nil {
				t.Fatal(err)
			}
			b := randomBatch(c, g, 64, training)
			if n := testing.AllocsPerRun(2, func() {
				g.Choose(b, 0, 64)
				g.Settle(b)
			}); n != 0 {
				t.Errorf("%s, training %v: %v allocations", c.Gate, training, n)
			}
		}
	}
}

func TestUpdateSelectionBias(t *testing.T) {
	bias := []float64{0, 1, -1, 0.5}
	UpdateSelectionBias(bias, []int64{2, 6, 4, 4}, 0.25)
	if want := []float64{0.25, 0.75, -1, 0.5}; !slices.Equal(bias, want) {
		t.Errorf("%v, want %v", bias, want)
	}
	UpdateSelectionBias(nil, nil, 1)

	// Repeated, it evens out the rows of experts that tokens like unequally.
	c := DefaultConfig(GateSigmoid)
	c.TopK = 2
	g, err := NewGate(c, 8)
	if err != nil {
		t.Fatal(err)
	}
	bias = make([]float64, 8)
	var counts []int64
	for range 200 {
		b := randomBatch(c, g, 400, true)
		b.SelectionBias = bias
		g.Choose(b, 0, b.Tokens)
		counts = make([]int64, 8)
		for _, e := range b.Indices {
			if e >= 0 {
				counts[e]++
			}
		}
		UpdateSelectionBias(bias, counts, 0.005)
	}
	if lo, hi := slices.Min(counts), slices.Max(counts); float64(hi) > 1.2*float64(lo) {
		t.Errorf("rows of experts are %v", counts)
	}
}

// TestBest compares with sorting.
func TestBest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	special := []float64{0, math.Copysign(0, -1), 1, -1, math.Inf(1), math.Inf(-1), math.NaN(), 5e-324, math.MaxFloat64}
	for range 2000 {
		x := make([]float64, r.IntN(20))
		counts := make([]bool, len(x))
		var list []int
		for i := range x {
			x[i], counts[i] = special[r.IntN(len(special))], r.IntN(4) > 0
			if r.IntN(2) == 0 {
				x[i] = r.NormFloat64()
			}
			if counts[i] {
				list = append(list, i)
			}
		}
		slices.SortStableFunc(list, func(i, j int) int {
			switch {
			case x[i] > x[j] || x[i] == x[i] && x[j] != x[j]:
				return -1
			case x[i] < x[j] || x[j] == x[j] && x[i] != x[i]:
				return 1
			}
			return 0
		})
		count := r.IntN(len(list) + 1)
		want := slices.Sorted(slices.Values(list[:count]))
		var got []int
		b := best(len(x), count, func(i int) (float64, bool) { return x[i], counts[i] })
		for i := range x {
			if counts[i] && b.admits(x[i]) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("the %d best of %v (%v) are %v, want %v", count, x, counts, got, want)
		}
	}
}
