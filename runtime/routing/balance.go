package routing

import "math"

// Balance says how evenly the rows of a layer are divided among its T experts.
// What nothing was seen of is not a number.
type Balance struct {
	// Load [T] is the share of the rows that each expert computed.
	Load []Number `json:"load"`

	// Dropped is the share of slots that no expert computed.
	Dropped Number `json:"dropped"`

	// LoadEntropy is the entropy of Load in nats, and Evenness that over ln T:
	// 1 for an even load, 0 where one expert computes all. Variation is the
	// load's coefficient of variation: 0 for an even load, √(T−1) where one
	// expert computes all.
	LoadEntropy Number `json:"load_entropy"`
	Evenness    Number `json:"load_entropy_normalized"`
	Variation   Number `json:"load_variation"`
}

// BalanceOf returns the balance of rows [T], how many each expert computed.
// There would be as many of them as slots if none was dropped; Dropped is not
// a number where slots is 0, as it must be where experts choose tokens.
func BalanceOf(rows []int64, slots int64) Balance {
	sum := 0.0
	for _, n := range rows {
		sum += float64(n)
	}
	load := make([]float64, len(rows))
	b := Balance{Load: make([]Number, len(rows)), Dropped: Number(math.NaN())}
	for e, n := range rows {
		load[e] = float64(n) / sum
		b.Load[e] = Number(load[e])
	}
	if slots > 0 {
		b.Dropped = Number(1 - sum/float64(slots))
	}
	h := entropy(load)
	if sum == 0 {
		h = math.NaN()
	}
	b.LoadEntropy, b.Variation = Number(h), Number(variation(load))
	if most := math.Log(float64(len(rows))); most > 0 {
		b.Evenness = Number(h / most)
	} else { // the load of one expert is even
		b.Evenness = Number(h + 1)
	}
	return b
}

// entropy returns −Σ p ln p.
func entropy(p []float64) float64 {
	h := 0.0
	for _, x := range p {
		if x != 0 {
			h -= x * math.Log(x)
		}
	}
	return h
}

// variation returns the coefficient of variation: the standard deviation of
// values over their mean.
func variation(values []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, x := range values {
		sum += x
	}
	m := sum / float64(len(values))
	for _, x := range values {
		squares += (x - m) * (x - m)
	}
	return math.Sqrt(squares/float64(len(values))) / m
}
