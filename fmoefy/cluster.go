package fmoefy

import (
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/internal/random"
)

// balanced divides items among groups of equal size so that the sum of what
// they gain is large: gain [items, groups] is what an item gains in a group.
// Items to which the choice matters most choose first; then pairs are exchanged
// as long as that helps. It returns the group of each item. The number of items
// is a multiple of the number of groups.
func balanced(gain []float64, groups int) []int {
	n := len(gain) / groups
	of, room := make([]int, n), make([]int, groups)
	regret, order := make([]float64, n), make([]int, n)
	for g := range room {
		room[g] = n / groups
	}
	for i := range order {
		best, second := math.Inf(-1), math.Inf(-1)
		for _, x := range gain[i*groups:][:groups] {
			if x > best {
				best, second = x, best
			} else {
				second = max(second, x)
			}
		}
		order[i] = i
		if groups > 1 {
			regret[i] = best - second
		}
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case regret[i] > regret[j]:
			return -1
		case regret[i] < regret[j]:
			return 1
		}
		return 0
	})
	for _, i := range order {
		of[i] = -1
		for g, x := range gain[i*groups:][:groups] {
			if room[g] > 0 && (of[i] < 0 || x > gain[i*groups+of[i]]) {
				of[i] = g
			}
		}
		room[of[i]]--
	}
	exchange(gain, groups, of)
	return of
}

// exchange swaps items of different groups, the pair that gains most first,
// until no pair gains anything.
func exchange(gain []float64, groups int, of []int) {
	members := make([][]int, groups)
	scale := 0.0
	for i, g := range of {
		members[g] = append(members[g], i)
		scale = max(scale, math.Abs(gain[i*groups+g]))
	}
	// move[from][to] is the member of a group that gains most, or loses least,
	// in another one.
	type candidate struct {
		place int
		gain  float64
	}
	move := make([][]candidate, groups)
	update := func(from int) {
		move[from] = make([]candidate, groups)
		for to := range groups {
			best := candidate{-1, math.Inf(-1)}
			for place, i := range members[from] {
				if x := gain[i*groups+to] - gain[i*groups+from]; x > best.gain {
					best = candidate{place, x}
				}
			}
			move[from][to] = best
		}
	}
	for g := range groups {
		update(g)
	}
	for range 8 * len(of) { // rounding might go on for ever
		best, a, b := 1e-12*scale, -1, -1
		for from := range groups {
			for to := range from {
				if x := move[from][to].gain + move[to][from].gain; x > best {
					best, a, b = x, from, to
				}
			}
		}
		if a < 0 {
			return
		}
		p, q := &members[a][move[a][b].place], &members[b][move[b][a].place]
		*p, *q = *q, *p
		of[*p], of[*q] = a, b
		update(a)
		update(b)
	}
}

// balancedKMeans divides the rows of a matrix [n, width] among groups of equal
// size so that rows of one group are near one another, and returns the group of
// each row. The centres start as rows far from one another (k-means++), drawn
// with the seed.
func balancedKMeans(rows []float32, width, groups int, seed uint64) []int {
	n := len(rows) / width
	row := func(i int) []float32 { return rows[i*width:][:width] }
	centres := make([]float64, groups*width)
	nearest := make([]float64, n)
	for i := range nearest {
		nearest[i] = math.Inf(1)
	}
	key := [2]uint32{uint32(seed), uint32(seed >> 32)}
	for g := range groups {
		u := random.Uniform(random.Philox([4]uint32{uint32(g)}, key))[0]
		at := int(u * float64(n))
		if g > 0 {
			at = drawn(nearest, u)
		}
		centre := centres[g*width:][:width]
		for j, x := range row(at) {
			centre[j] = float64(x)
		}
		eachShare(n, 64, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				nearest[i] = min(nearest[i], distance(row(i), centre))
			}
		})
	}
	gain := make([]float64, n*groups)
	var of []int
	for range 20 {
		eachShare(n, 16, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				for g := range groups {
					gain[i*groups+g] = -distance(row(i), centres[g*width:][:width])
				}
			}
		})
		next := balanced(gain, groups)
		if slices.Equal(next, of) {
			break
		}
		of = next
		clear(centres)
		for i, g := range of {
			for j, x := range row(i) {
				centres[g*width+j] += float64(x) * float64(groups) / float64(n)
			}
		}
	}
	return of
}

// drawn returns an index with a probability that is proportional to its weight.
func drawn(weights []float64, u float64) int {
	total := 0.0
	for _, w := range weights {
		total += w
	}
	sum := 0.0
	for i, w := range weights {
		if sum += w; sum > float64(u*total) {
			return i
		}
	}
	return len(weights) - 1
}

// distance is the square of the Euclidean distance.
func distance(x []float32, y []float64) float64 {
	sum := 0.0
	for i := range x {
		d := float64(x[i]) - y[i]
		sum += float64(d * d)
	}
	return sum
}
