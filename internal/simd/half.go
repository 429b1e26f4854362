package simd

import "math"

// Float16ToFloat32 converts src, IEEE 754 binary16 numbers, to dst, of the
// same length. NaN becomes a quiet NaN with the same payload.
func Float16ToFloat32(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	done := 0
	if f16c {
		float16ToFloat32(dst, src)
		done = len(src) &^ 7
	}
	for i, h := range src[done:] {
		dst[done+i] = widenFloat16(h)
	}
}

func widenFloat16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	magnitude := uint32(h&0x7fff) << 13
	if magnitude >= 0x7c00<<13 { // infinity, NaN
		if magnitude > 0x7c00<<13 {
			magnitude |= 0x200 << 13
		}
		return math.Float32frombits(sign | magnitude | 0xff<<23)
	}
	// The shift leaves an exponent that is 112 too small; the product mends
	// it, of subnormal numbers too.
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(magnitude)*0x1p112))
}

// Float32ToFloat16 rounds src to dst, IEEE 754 binary16 numbers, of the same
// length: to nearest, ties to even. What is too large becomes infinite; NaN
// becomes a quiet NaN with the upper part of the payload.
func Float32ToFloat16(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	done := 0
	if f16c {
		float32ToFloat16(dst, src)
		done = len(src) &^ 7
	}
	for i, x := range src[done:] {
		dst[done+i] = narrowFloat16(x)
	}
}

func narrowFloat16(x float32) uint16 {
	bits := math.Float32bits(x)
	sign := uint16(bits >> 16 & 0x8000)
	magnitude := bits &^ (1 << 31)
	switch {
	case magnitude > 0xff<<23: // NaN
		return sign | 0x7e00 | uint16(magnitude>>13&0x1ff)
	case magnitude >= (127+16)<<23:
		return sign | 0x7c00
	case magnitude < (127-14)<<23:
		// Subnormal. The last bit of a sum with 1/2 counts 2^-24, as theirs does.
		return sign | uint16(math.Float32bits(math.Float32frombits(magnitude)+0.5)-math.Float32bits(0.5))
	}
	magnitude += 0xfff + magnitude>>13&1 // may carry up to infinity
	return sign | uint16((magnitude-(127-15)<<23)>>13)
}

// BFloat16ToFloat32 converts src, bfloat16 numbers, to dst, of the same
// length.
func BFloat16ToFloat32(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	done := 0
	if avx2 {
		bfloat16ToFloat32(dst, src)
		done = len(src) &^ 7
	}
	for i, h := range src[done:] {
		dst[done+i] = math.Float32frombits(uint32(h) << 16)
	}
}

// Float32ToBFloat16 rounds src to dst, bfloat16 numbers, of the same length:
// to nearest, ties to even. What is too large becomes infinite; NaN becomes a
// quiet NaN with the upper part of the payload.
func Float32ToBFloat16(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	done := 0
	if avx2 {
		float32ToBFloat16(dst, src)
		done = len(src) &^ 7
	}
	for i, x := range src[done:] {
		dst[done+i] = narrowBFloat16(x)
	}
}

func narrowBFloat16(x float32) uint16 {
	bits := math.Float32bits(x)
	if bits&^(1<<31) > 0xff<<23 { // NaN
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
