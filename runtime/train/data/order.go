package data

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/random"
)

// What random numbers are for: the second word of their counters. An order
// takes one for each of its rounds.
const (
	forOrder = 0
	forMasks = orderRounds
)

// orderRounds is how often an order mixes. Four are enough for a permutation
// that cannot be told from a random one where the domain is large (Luby and
// Rackoff 1988); small domains need more.
const orderRounds = 8

// order is a permutation of 0 … n−1 that depends on a seed and an epoch: a
// Feistel network over pairs of numbers below √n, whose rounds add what Philox
// makes of the other number. It takes no memory, and any place of it is known
// at once. Results that are not below n go through it again, until one is.
type order struct {
	n, side uint64
	key     [2]uint32
	epoch   uint64
}

func newOrder(n int, seed, epoch uint64) order {
	side := uint64(math.Sqrt(float64(n)))
	for side*side < uint64(n) { // rounded down
		side++
	}
	return order{uint64(n), side, keyOf(seed), epoch}
}

func keyOf(seed uint64) [2]uint32 { return [2]uint32{uint32(seed), uint32(seed >> 32)} }

// at returns element i, 0 … n−1.
func (o order) at(i int) int {
	for x := uint64(i); ; {
		a, b := x/o.side, x%o.side
		for round := uint32(0); round < orderRounds; round += 2 {
			a = (a + o.mix(b, round)) % o.side
			b = (b + o.mix(a, round+1)) % o.side
		}
		if x = a*o.side + b; x < o.n {
			return int(x)
		}
	}
}

func (o order) mix(value uint64, round uint32) uint64 {
	words := random.Philox([4]uint32{uint32(value), forOrder + round, uint32(o.epoch), uint32(o.epoch >> 32)}, o.key)
	return uint64(words[1]&math.MaxInt32)<<32 | uint64(words[0])
}
