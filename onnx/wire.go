package onnx

import (
	"errors"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The codec is a table: schema.go lists, for each ONNX message, the numbers
// of its fields and where each lives in the Go struct. This file holds the
// kinds of field, each of which knows how to read and how to write itself.

// schema describes one ONNX message, held in the Go struct T.
type schema[T any] struct {
	name   string // the message's name in onnx.proto
	fields fields[T]
	wire   func(*T) (unknown *[]byte, present *presence)
	after  func(*T) // runs when a message has been read; may be nil
}

// fields holds the fields of a message by number.
type fields[T any] [27]field[T]

// field reads and writes one field of a message. Encode writes a value that
// is its type's default only when explicit is set.
type field[T any] struct {
	decode func(d *decoder, m *T, v value) error
	encode func(e *encoder, m *T, number protowire.Number, explicit bool)
}

// presence is the set of field numbers that a file held. It tells an
// explicit default, such as an empty doc_string, from a field left out.
type presence uint32

func (p presence) has(n protowire.Number) bool { return p&(1<<n) != 0 }
func (p *presence) set(n protowire.Number)     { *p |= 1 << n }

// value is one field's value as it stands in the file.
type value struct {
	kind    protowire.Type
	bits    uint64 // of a varint or fixed-width number
	payload []byte // of a length-delimited field; aliases the file
}

var errWireType = errors.New("the value has another wire type than this field")

func (v value) number() (uint64, error) {
	if v.kind != protowire.VarintType {
		return 0, errWireType
	}
	return v.bits, nil
}

func (v value) float() (float32, error) {
	if v.kind != protowire.Fixed32Type {
		return 0, errWireType
	}
	return math.Float32frombits(uint32(v.bits)), nil
}

func (v value) bytes() ([]byte, error) {
	if v.kind != protowire.BytesType {
		return nil, errWireType
	}
	return v.payload, nil
}

func text[T any](at func(*T) *string) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) error {
			b, err := v.bytes()
			*at(m) = string(b)
			return err
		},
		encode: func(e *encoder, m *T, number protowire.Number, explicit bool) {
			if s := *at(m); s != "" || explicit {
				e.text(number, s)
			}
		},
	}
}

func blob[T any](at func(*T) *[]byte) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) error {
			b, err := v.bytes()
			*at(m) = append([]byte{}, b...)
			return err
		},
		encode: func(e *encoder, m *T, number protowire.Number, explicit bool) {
			if b := *at(m); len(b) > 0 || explicit {
				e.bytes(number, b)
			}
		},
	}
}

func integer[T any, V ~int32 | ~int64](at func(*T) *V) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) error {
			n, err := v.number()
			*at(m) = V(n)
			return err
		},
		encode: func(e *encoder, m *T, number protowire.Number, explicit bool) {
			if n := *at(m); n != 0 || explicit {
				e.varint(number, uint64(n))
			}
		},
	}
}

func float[T any](at func(*T) *float32) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) (err error) {
			*at(m), err = v.float()
			return err
		},
		encode: func(e *encoder, m *T, number protowire.Number, explicit bool) {
			if bits := math.Float32bits(*at(m)); bits != 0 || explicit {
				e.fixed32(number, bits)
			}
		},
	}
}

func texts[T any](at func(*T) *[]string) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) error {
			b, err := v.bytes()
			*at(m) = append(*at(m), string(b))
			return err
		},
		encode: func(e *encoder, m *T, number protowire.Number, _ bool) {
			for _, s := range *at(m) {
				e.text(number, s)
			}
		},
	}
}

func blobs[T any](at func(*T) *[][]byte) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) error {
			b, err := v.bytes()
			*at(m) = append(*at(m), append([]byte{}, b...))
			return err
		},
		encode: func(e *encoder, m *T, number protowire.Number, _ bool) {
			for _, b := range *at(m) {
				e.bytes(number, b)
			}
		},
	}
}

// integers reads a repeated int64 in its plain and its packed form, as every
// protobuf reader must, and writes the plain one, as onnx.proto declares it.
func integers[T any](at func(*T) *[]int64) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) error {
			list := at(m)
			if v.kind != protowire.BytesType {
				n, err := v.number()
				*list = append(*list, int64(n))
				return err
			}
			for b := v.payload; len(b) > 0; {
				x, n := protowire.ConsumeVarint(b)
				if n < 0 {
					return errPacked
				}
				*list = append(*list, int64(x))
				b = b[n:]
			}
			return nil
		},
		encode: func(e *encoder, m *T, number protowire.Number, _ bool) {
			for _, x := range *at(m) {
				e.varint(number, uint64(x))
			}
		},
	}
}

var errPacked = errors.New("a packed list ends in the middle of an element")

// floats is integers for a repeated float.
func floats[T any](at func(*T) *[]float32) field[T] {
	return field[T]{
		decode: func(_ *decoder, m *T, v value) error {
			list := at(m)
			if v.kind != protowire.BytesType {
				x, err := v.float()
				*list = append(*list, x)
				return err
			}
			for b := v.payload; len(b) > 0; {
				bits, n := protowire.ConsumeFixed32(b)
				if n < 0 {
					return errPacked
				}
				*list = append(*list, math.Float32frombits(bits))
				b = b[n:]
			}
			return nil
		},
		encode: func(e *encoder, m *T, number protowire.Number, _ bool) {
			for _, x := range *at(m) {
				e.fixed32(number, math.Float32bits(x))
			}
		},
	}
}

// child is a message field. One that a file gives twice is merged, as
// protobuf requires.
func child[T, M any](s *schema[M], at func(*T) **M) field[T] {
	return field[T]{
		decode: func(d *decoder, m *T, v value) error {
			if *at(m) == nil {
				*at(m) = new(M)
			}
			return s.decode(d, *at(m), v)
		},
		encode: func(e *encoder, m *T, number protowire.Number, _ bool) {
			if c := *at(m); c != nil {
				s.encode(e, number, c)
			}
		},
	}
}

func children[T, M any](s *schema[M], at func(*T) *[]*M) field[T] {
	return field[T]{
		decode: func(d *decoder, m *T, v value) error {
			c := new(M)
			*at(m) = append(*at(m), c)
			return s.decode(d, c, v)
		},
		encode: func(e *encoder, m *T, number protowire.Number, _ bool) {
			for _, c := range *at(m) {
				s.encode(e, number, c)
			}
		},
	}
}

// values is children for small messages held by value.
func values[T, M any](s *schema[M], at func(*T) *[]M) field[T] {
	return field[T]{
		decode: func(d *decoder, m *T, v value) error {
			list := at(m)
			*list = append(*list, *new(M))
			return s.decode(d, &(*list)[len(*list)-1], v)
		},
		encode: func(e *encoder, m *T, number protowire.Number, _ bool) {
			list := *at(m)
			for i := range list {
				s.encode(e, number, &list[i])
			}
		},
	}
}
