package moe

import "fmt"

// Float is an element type of gate arithmetic.
type Float interface{ float32 | float64 }

// GateNaive is the name of the naive gate; see [Naive].
const GateNaive = "naive"

// Gates lists every gate.
var Gates = []string{GateNaive}

// Gate picks experts for tokens. What it picks for a token depends on that
// token's logits alone, so a device may split the tokens among its threads.
type Gate[T Float] interface {
	// Route reads logits [N, T] and writes, best first, the chosen experts to
	// indices [N, k] and their weights in the output to scores [N, k]. An
	// index of −1 is a dropped slot: no expert computes it and its score
	// counts for nothing. N is what the slices hold.
	Route(logits []T, indices []int32, scores []T)
}

// NewGate makes the gate that a configuration names, for a layer of the given
// number of experts. It fails where top_k exceeds that.
func NewGate[T Float](c Config, experts int) (Gate[T], error) {
	if c.TopK < 1 || c.TopK > experts {
		return nil, fmt.Errorf("top_k is %d, must be 1 to the number of experts, %d", c.TopK, experts)
	}
	switch c.Gate {
	case GateNaive:
		return &Naive[T]{Experts: experts, TopK: c.TopK, Normalize: c.Normalize}, nil
	}
	return nil, fmt.Errorf("gate %q is not known; there are %v", c.Gate, Gates)
}
