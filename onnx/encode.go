package onnx

import (
	"bytes"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxEncoded is the largest message that protobuf readers accept, 2 GiB.
const maxEncoded = 1<<31 - 1

// Encode writes a model as the bytes of a ModelProto: fields in the order of
// their numbers, tensors in the field that they were read from. A model that
// was decoded and not changed gives the same fields again. Tensors with
// external data stay references to it; [WriteFile] can change that.
//
// It fails where the encoding would pass protobuf's limit of 2 GiB.
func Encode(m *Model) ([]byte, error) { return encode(modelSchema, m) }

// EncodeTensor writes a tensor as the bytes of a TensorProto.
func EncodeTensor(t *Tensor) ([]byte, error) { return encode(tensorSchema, t) }

func encode[T any](s *schema[T], m *T) ([]byte, error) {
	var e encoder
	size, err := measure(&e, s, m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Grow(int(size))
	if err := write(&e, &out, s, m); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// encoder walks a message twice: first to measure, as protobuf puts the
// length of a nested message before it, then to write. So nothing is ever
// held in memory but the list of lengths.
type encoder struct {
	out     io.Writer // nil while measuring
	offset  int64     // bytes measured or written so far
	lengths []int64   // of the nested messages, in the order they are met
	next    int       // the length to use next, while writing
	depth   int
	err     error // the first failure; what follows it does nothing useful
	scratch []byte

	// moved says for some tensors where their elements go, other than where
	// they are stored now.
	moved map[*Tensor]*tensorStorage
}

func measure[T any](e *encoder, s *schema[T], m *T) (int64, error) {
	s.encodeFields(e, m)
	if e.err == nil && e.offset > maxEncoded {
		e.err = fmt.Errorf("the model takes %d bytes, more than the 2 GiB that protobuf allows: store its weights as external data", e.offset)
	}
	return e.offset, e.err
}

func write[T any](e *encoder, out io.Writer, s *schema[T], m *T) error {
	size := e.offset
	e.out, e.offset, e.next = out, 0, 0
	s.encodeFields(e, m)
	if e.err == nil && e.offset != size {
		e.err = fmt.Errorf("the model changed while it was being written: %d bytes, not %d", e.offset, size)
	}
	return e.err
}

// encode writes m as field number of an enclosing message.
func (s *schema[T]) encode(e *encoder, number protowire.Number, m *T) {
	if e.err != nil {
		return
	}
	if e.depth++; e.depth >= maxDepth {
		e.err = fmt.Errorf("messages are nested more than %d deep, at a %s", maxDepth, s.name)
	}
	defer func() { e.depth-- }()
	if e.out == nil {
		i := len(e.lengths)
		e.lengths = append(e.lengths, 0)
		start := e.offset
		s.encodeFields(e, m)
		length := e.offset - start
		e.lengths[i] = length
		e.header(number, length)
		return
	}
	if e.next == len(e.lengths) {
		e.err = fmt.Errorf("the model changed while it was being written, at a %s", s.name)
		return
	}
	length := e.lengths[e.next]
	e.next++
	e.header(number, length)
	s.encodeFields(e, m)
}

func (s *schema[T]) encodeFields(e *encoder, m *T) {
	if m == nil {
		e.err = fmt.Errorf("a %s is nil", s.name)
	}
	if e.err != nil {
		return
	}
	unknown, present := s.wire(m)
	for number := range s.fields {
		if f := s.fields[number].encode; f != nil {
			f(e, m, protowire.Number(number), present.has(protowire.Number(number)))
		}
	}
	e.write(*unknown)
}

func (e *encoder) write(b []byte) {
	e.offset += int64(len(b))
	if e.out != nil && e.err == nil {
		_, e.err = e.out.Write(b)
	}
}

func (e *encoder) varint(number protowire.Number, x uint64) {
	e.scratch = protowire.AppendTag(e.scratch[:0], number, protowire.VarintType)
	e.scratch = protowire.AppendVarint(e.scratch, x)
	e.write(e.scratch)
}

func (e *encoder) fixed32(number protowire.Number, x uint32) {
	e.scratch = protowire.AppendTag(e.scratch[:0], number, protowire.Fixed32Type)
	e.scratch = protowire.AppendFixed32(e.scratch, x)
	e.write(e.scratch)
}

// header starts a field of the given length.
func (e *encoder) header(number protowire.Number, length int64) {
	e.scratch = protowire.AppendTag(e.scratch[:0], number, protowire.BytesType)
	e.scratch = protowire.AppendVarint(e.scratch, uint64(length))
	e.write(e.scratch)
}

func (e *encoder) bytes(number protowire.Number, b []byte) {
	e.header(number, int64(len(b)))
	e.write(b)
}

func (e *encoder) text(number protowire.Number, s string) {
	e.header(number, int64(len(s)))
	e.scratch = append(e.scratch[:0], s...)
	e.write(e.scratch)
}

// stream writes a field of the given length whose bytes come from w.
func (e *encoder) stream(number protowire.Number, length int64, w io.WriterTo) {
	e.header(number, length)
	e.offset += length
	if e.out == nil || e.err != nil {
		return
	}
	n, err := w.WriteTo(e.out)
	if err == nil && n != length {
		err = fmt.Errorf("%d bytes were written, not %d", n, length)
	}
	e.err = err
}
