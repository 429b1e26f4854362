package onnx

import (
	"fmt"
	"io"
	"slices"
)

// Tensor is an ONNX TensorProto: a named constant.
//
// Its elements are little-endian bytes, packed as raw_data packs them (two
// 4-bit elements a byte, low half first). A tensor that was read keeps the
// field in which the file stored it, so that writing it back changes
// nothing; see [Tensor.Bytes] and [Tensor.SetBytes].
type Tensor struct {
	Name      string
	DataType  DataType
	Dims      []int64
	DocString string
	Metadata  []Property
	Unknown   []byte

	// Strings are the elements of a tensor of type String.
	Strings [][]byte

	present presence
	storage *tensorStorage // nil when there are no elements; shared by clones
}

// Source produces a tensor's bytes on demand, so that a tensor larger than
// memory can be written. WriteTo writes exactly Size bytes, the same each
// time.
type Source interface {
	Size() int64
	io.WriterTo
}

// SparseTensor is an ONNX SparseTensorProto.
type SparseTensor struct {
	Values  *Tensor
	Indices *Tensor
	Dims    []int64
	Unknown []byte

	present presence
}

// NewTensor makes a tensor of the given elements, which it does not copy.
// A tensor of type String takes its elements in the field Strings.
func NewTensor(name string, t DataType, dims []int64, data []byte) *Tensor {
	tensor := &Tensor{Name: name, DataType: t, Dims: dims}
	if t != String {
		tensor.SetBytes(data)
	}
	return tensor
}

// ElementCount returns the number of elements that the dims describe.
func (t *Tensor) ElementCount() (int64, error) {
	n, err := ElementCount(t.Dims)
	if err != nil {
		return 0, t.errorf("%w", err)
	}
	return n, nil
}

// ByteSize returns the bytes that the elements take according to the type and
// the dims. It fails for strings.
func (t *Tensor) ByteSize() (int64, error) {
	n, err := ElementCount(t.Dims)
	if err != nil {
		return 0, t.errorf("%w", err)
	}
	size, err := t.DataType.ByteSize(n)
	if err != nil {
		return 0, t.errorf("%w", err)
	}
	return size, nil
}

// Bytes returns the elements as little-endian bytes, whichever field, file or
// Source they come from. They may be memory that is shared or mapped
// read-only: do not write to them, and do not use those of a model that was
// read from a file after its Close. What had to be converted is kept for the
// next call, except for a Source. Bytes may be called concurrently.
//
// It fails where there are more or fewer bytes than the type and dims take,
// for a tensor of type String, and for external data that was not resolved.
func (t *Tensor) Bytes() ([]byte, error) {
	n, err := ElementCount(t.Dims)
	if err != nil {
		return nil, t.errorf("%w", err)
	}
	b, err := t.heldStorage().bytes(t.DataType, n)
	if err != nil {
		return nil, t.errorf("%w", err)
	}
	return b, nil
}

// SetBytes replaces the elements by b, which it does not copy. They are
// written as raw_data.
func (t *Tensor) SetBytes(b []byte) {
	if b == nil {
		b = []byte{}
	}
	t.storage = &tensorStorage{fields: []elementField{{rawData, slices.Clip(b)}}}
}

// SetSource replaces the elements by what s produces.
func (t *Tensor) SetSource(s Source) {
	t.storage = &tensorStorage{source: s}
}

// SetExternal replaces the elements by a reference to a part of another file,
// beside the one that the model will be in. [Encode] writes it; Bytes fails
// until the model is read from there.
func (t *Tensor) SetExternal(location string, offset, length int64) {
	t.storage = externalStorage(location, offset, length)
}

// Embed makes tensors whose external data was read hold their elements
// themselves, so that [Encode] writes them into the model.
func (m *Model) Embed() error {
	for _, t := range m.tensors() {
		if t.heldStorage().location != externalLocation {
			continue
		}
		b, err := t.Bytes()
		if err != nil {
			return err
		}
		t.SetBytes(b)
	}
	return nil
}

// WriteTo writes the elements as Bytes gives them, without holding those of a
// Source in memory.
func (t *Tensor) WriteTo(w io.Writer) (int64, error) {
	s := t.heldStorage().source
	if s == nil {
		b, err := t.Bytes()
		if err != nil {
			return 0, err
		}
		n, err := w.Write(b)
		return int64(n), err
	}
	size, err := t.ByteSize()
	if err != nil {
		return 0, err
	}
	if s.Size() != size {
		return 0, t.errorf("its source gives %d bytes, its type and dims take %d", s.Size(), size)
	}
	n, err := s.WriteTo(w)
	if err == nil && n != size {
		err = t.errorf("its source gave %d bytes, not %d", n, size)
	}
	return n, err
}

func (t *Tensor) errorf(format string, args ...any) error {
	return fmt.Errorf("tensor %s: %w", quote(t.Name), fmt.Errorf(format, args...))
}
