package tensor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

// NumPy's file format for one array (.npy): a magic string, a version, and the
// length and text of a header, a Python dictionary that gives the element type
// ("descr"), the order of the elements and the shape. The elements follow.
const (
	npyMagic     = "\x93NUMPY"
	npyMaxHeader = 1 << 16
	npyMaxRank   = 64 // NumPy's own limit
	npyAlignment = 64 // of the first element
)

// npyTypes has NumPy's codes of element types, without the byte order.
var npyTypes = map[string]onnx.DataType{
	"b1": onnx.Bool, "i1": onnx.Int8, "i2": onnx.Int16, "i4": onnx.Int32, "i8": onnx.Int64,
	"u1": onnx.Uint8, "u2": onnx.Uint16, "u4": onnx.Uint32, "u8": onnx.Uint64,
	"f2": onnx.Float16, "f4": onnx.Float32, "f8": onnx.Float64, "c8": onnx.Complex64, "c16": onnx.Complex128,
}

// WriteNPY writes a tensor as a .npy file of version 1.0. It fails for element
// types that NumPy has not: strings, bfloat16 and the narrower ones.
func WriteNPY(w io.Writer, t *Tensor) error {
	code := ""
	for name, dataType := range npyTypes {
		if dataType == t.Type {
			code = name
		}
	}
	if code == "" {
		return fmt.Errorf("npy: NumPy has no element type %s; write ONNX's .pb format instead", t.Type)
	}
	if len(t.Shape) > npyMaxRank {
		return fmt.Errorf("npy: NumPy has no arrays of %d dimensions; write ONNX's .pb format instead", len(t.Shape))
	}
	order := "<"
	if t.Type.Bits() == 8 {
		order = "|"
	}
	dims := make([]string, len(t.Shape))
	for i, d := range t.Shape {
		dims[i] = strconv.Itoa(d)
	}
	shape := strings.Join(dims, ", ")
	if len(dims) == 1 {
		shape += "," // else Python would read a number
	}
	header := fmt.Sprintf("{'descr': '%s%s', 'fortran_order': False, 'shape': (%s), }", order, code, shape)
	prefix := len(npyMagic) + 4
	header += strings.Repeat(" ", npyAlignment-1-(prefix+len(header))%npyAlignment) + "\n"
	head := append([]byte(npyMagic), 1, 0)
	head = binary.LittleEndian.AppendUint16(head, uint16(len(header)))
	if _, err := w.Write(append(head, header...)); err != nil {
		return err
	}
	_, err := w.Write(t.Data)
	return err
}

// ReadNPY reads a .npy file of version 1, 2 or 3 with booleans, integers,
// floats or complex numbers in either byte order. It reads no further than the
// last element, and allocates no more than a small multiple of what r holds.
func ReadNPY(r io.Reader) (*Tensor, error) {
	h, err := readNPYHeader(r)
	if err != nil {
		return nil, fmt.Errorf("npy: %w", err)
	}
	count, err := CheckedCount(h.dataType, h.shape)
	if err != nil {
		return nil, fmt.Errorf("npy: %w", err)
	}
	data, err := readAligned(r, ByteSize(h.dataType, count))
	if err != nil {
		return nil, fmt.Errorf("npy: %s%s: %w", h.dataType, FormatShape(h.shape), err)
	}
	width := h.dataType.Bits() / 8
	if h.dataType == onnx.Bool { // a Go bool is 0 or 1
		for i, b := range data {
			data[i] = min(b, 1)
		}
	}
	if h.bigEndian {
		number := width
		if h.dataType == onnx.Complex64 || h.dataType == onnx.Complex128 {
			number /= 2
		}
		for i := 0; i < len(data); i += number {
			slices.Reverse(data[i : i+number])
		}
	}
	if h.fortran {
		data = fromFortran(data, h.shape, width)
	}
	return &Tensor{Type: h.dataType, Shape: h.shape, Data: data}, nil
}

// ViewNPY is ReadNPY for a file in memory. Where the file has numbers as a
// tensor has them, little-endian and in row-major order, the tensor's elements
// are those of the file, which are then not looked at.
func ViewNPY(file []byte) (*Tensor, error) {
	r := bytes.NewReader(file)
	h, err := readNPYHeader(r)
	if err != nil {
		return nil, fmt.Errorf("npy: %w", err)
	}
	at := len(file) - r.Len()
	if h.bigEndian || h.fortran || h.dataType == onnx.Bool || at%(h.dataType.Bits()/8) != 0 {
		return ReadNPY(bytes.NewReader(file))
	}
	count, err := CheckedCount(h.dataType, h.shape)
	if err != nil {
		return nil, fmt.Errorf("npy: %w", err)
	}
	size := ByteSize(h.dataType, count)
	if have := len(file) - at; have < size {
		return nil, fmt.Errorf("npy: %s%s: ends after %d of %d bytes", h.dataType, FormatShape(h.shape), have, size)
	}
	return &Tensor{Type: h.dataType, Shape: h.shape, Data: file[at : at+size : at+size]}, nil
}

// readAligned reads n bytes. The memory grows with what arrives, so that a
// false header costs nothing.
func readAligned(r io.Reader, n int) ([]byte, error) {
	data := AlignedBytes(min(n, 1<<20))
	for have := 0; ; {
		got, err := io.ReadFull(r, data[have:])
		have += got
		if err != nil {
			return nil, fmt.Errorf("ends after %d of %d bytes", have, n)
		}
		if have == n {
			return data, nil
		}
		larger := AlignedBytes(min(n, 2*have))
		copy(larger, data)
		data = larger
	}
}

// fromFortran reorders elements whose first index runs fastest.
func fromFortran(data []byte, shape []int, width int) []byte {
	out := AlignedBytes(len(data))
	strides, step := make([]int, len(shape)), width
	for i, d := range shape {
		strides[i] = step
		step *= d
	}
	index := make([]int, len(shape))
	from := 0
	for to := 0; to < len(out); to += width {
		copy(out[to:to+width], data[from:from+width])
		for i := len(shape) - 1; i >= 0; i-- {
			index[i]++
			from += strides[i]
			if index[i] < shape[i] {
				break
			}
			from -= shape[i] * strides[i]
			index[i] = 0
		}
	}
	return out
}

type npyHeader struct {
	dataType  onnx.DataType
	bigEndian bool
	fortran   bool
	shape     []int
}

func readNPYHeader(r io.Reader) (npyHeader, error) {
	var h npyHeader
	start := make([]byte, len(npyMagic)+2)
	if _, err := io.ReadFull(r, start); err != nil || string(start[:len(npyMagic)]) != npyMagic {
		return h, errors.New("is not a .npy file")
	}
	lengthSize := 2
	switch major := start[len(npyMagic)]; major {
	case 1:
	case 2, 3:
		lengthSize = 4
	default:
		return h, fmt.Errorf("has version %d of the format; 1 to 3 are known", major)
	}
	length := make([]byte, 4)
	if _, err := io.ReadFull(r, length[:lengthSize]); err != nil {
		return h, errors.New("ends in its header")
	}
	n := binary.LittleEndian.Uint32(length)
	if n >= npyMaxHeader {
		return h, fmt.Errorf("has a header of %d bytes, which is too long", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return h, errors.New("ends in its header")
	}
	if err := h.parse(string(text)); err != nil {
		return h, fmt.Errorf("header %q: %w", text[:min(len(text), 200)], err)
	}
	return h, nil
}

// parse reads a Python dictionary with the keys descr, fortran_order and shape.
func (h *npyHeader) parse(text string) error {
	p := &literal{strings.TrimSpace(text)}
	seen := map[string]bool{}
	if !p.accept("{") {
		return errors.New("is no dictionary")
	}
	for !p.accept("}") {
		key, err := p.quoted()
		if err != nil {
			return err
		}
		if !p.accept(":") {
			return errors.New("lacks a colon")
		}
		switch seen[key] = true; key {
		case "descr":
			err = h.parseType(p)
		case "fortran_order":
			if h.fortran = p.accept("True"); !h.fortran && !p.accept("False") {
				err = errors.New("fortran_order is neither True nor False")
			}
		case "shape":
			h.shape, err = p.dimensions()
		default:
			err = fmt.Errorf("key %q is unknown", key)
		}
		if err != nil {
			return err
		}
		if !p.accept(",") && !strings.HasPrefix(p.rest, "}") {
			return errors.New("lacks a comma")
		}
	}
	if len(seen) != 3 || p.rest != "" {
		return errors.New("does not consist of descr, fortran_order and shape")
	}
	return nil
}

func (h *npyHeader) parseType(p *literal) error {
	descr, err := p.quoted()
	if err != nil {
		return errors.New("structured element types are not supported")
	}
	if descr != "" {
		h.bigEndian = descr[0] == '>'
		h.dataType = npyTypes[strings.TrimLeft(descr[:1], "<>|=")+descr[1:]]
	}
	if h.dataType == onnx.Undefined {
		return fmt.Errorf("element type %q is not supported; save numbers or booleans", descr)
	}
	return nil
}

// literal reads the little of Python's syntax that headers use.
type literal struct{ rest string }

// accept skips a token and the space behind it, and reports whether it was
// there.
func (p *literal) accept(token string) bool {
	rest, ok := strings.CutPrefix(p.rest, token)
	if ok {
		p.rest = strings.TrimSpace(rest)
	}
	return ok
}

func (p *literal) quoted() (string, error) {
	for _, quote := range []string{"'", "\""} {
		if s, found := strings.CutPrefix(p.rest, quote); found {
			if s, rest, ok := strings.Cut(s, quote); ok {
				p.rest = strings.TrimSpace(rest)
				return s, nil
			}
		}
	}
	return "", errors.New("lacks a string")
}

// dimensions reads a tuple of integers.
func (p *literal) dimensions() ([]int, error) {
	shape := []int{}
	if !p.accept("(") {
		return nil, errors.New("shape is no tuple")
	}
	for !p.accept(")") {
		end := strings.IndexFunc(p.rest, func(r rune) bool { return r < '0' || r > '9' })
		d, err := strconv.Atoi(p.rest[:max(end, 0)])
		if err != nil || len(shape) == npyMaxRank {
			return nil, errors.New("shape has a bad dimension, or too many")
		}
		shape = append(shape, d)
		p.rest = strings.TrimSpace(p.rest[end:])
		p.accept("L") // of Python 2
		if !p.accept(",") && !strings.HasPrefix(p.rest, ")") {
			return nil, errors.New("shape lacks a comma")
		}
	}
	return shape, nil
}
