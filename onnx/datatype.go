package onnx

import (
	"fmt"
	"math"
	"math/bits"
)

// DataType is the element type of a tensor (TensorProto.DataType).
type DataType int32

// Every element type of ONNX (up to IR version 14).
const (
	Undefined      DataType = 0
	Float32        DataType = 1
	Uint8          DataType = 2
	Int8           DataType = 3
	Uint16         DataType = 4
	Int16          DataType = 5
	Int32          DataType = 6
	Int64          DataType = 7
	String         DataType = 8
	Bool           DataType = 9
	Float16        DataType = 10
	Float64        DataType = 11
	Uint32         DataType = 12
	Uint64         DataType = 13
	Complex64      DataType = 14
	Complex128     DataType = 15
	BFloat16       DataType = 16
	Float8E4M3FN   DataType = 17
	Float8E4M3FNUZ DataType = 18
	Float8E5M2     DataType = 19
	Float8E5M2FNUZ DataType = 20
	Uint4          DataType = 21
	Int4           DataType = 22
	Float4E2M1     DataType = 23
	Float8E8M0     DataType = 24
	Uint2          DataType = 25
	Int2           DataType = 26
	Float6E2M3     DataType = 27
	Float6E3M2     DataType = 28
)

var dataTypes = [...]struct {
	name string
	bits int
}{
	Undefined: {"undefined", 0}, Float32: {"float32", 32}, Uint8: {"uint8", 8}, Int8: {"int8", 8},
	Uint16: {"uint16", 16}, Int16: {"int16", 16}, Int32: {"int32", 32}, Int64: {"int64", 64},
	String: {"string", 0}, Bool: {"bool", 8}, Float16: {"float16", 16}, Float64: {"float64", 64},
	Uint32: {"uint32", 32}, Uint64: {"uint64", 64}, Complex64: {"complex64", 64}, Complex128: {"complex128", 128},
	BFloat16: {"bfloat16", 16}, Float8E4M3FN: {"float8e4m3fn", 8}, Float8E4M3FNUZ: {"float8e4m3fnuz", 8},
	Float8E5M2: {"float8e5m2", 8}, Float8E5M2FNUZ: {"float8e5m2fnuz", 8}, Uint4: {"uint4", 4}, Int4: {"int4", 4},
	Float4E2M1: {"float4e2m1", 4}, Float8E8M0: {"float8e8m0", 8}, Uint2: {"uint2", 2}, Int2: {"int2", 2},
	Float6E2M3: {"float6e2m3", 6}, Float6E3M2: {"float6e3m2", 6},
}

// Valid reports whether t is a type that this package knows, other than
// Undefined.
func (t DataType) Valid() bool { return t > 0 && int(t) < len(dataTypes) }

// String returns the type's name in ONNX's spelling, such as "float32".
func (t DataType) String() string {
	if t >= 0 && int(t) < len(dataTypes) {
		return dataTypes[t].name
	}
	return fmt.Sprintf("DataType(%d)", int32(t))
}

// Bits returns the width of one element: 6, 4 or 2 for the packed types, 0
// for strings and unknown types.
func (t DataType) Bits() int {
	if t >= 0 && int(t) < len(dataTypes) {
		return dataTypes[t].bits
	}
	return 0
}

// IsFloat reports whether t is a real floating-point type of any width.
func (t DataType) IsFloat() bool {
	switch t {
	case Float32, Float64, Float16, BFloat16, Float8E4M3FN, Float8E4M3FNUZ, Float8E5M2, Float8E5M2FNUZ, Float8E8M0, Float6E2M3, Float6E3M2, Float4E2M1:
		return true
	}
	return false
}

// ByteSize returns the bytes that n elements of type t occupy; the packed
// types round up to a whole byte. It fails for strings, unknown types and
// sizes that overflow.
func (t DataType) ByteSize(n int64) (int64, error) {
	if t.Bits() == 0 {
		return 0, fmt.Errorf("type %s has no fixed element size", t)
	}
	if n < 0 || n > (math.MaxInt64-7)/int64(t.Bits()) {
		return 0, fmt.Errorf("%d elements of %s overflow", n, t)
	}
	return (n*int64(t.Bits()) + 7) / 8, nil
}

// maxRank bounds the dimensions of a tensor; real ones have eight at most.
const maxRank = 1000

// ElementCount multiplies dims. It fails for a negative dimension, where the
// product overflows, and for more than 1,000 dimensions.
func ElementCount(dims []int64) (int64, error) {
	if len(dims) > maxRank {
		return 0, fmt.Errorf("%d dimensions are more than the %d that are supported", len(dims), maxRank)
	}
	n := uint64(1)
	zero := false
	for _, d := range dims {
		if d < 0 {
			return 0, fmt.Errorf("negative dimension in %v", dims)
		}
		if d == 0 {
			zero = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("the dimensions %v overflow", dims)
		}
		n = lo
	}
	if zero {
		return 0, nil
	}
	return int64(n), nil
}
