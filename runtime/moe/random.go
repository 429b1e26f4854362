package moe

import "github.com/fmoe-go/fmoe/internal/random"

// Random is the source of a gate's random numbers. A number depends on these,
// on the place of its token among those of all workers, and on its own place
// among its token's numbers alone: not on how many tokens there are, nor on
// the threads or workers among which they are divided.
//
// They are those of Philox4x32-10. Of token t, the places 4·i … 4·i+3 are the
// four words w of
//
//	key     = seed mod 2³², seed div 2³²
//	counter = i, t mod 2³², (layer mod 2¹⁶)·2¹⁶ + t div 2³² mod 2¹⁶, step
//
// as uniform numbers (w + 1/2) / 2³², or as normal ones: Box and Muller's
// cosine and sine of the first two words, then of the other two. Those of a
// place come from the same words, so that a gate draws one kind or the other.
type Random struct {
	Seed  uint64
	Step  uint32
	Layer uint32
}

// Uniform returns a token's numbers at the places 4·i … 4·i+3, uniformly
// distributed between 0 and 1, both excluded.
func (r Random) Uniform(token int64, i int) [4]float64 {
	return random.Uniform(r.words(token, i))
}

// Normal returns a token's numbers at the places 4·i … 4·i+3, of the standard
// normal distribution.
func (r Random) Normal(token int64, i int) [4]float64 {
	return random.Normal(r.words(token, i))
}

func (r Random) words(token int64, i int) [4]uint32 {
	return random.Philox(
		[4]uint32{uint32(i), uint32(token), r.Layer<<16 | uint32(token>>32)&0xffff, r.Step},
		[2]uint32{uint32(r.Seed), uint32(r.Seed >> 32)})
}
