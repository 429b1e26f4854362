package moe

import (
	"encoding/binary"
	"math"
	"testing"
)

// FuzzGate: whatever a configuration says and whatever logits are, a gate
// either refuses the configuration or chooses experts that exist.
func FuzzGate(f *testing.F) {
	for i := range Gates() {
		f.Add([]byte{byte(i), 2, 8, 1, 0, 0, 0, 0, 0}, []byte("logits of a few tokens before eight experts, all of them numbers of a kind"))
		f.Add([]byte{byte(i), 1, 4, 3, 1, 2, 1, 7, 3}, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x7f, 1, 0, 0, 0, 0, 0, 0xf0, 0x7f, 0, 0, 0, 0, 0, 0, 0xf0, 0xff})
	}
	f.Fuzz(func(t *testing.T, setup, data []byte) {
		at := func(i int) int {
			if i < len(setup) {
				return int(setup[i])
			}
			return 0
		}
		number := func(i int) float64 {
			var bits [8]byte
			for j := range bits {
				if len(data) > 0 {
					bits[j] = data[(8*i+j)%len(data)]
				}
			}
			return math.Float64frombits(binary.LittleEndian.Uint64(bits[:]))
		}
		names := Gates()
		c := DefaultConfig(names[at(0)%len(names)])
		c.TopK = at(1)
		experts, tokens := at(2)%70, at(3)%50
		c.Workers, c.WorkersPerNode = max(1, at(4)), max(1, at(5))
		c.Normalize, c.Scores = at(6)&1 == 0, AllScores[at(6)/2%len(AllScores)]
		if c.Gate == GateSigmoid {
			c.Scores = ScoresSigmoid
		}
		for i, set := range []func(x int){
			func(x int) { c.CapacityTrain = number(x) },
			func(x int) { c.CapacityEval = number(x) },
			func(x int) { c.RandomRouting = true },
			func(x int) { c.Jitter = number(x) },
			func(x int) { c.Groups, c.TopGroups = x%16, x/16 },
			func(x int) { c.Tile = x },
			func(x int) { c.Fraction = number(x) },
			func(x int) { c.RoutedScaling = number(x) },
		} {
			if at(7)>>i&1 != 0 {
				set(at(9 + i))
			}
		}
		g, err := NewGate(c, experts)
		if err != nil {
			return
		}
		b := &Batch{Tokens: tokens, Experts: experts, Training: at(8)&1 != 0, WantLoss: at(8)&2 == 0, Sequence: at(8) >> 4,
			Logits: make([]float64, tokens*experts), Noise: make([]float64, tokens*experts),
			Indices: make([]int32, tokens*g.Slots()), Scores: make([]float64, tokens*g.Slots())}
		for i := range b.Logits {
			b.Logits[i], b.Noise[i] = number(i), number(i+3)
		}
		if at(8)&4 != 0 {
			b.Mask = make([]bool, tokens)
			for i := range b.Mask {
				b.Mask[i] = i%3 > 0
			}
		}
		if at(8)&8 != 0 {
			b.SelectionBias = make([]float64, experts)
			for i := range b.SelectionBias {
				b.SelectionBias[i] = number(i + 5)
			}
		}
		g.Choose(b, 0, tokens/2)
		g.Choose(b, tokens/2, tokens)
		g.Settle(b)
		ZLoss(b)
		for i, e := range b.Indices {
			if e < -1 || int(e) >= experts || e < 0 && b.Scores[i] != 0 || e >= 0 && b.masked(i/g.Slots()) {
				t.Fatalf("slot %d goes to %d of %d experts with score %v", i, e, experts, b.Scores[i])
			}
		}
	})
}
