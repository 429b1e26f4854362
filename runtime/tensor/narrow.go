package tensor

import (
	"github.com/fmoe-go/fmoe/onnx"
)

// Narrow reports whether t is a type that Go has no numbers for, because it is
// narrower than those: float16, bfloat16, float8, float4, or integers of 4 or
// 2 bits. ReadNarrow and WriteNarrow convert them.
func Narrow(t onnx.DataType) bool {
	switch t {
	case onnx.Float16, onnx.BFloat16, onnx.Uint4, onnx.Int4, onnx.Uint2, onnx.Int2:
		return true
	}
	return decodeTables[t] != nil
}

// ReadNarrow sets dst to the elements of t from number lo on; t's type is
// narrow and float32 holds its values exactly.
func ReadNarrow(dst []float32, t *Tensor, lo int) {
	switch t.Type {
	case onnx.Float16:
		decodeFloat16(dst, Of[uint16](t)[lo:])
		return
	case onnx.BFloat16:
		decodeBFloat16(dst, Of[uint16](t)[lo:])
		return
	}
	bits := t.Type.Bits()
	signed := t.Type == onnx.Int4 || t.Type == onnx.Int2
	table := decodeTables[t.Type]
	for i := range dst {
		code := code(t.Data, bits, lo+i)
		switch {
		case table != nil:
			dst[i] = table[code]
		case signed:
			dst[i] = float32(int8(code<<(8-bits)) >> (8 - bits))
		default:
			dst[i] = float32(code)
		}
	}
}

// code returns element i of packed elements of at most 8 bits.
func code(data []byte, bits, i int) uint8 {
	at := i * bits
	return data[at/8] >> (at % 8) & uint8(1<<bits-1)
}

// number is a Go type of real numbers.
type number interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64 | float32 | float64
}

// WriteNarrow rounds src into the elements of t from number lo on, t's type
// being narrow: to floats to nearest, ties to even; to integers towards zero,
// with the bits beyond their width dropped. lo is a multiple of 8, so that no
// two writes meet in one byte; after the last element a byte is filled with
// zeros.
func WriteNarrow[T number](t *Tensor, lo int, src []T, r Rounding) {
	switch t.Type {
	case onnx.Float16:
		encode16(Of[uint16](t)[lo:], src, encodeFloat16, Float32ToFloat16)
		return
	case onnx.BFloat16:
		encode16(Of[uint16](t)[lo:], src, encodeBFloat16, Float32ToBFloat16)
		return
	}
	encode := func(x T) uint8 { return uint8(int64(x)) }
	if f := miniFloats[t.Type]; f != nil {
		encode = func(x T) uint8 { return f.encode(float32ToOdd(float64(x)), r.Saturate) }
	} else if t.Type == onnx.Float8E8M0 {
		encode = func(x T) uint8 { return encodeE8M0(float32ToOdd(float64(x)), r) }
	}
	bits := t.Type.Bits()
	mask := uint8(1<<bits - 1)
	dst := t.Data[lo*bits/8:]
	for i := 0; i < len(src); {
		b := uint8(0)
		for at := 0; at < 8 && i < len(src); at += bits {
			b |= encode(src[i]) & mask << at
			i++
		}
		dst[0], dst = b, dst[1:]
	}
}

func encode16[T number](dst []uint16, src []T, encodeAll func([]uint16, []float32), encode func(float32) uint16) {
	if x, ok := any(src).([]float32); ok {
		encodeAll(dst, x)
		return
	}
	convert(dst, src, func(x T) uint16 { return encode(float32ToOdd(float64(x))) })
}
