// Package tensor holds the n-dimensional arrays that the runtime computes
// with, and their conversion from and to ONNX tensors and NumPy files.
package tensor

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/onnx"
)

// Tensor is a dense, row-major array in host memory.
//
// Data holds the elements as little-endian bytes, at an address from which the
// processor can read them: on most any one, else a multiple of their size.
// 4-bit and 2-bit elements are packed as in ONNX's raw_data.
// A tensor of strings keeps them in Strings and has no Data.
type Tensor struct {
	Type    onnx.DataType
	Shape   []int
	Data    []byte
	Strings []string
}

// Element is a Go type that can be the element of a tensor.
type Element interface {
	~float32 | ~float64 | ~int8 | ~int16 | ~int32 | ~int64 |
		~uint8 | ~uint16 | ~uint32 | ~uint64 | ~bool | ~complex64 | ~complex128
}

// New makes a tensor of zeros.
func New(t onnx.DataType, shape ...int) *Tensor {
	x := &Tensor{Type: t, Shape: slices.Clone(shape)}
	if x.Shape == nil {
		x.Shape = []int{}
	}
	if t == onnx.String {
		x.Strings = make([]string, Count(shape))
		return x
	}
	x.Data = AlignedBytes(ByteSize(t, Count(shape)))
	return x
}

// FromSlice makes a tensor over data, without copying it. With no shape it is
// a vector. It panics when the shape does not hold len(data) elements, a
// programmer's error.
func FromSlice[T Element](data []T, shape ...int) *Tensor {
	if len(shape) == 0 {
		shape = []int{len(data)}
	}
	if Count(shape) != len(data) {
		panic(fmt.Sprintf("tensor: %d elements in shape %v", len(data), shape))
	}
	return &Tensor{Type: TypeOf[T](), Shape: slices.Clone(shape), Data: bytesOf(data)}
}

// Scalar makes a tensor of rank 0.
func Scalar[T Element](v T) *Tensor {
	return &Tensor{Type: TypeOf[T](), Shape: []int{}, Data: bytesOf([]T{v})}
}

// FromStrings makes a tensor of strings over data.
func FromStrings(data []string, shape ...int) *Tensor {
	if len(shape) == 0 {
		shape = []int{len(data)}
	}
	return &Tensor{Type: onnx.String, Shape: slices.Clone(shape), Strings: data}
}

// Of returns the tensor's elements as a slice of T, which must have the width
// of its element type (a tensor of float16 is read as uint16). The slice
// aliases the tensor.
func Of[T Element](t *Tensor) []T {
	if len(t.Data) == 0 {
		return nil
	}
	var zero T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(t.Data))), len(t.Data)/int(unsafe.Sizeof(zero)))
}

// TypeOf returns the element type that T stores. uint16 stands for Uint16,
// not for a 16-bit float.
func TypeOf[T Element]() onnx.DataType {
	var zero T
	switch any(zero).(type) {
	case float32:
		return onnx.Float32
	case float64:
		return onnx.Float64
	case int8:
		return onnx.Int8
	case int16:
		return onnx.Int16
	case int32:
		return onnx.Int32
	case int64:
		return onnx.Int64
	case uint8:
		return onnx.Uint8
	case uint16:
		return onnx.Uint16
	case uint32:
		return onnx.Uint32
	case uint64:
		return onnx.Uint64
	case bool:
		return onnx.Bool
	case complex64:
		return onnx.Complex64
	case complex128:
		return onnx.Complex128
	}
	return onnx.Undefined
}

// Len returns the number of elements.
func (t *Tensor) Len() int { return Count(t.Shape) }

// Rank returns the number of dimensions.
func (t *Tensor) Rank() int { return len(t.Shape) }

// Clone returns a copy with memory of its own.
func (t *Tensor) Clone() *Tensor {
	c := New(t.Type, t.Shape...)
	copy(c.Data, t.Data)
	copy(c.Strings, t.Strings)
	return c
}

// Ints returns the elements of an integer or boolean tensor as int64 values,
// in a new slice.
func (t *Tensor) Ints() ([]int64, error) {
	switch t.Type {
	case onnx.Int64:
		return slices.Clone(Of[int64](t)), nil
	case onnx.Int32:
		return widen(Of[int32](t)), nil
	case onnx.Int16:
		return widen(Of[int16](t)), nil
	case onnx.Int8:
		return widen(Of[int8](t)), nil
	case onnx.Uint8, onnx.Bool:
		return widen(Of[uint8](t)), nil
	case onnx.Uint16:
		return widen(Of[uint16](t)), nil
	case onnx.Uint32:
		return widen(Of[uint32](t)), nil
	case onnx.Uint64:
		return widen(Of[uint64](t)), nil
	}
	return nil, fmt.Errorf("tensor of %s is not one of integers", t.Type)
}

func widen[T int32 | int16 | int8 | uint8 | uint16 | uint32 | uint64](v []T) []int64 {
	out := make([]int64, len(v))
	for i, x := range v {
		out[i] = int64(x)
	}
	return out
}

// String describes the tensor without its elements, such as "float32[2,3]".
func (t *Tensor) String() string {
	return t.Type.String() + FormatShape(t.Shape)
}

// FormatShape writes a shape as "[2,3]".
func FormatShape(shape []int) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, d := range shape {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d", d)
	}
	b.WriteByte(']')
	return b.String()
}

// Count returns the number of elements of a shape.
func Count(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// ByteSize returns the bytes of n elements of type t, 0 for strings.
func ByteSize(t onnx.DataType, n int) int {
	return (n*t.Bits() + 7) / 8
}

// CheckedCount is Count for shapes that come from a file or a user: it fails
// for negative dimensions and for more elements than memory could hold.
func CheckedCount(t onnx.DataType, shape []int) (int, error) {
	n := 1
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("negative dimension in shape %s", FormatShape(shape))
		}
		if d > 0 && n > math.MaxInt/16/d {
			return 0, fmt.Errorf("shape %s of %s is too large", FormatShape(shape), t)
		}
		n *= d
	}
	return n, nil
}

// AlignedBytes returns n zero bytes that start on a cache line.
func AlignedBytes(n int) []byte {
	return memory.Aligned(n)
}

func bytesOf[T Element](v []T) []byte {
	var zero T
	if len(v) == 0 {
		return []byte{}
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(zero)))
}
