package tensor

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/fmoe-go/fmoe/onnx"
)

// FromONNX returns the value of an ONNX tensor. It shares the tensor's memory,
// unless that is not aligned to its elements, as data within a model's file
// often is not, on a processor that cannot read it so.
func FromONNX(t *onnx.Tensor) (*Tensor, error) {
	shape := make([]int, len(t.Dims))
	for i, d := range t.Dims {
		shape[i] = int(d)
	}
	if !t.DataType.Valid() {
		return nil, fmt.Errorf("tensor %q: element type %d is unknown", t.Name, int32(t.DataType))
	}
	count, err := t.ElementCount()
	if err != nil {
		return nil, err
	}
	if t.DataType == onnx.String {
		if int64(len(t.Strings)) != count {
			return nil, fmt.Errorf("tensor %q: %d strings for %d elements", t.Name, len(t.Strings), count)
		}
		s := make([]string, len(t.Strings))
		for i, b := range t.Strings {
			s[i] = string(b)
		}
		return &Tensor{Type: onnx.String, Shape: shape, Strings: s}, nil
	}
	data, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	if width := uintptr(max(t.DataType.Bits()/8, 1)); !readsUnaligned && len(data) > 0 && uintptr(unsafe.Pointer(unsafe.SliceData(data)))%min(width, 8) != 0 {
		aligned := AlignedBytes(len(data))
		copy(aligned, data)
		data = aligned
	}
	if t.DataType == onnx.Bool {
		data = canonicalBools(data)
	}
	return &Tensor{Type: t.DataType, Shape: shape, Data: data}, nil
}

// canonicalBools returns booleans as Go stores them, 0 or 1; files may hold
// any byte for true.
func canonicalBools(data []byte) []byte {
	for i, b := range data {
		if b > 1 {
			data = slices.Clone(data)
			for j := i; j < len(data); j++ {
				data[j] = min(data[j], 1)
			}
			break
		}
	}
	return data
}

// ToONNX returns the tensor under a name, sharing its memory.
func (t *Tensor) ToONNX(name string) *onnx.Tensor {
	dims := make([]int64, len(t.Shape))
	for i, d := range t.Shape {
		dims[i] = int64(d)
	}
	if t.Type == onnx.String {
		s := make([][]byte, len(t.Strings))
		for i, v := range t.Strings {
			s[i] = []byte(v)
		}
		return &onnx.Tensor{Name: name, DataType: onnx.String, Dims: dims, Strings: s}
	}
	return onnx.NewTensor(name, t.Type, dims, t.Data)
}
