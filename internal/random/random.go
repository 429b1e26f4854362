// Package random computes random numbers from counters: a number depends on
// its key and its place alone, so that the order in which numbers are drawn,
// and who draws them, does not matter.
package random

import (
	"math"
	"math/bits"
)

// Philox is Philox4x32-10, the counter-based generator of Salmon et al.,
// "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
func Philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	// Variables of their own stay in registers.
	c0, c1, c2, c3 := counter[0], counter[1], counter[2], counter[3]
	k0, k1 := key[0], key[1]
	for range 10 {
		hi0, lo0 := bits.Mul32(0xd2511f53, c0)
		hi1, lo1 := bits.Mul32(0xcd9e8d57, c2)
		c0, c1, c2, c3 = hi1^c1^k0, lo1, hi0^c3^k1, lo0
		k0 += 0x9e3779b9
		k1 += 0xbb67ae85
	}
	return [4]uint32{c0, c1, c2, c3}
}

// Uniform turns each of four words into a number uniformly distributed between
// 0 and 1, both excluded: (word + 1/2) / 2³².
func Uniform(words [4]uint32) [4]float64 {
	var u [4]float64
	for i, w := range words {
		u[i] = (float64(w) + 0.5) / (1 << 32)
	}
	return u
}

// Normal turns four words into numbers of the standard normal distribution
// (Box and Muller 1958): of the words' uniform numbers u, the first two give
// √(−2·ln u₀)·cos(2π·u₁) and the same with sin, the others the third and fourth.
func Normal(words [4]uint32) [4]float64 {
	u := Uniform(words)
	var z [4]float64
	for i := 0; i < 4; i += 2 {
		radius := math.Sqrt(-2 * math.Log(u[i]))
		sin, cos := math.Sincos(2 * math.Pi * u[i+1])
		z[i], z[i+1] = radius*cos, radius*sin
	}
	return z
}
