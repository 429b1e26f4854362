package onnx

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// maxDepth bounds how deep messages nest, as protobuf's own readers do.
	maxDepth = 100

	// maxMessages bounds what a small hostile file can make us allocate: an
	// empty message takes two bytes there and some hundred here.
	maxMessages = 1 << 24
)

// Decode reads a model from the bytes of a ModelProto. Tensors alias data,
// which must not change while they are in use. External data is not resolved,
// see [ReadFile]: [Tensor.Bytes] of such a tensor fails.
//
// A malformed message gives an error with the byte offset at which it was
// found; whether a well-formed one makes sense is for [Check] to say.
func Decode(data []byte) (*Model, error) {
	m := new(Model)
	if err := decode(data, modelSchema, m); err != nil {
		return nil, err
	}
	if m.Graph == nil {
		return nil, errors.New("the data holds no graph: it is not an ONNX model, or was cut short")
	}
	return m, nil
}

// DecodeTensor reads a tensor from the bytes of a TensorProto, such as the
// input_0.pb of ONNX's test sets. The tensor aliases data. One whose data does
// not fit its type and dims is an error.
func DecodeTensor(data []byte) (*Tensor, error) {
	t := new(Tensor)
	if err := decode(data, tensorSchema, t); err != nil {
		return nil, fmt.Errorf("the data is not a tensor: %w", err)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	return t, nil
}

// decoder is the state of one reading.
type decoder struct {
	end      int // capacity of the whole data, for offsets
	depth    int
	messages int // how many more there may be
}

// decodeError stops a reading; only the innermost message adds a place to it.
type decodeError struct {
	offset  int
	message string
	field   protowire.Number // 0 when unknown
	err     error
}

func (e *decodeError) Error() string {
	if e.field == 0 {
		return fmt.Sprintf("byte %d, in a %s: %v", e.offset, e.message, e.err)
	}
	return fmt.Sprintf("byte %d, field %d of a %s: %v", e.offset, e.field, e.message, e.err)
}

func (e *decodeError) Unwrap() error { return e.err }

func decode[T any](data []byte, s *schema[T], m *T) error {
	d := &decoder{end: cap(data), messages: maxMessages}
	return s.decode(d, m, value{kind: protowire.BytesType, payload: data})
}

// decode reads the message in v into m, adding to what m has.
func (s *schema[T]) decode(d *decoder, m *T, v value) error {
	b, err := v.bytes()
	if err != nil {
		return err
	}
	fail := func(b []byte, number protowire.Number, err error) error {
		if _, placed := errors.AsType[*decodeError](err); placed {
			return err
		}
		// Every slice runs to the end of the data, so what it can still hold
		// tells where it starts.
		return &decodeError{offset: d.end - cap(b), message: s.name, field: number, err: err}
	}
	if d.depth++; d.depth > maxDepth {
		return fail(b, 0, fmt.Errorf("messages are nested more than %d deep", maxDepth))
	}
	defer func() { d.depth-- }()
	if d.messages--; d.messages < 0 {
		return fail(b, 0, errors.New("there are too many messages to be a model"))
	}
	unknown, present := s.wire(m)
	for len(b) > 0 {
		number, kind, tagSize := protowire.ConsumeTag(b)
		if tagSize < 0 {
			return fail(b, 0, malformed(tagSize))
		}
		v, size, err := consume(number, kind, b[tagSize:])
		if err != nil {
			return fail(b, number, err)
		}
		size += tagSize
		if int(number) < len(s.fields) && s.fields[number].decode != nil {
			if err := s.fields[number].decode(d, m, v); err != nil {
				return fail(b, number, err)
			}
			present.set(number)
		} else {
			*unknown = append(*unknown, b[:size]...)
		}
		b = b[size:]
	}
	if s.after != nil {
		s.after(m)
	}
	return nil
}

// consume splits the value of a field off b and returns its size.
func consume(number protowire.Number, kind protowire.Type, b []byte) (v value, size int, err error) {
	v.kind = kind
	switch kind {
	case protowire.VarintType:
		v.bits, size = protowire.ConsumeVarint(b)
	case protowire.Fixed32Type:
		var bits uint32
		bits, size = protowire.ConsumeFixed32(b)
		v.bits = uint64(bits)
	case protowire.Fixed64Type:
		v.bits, size = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		length, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return v, 0, malformed(n)
		}
		if length > uint64(len(b)-n) {
			return v, 0, fmt.Errorf("a length of %d runs past the end, %d bytes are left; the file is cut short or corrupted", length, len(b)-n)
		}
		size = n + int(length)
		v.payload = b[n:size]
	default:
		size = protowire.ConsumeFieldValue(number, kind, b)
	}
	if size < 0 {
		return v, 0, malformed(size)
	}
	return v, size, nil
}

func malformed(n int) error {
	return fmt.Errorf("not a valid protobuf encoding (%w)", protowire.ParseError(n))
}
