package tensor

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
)

// Float16ToFloat32 returns the value of an IEEE 754 binary16 number.
func Float16ToFloat32(h uint16) float32 {
	// The shift leaves an exponent that is 112 too small; the product mends
	// it, and makes subnormal numbers normal on the way.
	magnitude := math.Float32bits(math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112)
	if h&0x7c00 == 0x7c00 {
		magnitude |= 0x7f800000 // infinity, NaN
	}
	return math.Float32frombits(magnitude | uint32(h&0x8000)<<16)
}

// Float32ToFloat16 rounds to IEEE 754 binary16, to nearest, ties to even. NaN
// stays NaN; what is too large becomes infinite.
func Float32ToFloat16(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits >> 16 & 0x8000)
	magnitude := bits & 0x7fffffff
	switch {
	case magnitude > 0x7f800000: // NaN: keep the upper payload
		return sign | 0x7e00 | uint16(magnitude>>13)&0x1ff
	case magnitude >= 0x47800000: // 2^16 and above
		return sign | 0x7c00
	case magnitude < 0x38800000: // below 2^-14: subnormal; the sum rounds to multiples of 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(magnitude)+0.5)-0x3f000000)
	}
	magnitude += 0xfff + magnitude>>13&1
	return sign | uint16((magnitude-112<<23)>>13)
}

// BFloat16ToFloat32 returns the value of a bfloat16 number.
func BFloat16ToFloat32(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// Float32ToBFloat16 rounds to bfloat16, to nearest, ties to even. NaN stays
// NaN.
func Float32ToBFloat16(f float32) uint16 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// float32ToOdd returns x as a float32 that rounds to any narrower type as x
// itself does: an inexact result has its last bit set, which marks that
// something follows it.
func float32ToOdd(x float64) float32 {
	f := float32(x)
	if float64(f) == x || x != x {
		return f
	}
	bits := math.Float32bits(f)
	if math.Abs(float64(f)) > math.Abs(x) {
		bits--
	}
	return math.Float32frombits(bits | 1)
}

// ConvertFloat writes the elements of src to dst, both of float32, float64,
// float16 or bfloat16 and of as many elements. It rounds to nearest, ties to
// even; NaN stays NaN. It panics for other types, a programmer's error.
func ConvertFloat(dst, src *Tensor) {
	if dst.Type == src.Type {
		copy(dst.Data, src.Data)
		return
	}
	switch src.Type {
	case onnx.Float32:
		fromFloat32(dst, src)
	case onnx.Float64:
		fromFloat64(dst, src)
	case onnx.Float16:
		fromHalf(dst, src, decodeFloat16, Float16ToFloat32)
	case onnx.BFloat16:
		fromHalf(dst, src, decodeBFloat16, BFloat16ToFloat32)
	default:
		panic("tensor: ConvertFloat of " + src.Type.String())
	}
}

func fromFloat32(dst, src *Tensor) {
	x := Of[float32](src)
	switch dst.Type {
	case onnx.Float64:
		convert(Of[float64](dst), x, func(f float32) float64 { return float64(f) })
	case onnx.Float16:
		encodeFloat16(Of[uint16](dst), x)
	case onnx.BFloat16:
		encodeBFloat16(Of[uint16](dst), x)
	default:
		panic("tensor: ConvertFloat to " + dst.Type.String())
	}
}

func fromFloat64(dst, src *Tensor) {
	x := Of[float64](src)
	switch dst.Type {
	case onnx.Float32:
		convert(Of[float32](dst), x, func(f float64) float32 { return float32(f) })
	case onnx.Float16:
		convert(Of[uint16](dst), x, func(f float64) uint16 { return Float32ToFloat16(float32ToOdd(f)) })
	case onnx.BFloat16:
		convert(Of[uint16](dst), x, func(f float64) uint16 { return Float32ToBFloat16(float32ToOdd(f)) })
	default:
		panic("tensor: ConvertFloat to " + dst.Type.String())
	}
}

func fromHalf(dst, src *Tensor, decodeAll func([]float32, []uint16), decode func(uint16) float32) {
	x := Of[uint16](src)
	switch dst.Type {
	case onnx.Float32:
		decodeAll(Of[float32](dst), x)
	case onnx.Float64:
		convert(Of[float64](dst), x, func(h uint16) float64 { return float64(decode(h)) })
	case onnx.Float16:
		convert(Of[uint16](dst), x, func(h uint16) uint16 { return Float32ToFloat16(decode(h)) })
	case onnx.BFloat16:
		convert(Of[uint16](dst), x, func(h uint16) uint16 { return Float32ToBFloat16(decode(h)) })
	default:
		panic("tensor: ConvertFloat to " + dst.Type.String())
	}
}

func convert[D, S Element](dst []D, src []S, f func(S) D) {
	dst = dst[:min(len(dst), len(src))]
	for i := range dst {
		dst[i] = f(src[i])
	}
}

// Whole slices go through vector kernels.

func decodeFloat16(dst []float32, src []uint16)  { simd.Float16ToFloat32(dst, src[:len(dst)]) }
func decodeBFloat16(dst []float32, src []uint16) { simd.BFloat16ToFloat32(dst, src[:len(dst)]) }
func encodeFloat16(dst []uint16, src []float32)  { simd.Float32ToFloat16(dst, src) }
func encodeBFloat16(dst []uint16, src []float32) { simd.Float32ToBFloat16(dst, src) }
