package tensor

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
)

// Rounding says how a number becomes one of a narrower type.
type Rounding struct {
	// Saturate: what is too large becomes the largest finite value of a
	// float8 type, rather than infinity or NaN.
	Saturate bool
	// Powers chooses among the powers of two of float8e8m0.
	Powers PowerRounding
}

// PowerRounding is a direction of rounding to float8e8m0.
type PowerRounding int

// The directions.
const (
	PowerUp PowerRounding = iota
	PowerDown
	PowerNearest // ties up
)

// miniFloat describes a floating-point format of at most 8 bits with a sign,
// an exponent and a mantissa, as in the ONNX documentation of float8 (Micikevicius
// et al. 2022, Noune et al. 2022) and of float4e2m1.
type miniFloat struct {
	exponent, mantissa int // widths in bits
	bias               int
	largest            uint8 // code of the largest finite value
	infinity           uint8 // code of infinity; NaN's where there is none
	nan                uint8
	// oneZero: the code of −0 is that of NaN, whatever its sign.
	oneZero bool
}

var miniFloats = map[onnx.DataType]*miniFloat{
	onnx.Float8E4M3FN:   {exponent: 4, mantissa: 3, bias: 7, largest: 0x7e, infinity: 0x7f, nan: 0x7f},
	onnx.Float8E4M3FNUZ: {exponent: 4, mantissa: 3, bias: 8, largest: 0x7f, infinity: 0x80, nan: 0x80, oneZero: true},
	onnx.Float8E5M2:     {exponent: 5, mantissa: 2, bias: 15, largest: 0x7b, infinity: 0x7c, nan: 0x7e},
	onnx.Float8E5M2FNUZ: {exponent: 5, mantissa: 2, bias: 16, largest: 0x7f, infinity: 0x80, nan: 0x80, oneZero: true},
	// float4e2m1 has neither infinity nor NaN: it always saturates, and NaN
	// becomes −0.
	onnx.Float4E2M1: {exponent: 2, mantissa: 1, bias: 1, largest: 0x7, infinity: 0x7, nan: 0x8},
}

// decode returns the value of a code.
func (f *miniFloat) decode(code uint8) float32 {
	width := f.exponent + f.mantissa
	sign := 1 - 2*float64(code>>width&1)
	magnitude := code & (1<<width - 1)
	switch {
	case f.oneZero && code == f.nan:
		return float32(math.NaN())
	case magnitude > f.largest && magnitude == f.infinity && f.infinity != f.nan:
		return float32(math.Inf(int(sign)))
	case magnitude > f.largest:
		return float32(math.NaN())
	}
	significand := int(magnitude & (1<<f.mantissa - 1))
	exponent := int(magnitude >> f.mantissa)
	if exponent > 0 {
		significand += 1 << f.mantissa
		exponent--
	}
	return float32(sign * math.Ldexp(float64(significand), exponent+1-f.bias-f.mantissa))
}

// encode rounds to nearest, ties to even.
func (f *miniFloat) encode(x float32, saturate bool) uint8 {
	code := f.infinity
	if saturate {
		code = f.largest
	}
	magnitude := math.Abs(float64(x))
	if x != x {
		code = f.nan
	} else if magnitude <= math.MaxFloat32 {
		e := 1 - f.bias // that of the smallest step
		if magnitude > 0 {
			e = max(e, math.Ilogb(magnitude))
		}
		steps := int(math.RoundToEven(math.Ldexp(magnitude, f.mantissa-e)))
		if rounded := (e+f.bias-1)<<f.mantissa + steps; rounded <= int(f.largest) {
			code = uint8(rounded)
		}
	}
	if f.oneZero && (code == 0 || code == f.nan) {
		return code
	}
	return code | uint8(math.Float32bits(x)>>31)<<(f.exponent+f.mantissa)
}

// Codes of float8e8m0, the powers of two from 2^−127 to 2^127.
const (
	e8m0Bias    = 127
	e8m0Largest = 254
	e8m0NaN     = 255
)

func decodeE8M0(code uint8) float32 {
	if code == e8m0NaN {
		return float32(math.NaN())
	}
	return float32(math.Ldexp(1, int(code)-e8m0Bias))
}

// encodeE8M0 gives NaN for negative numbers, which the format cannot hold.
func encodeE8M0(x float32, r Rounding) uint8 {
	if x != x || x < 0 {
		return e8m0NaN
	}
	fraction, e := math.Frexp(float64(x)) // ½ ≤ fraction < 1
	code := e - 1 + e8m0Bias
	switch {
	case x == 0:
		code = -1
	case math.IsInf(float64(x), 1):
		code = e8m0NaN
	case r.Powers == PowerUp && fraction > 0.5, r.Powers == PowerNearest && fraction >= 0.75:
		code++
	}
	if 0 <= code && code <= e8m0Largest {
		return uint8(code)
	}
	if !r.Saturate {
		return e8m0NaN
	}
	return uint8(max(0, min(code, e8m0Largest)))
}

// decodeTables has the values of the codes of every float type of at most 8
// bits.
var decodeTables = func() map[onnx.DataType]*[256]float32 {
	tables := map[onnx.DataType]*[256]float32{onnx.Float8E8M0: new([256]float32)}
	for code := range 256 {
		tables[onnx.Float8E8M0][code] = decodeE8M0(uint8(code))
	}
	for t, f := range miniFloats {
		tables[t] = new([256]float32)
		for code := range 1 << t.Bits() {
			tables[t][code] = f.decode(uint8(code))
		}
	}
	return tables
}()
