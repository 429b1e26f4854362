package simd

import "sync/atomic"

// Peak does nothing but multiply and add float32 numbers in registers, for so
// many rounds, and returns the number of floating-point operations: what a
// core can do at most in the time that this takes.
func Peak(rounds int) (operations int) {
	switch {
	case avx512:
		float32Peak512(rounds)
		return rounds * 12 * 16 * 2
	case avx2:
		float32Peak(rounds)
		return rounds * 12 * 8 * 2
	}
	peakResult.Store(uint32(peakPortable(rounds)))
	return rounds * 8 * 2
}

// peakResult keeps the compiler from dropping the portable loop.
var peakResult atomic.Uint32

func peakPortable(rounds int) float32 {
	const factor, term = 0.5, 0.5
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	for range rounds {
		s0 = s0*factor + term
		s1 = s1*factor + term
		s2 = s2*factor + term
		s3 = s3*factor + term
		s4 = s4*factor + term
		s5 = s5*factor + term
		s6 = s6*factor + term
		s7 = s7*factor + term
	}
	return s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7
}
