package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of TensorProto that can hold elements.
const (
	floatData  protowire.Number = 4
	int32Data  protowire.Number = 5
	int64Data  protowire.Number = 7
	rawData    protowire.Number = 9
	doubleData protowire.Number = 10
	uint64Data protowire.Number = 11
)

var elementFieldNames = map[protowire.Number]string{
	floatData: "float_data", int32Data: "int32_data", int64Data: "int64_data",
	rawData: "raw_data", doubleData: "double_data", uint64Data: "uint64_data",
}

// externalLocation is TensorProto.DataLocation's value EXTERNAL.
const externalLocation = 1

// tensorStorage is where a tensor's elements are: in the fields that a file
// gave them in, in an external file, or in a Source. Tensors share one, so
// that it is not changed once it is complete.
type tensorStorage struct {
	fields   []elementField
	external []Property // external_data
	location int32      // data_location
	mapped   []byte     // the bytes that external refers to; nil before they are resolved
	source   Source     // in place of fields

	converted atomic.Pointer[[]byte] // what Bytes made of a field that is not raw
}

// elementField is one of TensorProto's element fields as it is encoded: the
// elements themselves in raw_data, packed numbers in the others.
type elementField struct {
	number  protowire.Number
	payload []byte
}

func (s *tensorStorage) field(number protowire.Number) *elementField {
	for i := range s.fields {
		if s.fields[i].number == number {
			return &s.fields[i]
		}
	}
	return nil
}

// readStorage returns the storage of a tensor that is being read.
func (t *Tensor) readStorage() *tensorStorage {
	if t.storage == nil {
		t.storage = new(tensorStorage)
	}
	return t.storage
}

var noStorage = new(tensorStorage)

func (t *Tensor) heldStorage() *tensorStorage {
	if t.storage == nil {
		return noStorage
	}
	return t.storage
}

// elements is one of TensorProto's element fields in the codec.
func elements(number protowire.Number) field[Tensor] {
	return field[Tensor]{
		decode: func(_ *decoder, t *Tensor, v value) error {
			s := t.readStorage()
			f := s.field(number)
			if f == nil {
				s.fields = append(s.fields, elementField{number: number})
				f = &s.fields[len(s.fields)-1]
			}
			switch {
			case number == rawData:
				b, err := v.bytes()
				f.payload = b[:len(b):len(b)]
				return err
			case v.kind == protowire.BytesType && f.payload == nil:
				f.payload = v.payload[:len(v.payload):len(v.payload)]
			case v.kind == protowire.BytesType: // a packed list in several pieces
				f.payload = append(f.payload, v.payload...)
			case v.kind != packedKind(number):
				return errWireType
			case v.kind == protowire.Fixed32Type: // a list that is not packed
				f.payload = binary.LittleEndian.AppendUint32(f.payload, uint32(v.bits))
			case v.kind == protowire.Fixed64Type:
				f.payload = binary.LittleEndian.AppendUint64(f.payload, v.bits)
			default:
				f.payload = protowire.AppendVarint(f.payload, v.bits)
			}
			return nil
		},
		encode: func(e *encoder, t *Tensor, _ protowire.Number, _ bool) {
			s := e.storage(t)
			if f := s.field(number); f != nil {
				e.bytes(number, f.payload)
			}
			if number == rawData && s.source != nil {
				e.source(t, s.source)
			}
		},
	}
}

// packedKind is the wire type of one element of a packed list.
func packedKind(number protowire.Number) protowire.Type {
	switch number {
	case floatData:
		return protowire.Fixed32Type
	case doubleData:
		return protowire.Fixed64Type
	}
	return protowire.VarintType
}

// ofStorage is a field of a tensor that its storage holds.
func ofStorage(f field[tensorStorage]) field[Tensor] {
	return field[Tensor]{
		decode: func(d *decoder, t *Tensor, v value) error { return f.decode(d, t.readStorage(), v) },
		encode: func(e *encoder, t *Tensor, number protowire.Number, explicit bool) {
			f.encode(e, e.storage(t), number, explicit)
		},
	}
}

// storage returns where the encoder is to put t's elements.
func (e *encoder) storage(t *Tensor) *tensorStorage {
	if s, ok := e.moved[t]; ok {
		return s
	}
	return t.heldStorage()
}

// source writes a tensor that is made on demand as raw_data.
func (e *encoder) source(t *Tensor, s Source) {
	size, err := t.ByteSize()
	if err == nil && s.Size() != size {
		err = t.errorf("its source gives %d bytes, its type and dims take %d", s.Size(), size)
	}
	if err != nil && e.err == nil {
		e.err = err
	}
	e.stream(rawData, size, s)
}

// bytes returns the elements of a tensor of type t, of which there are n.
func (s *tensorStorage) bytes(t DataType, n int64) ([]byte, error) {
	size, err := t.ByteSize(n)
	if err != nil {
		return nil, err
	}
	b, err := s.find(t, n, size)
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("it has %d bytes of data, its type and dims take %d", len(b), size)
	}
	return b, err
}

func (s *tensorStorage) find(t DataType, n, size int64) ([]byte, error) {
	if s.source != nil {
		return readSource(s.source, size)
	}
	if s.location == externalLocation {
		if s.mapped == nil {
			return nil, fmt.Errorf("its data is in the external file %q, which is only looked for when the model is read from a file", s.key("location"))
		}
		return s.mapped, nil
	}
	if f := s.field(rawData); f != nil {
		return f.payload, nil
	}
	if b := s.converted.Load(); b != nil {
		return *b, nil
	}
	f := s.field(fieldOf(t))
	switch {
	case f == nil && len(s.fields) > 0:
		return nil, fmt.Errorf("elements of type %s cannot be in %s", t, elementFieldNames[s.fields[0].number])
	case f == nil && size > 0:
		return nil, errors.New("it has no data")
	case f == nil:
		return nil, nil
	case f.number == floatData || f.number == doubleData:
		return f.payload, nil // packed little-endian numbers are what raw_data has
	}
	b, err := unpackVarints(f.payload, t, n, size)
	if err == nil {
		s.converted.Store(&b)
	}
	return b, err
}

// fieldOf is the field of TensorProto for elements of type t that are not
// raw, 0 where there is none.
func fieldOf(t DataType) protowire.Number {
	switch t {
	case Float32, Complex64:
		return floatData
	case Float64, Complex128:
		return doubleData
	case Int64:
		return int64Data
	case Uint32, Uint64:
		return uint64Data
	case Undefined, String:
		return 0
	}
	return int32Data
}

// unpackVarints converts packed varints to size bytes of n little-endian
// elements. A varint holds one element, or for 4-bit and 2-bit types one byte
// of them.
func unpackVarints(packed []byte, t DataType, n, size int64) ([]byte, error) {
	count := int64(0)
	for _, c := range packed {
		if c < 0x80 {
			count++
		}
	}
	want := n
	if t.Bits() < 6 {
		want = size
	}
	if count != want {
		return nil, fmt.Errorf("%s has %d numbers, its type and dims take %d", elementFieldNames[fieldOf(t)], count, want)
	}
	out := make([]byte, size)
	width := max(t.Bits()/8, 1)
	for i := int64(0); i < want; i++ {
		x, used := protowire.ConsumeVarint(packed)
		if used < 0 {
			return nil, malformed(used)
		}
		packed = packed[used:]
		if t.Bits() == 6 {
			pack6(out, i, byte(x))
			continue
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], x)
		copy(out[i*int64(width):], b[:width])
	}
	if len(packed) > 0 {
		return nil, fmt.Errorf("%s: %w", elementFieldNames[fieldOf(t)], errPacked)
	}
	return out, nil
}

// pack6 puts the i-th element of six bits into out.
func pack6(out []byte, i int64, x byte) {
	bit := 6 * i
	v := uint16(x&0x3f) << (bit % 8)
	out[bit/8] |= byte(v)
	if v > math.MaxUint8 {
		out[bit/8+1] |= byte(v >> 8)
	}
}

func readSource(s Source, size int64) ([]byte, error) {
	if s.Size() != size {
		return nil, fmt.Errorf("its source gives %d bytes, its type and dims take %d", s.Size(), size)
	}
	b := buffer{make([]byte, 0, size)}
	if _, err := s.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.bytes, nil
}

// buffer is a Writer into a slice that takes no more than its capacity.
type buffer struct{ bytes []byte }

func (b *buffer) Write(p []byte) (int, error) {
	if len(p) > cap(b.bytes)-len(b.bytes) {
		return 0, errors.New("its source gives more bytes than it said")
	}
	b.bytes = append(b.bytes, p...)
	return len(p), nil
}
