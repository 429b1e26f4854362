package routing

import "math"

// pair counts how often tokens have expert i as their first choice in one
// layer and expert j in another one.
type pair struct {
	a, b  int        // the layers
	joint [][]uint32 // [i][j]; nil, as its rows are, before the first such token
}

// maxJoint bounds the counters of all pairs, of four bytes each.
const maxJoint = 1 << 27

// compare counts the tokens of a run in all pairs of layers that saw equally
// many: token n of one is taken for token n of the other. Layers with too many
// experts are not compared, in this run and all others.
func (w *Watch) compare() {
	counters := 0.0
	for _, p := range w.pairs {
		counters += float64(w.layers[p.a].experts) * float64(w.layers[p.b].experts)
	}
	if counters > maxJoint {
		w.pairs = nil
	}
	for _, p := range w.pairs {
		p.add(w.layers[p.a], w.layers[p.b])
	}
}

func (p *pair) add(a, b *layer) {
	if len(a.first) != len(b.first) {
		return
	}
	for n, i := range a.first {
		j := b.first[n]
		if i < 0 || j < 0 {
			continue
		}
		if p.joint == nil {
			p.joint = make([][]uint32, a.experts)
		}
		if p.joint[i] == nil {
			p.joint[i] = make([]uint32, b.experts)
		}
		p.joint[i][j]++
	}
}

// information returns the normalised mutual information of the two layers'
// choices, 2 I(A; B) / (H(A) + H(B)): 1 where the choice in one layer tells
// that in the other, whatever numbers the experts have, and 0 where it tells
// nothing. It is 1 where both always choose the same expert, and not a number
// where no token was compared.
func (p *pair) information() float64 {
	var ofA, ofB, both []float64 // shares of the tokens
	total := 0.0
	for _, row := range p.joint {
		sum := 0.0
		for j, n := range row {
			if ofB == nil {
				ofB = make([]float64, len(row))
			}
			ofB[j] += float64(n)
			sum += float64(n)
			both = append(both, float64(n))
		}
		ofA = append(ofA, sum)
		total += sum
	}
	if total == 0 {
		return math.NaN()
	}
	for _, counts := range [][]float64{ofA, ofB, both} {
		for i := range counts {
			counts[i] /= total
		}
	}
	a, b := entropy(ofA), entropy(ofB)
	if a+b == 0 {
		return 1
	}
	return min(max(2*(a+b-entropy(both))/(a+b), 0), 1)
}
