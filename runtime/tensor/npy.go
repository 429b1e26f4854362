package tensor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

// NumPy's file format, version 1.0 to 3.0: a magic string, the version, the
// length of the header, the header (a Python dictionary), the elements. See
// NumPy's documentation of numpy.lib.format.

const npyMagic = "\x93NUMPY"

// npyTypes are NumPy's names of element types, without the byte order.
var npyTypes = map[string]onnx.DataType{
	"b1": onnx.Bool,
	"i1": onnx.Int8, "i2": onnx.Int16, "i4": onnx.Int32, "i8": onnx.Int64,
	"u1": onnx.Uint8, "u2": onnx.Uint16, "u4": onnx.Uint32, "u8": onnx.Uint64,
	"f2": onnx.Float16, "f4": onnx.Float32, "f8": onnx.Float64,
	"c8": onnx.Complex64, "c16": onnx.Complex128,
}

var (
	npyDescr   = regexp.MustCompile(`'descr'\s*:\s*'([<>|=]?)([a-zA-Z]\d+)'`)
	npyFortran = regexp.MustCompile(`'fortran_order'\s*:\s*(True|False)`)
	npyShape   = regexp.MustCompile(`'shape'\s*:\s*\(([\d\s,]*)\)`)
)

// DecodeNPY reads the content of a NumPy .npy file. Numbers and booleans are
// supported, in either byte order and memory order; the tensor does not alias
// data.
func DecodeNPY(data []byte) (*Tensor, error) {
	header, elements, err := splitNPY(data)
	if err != nil {
		return nil, err
	}
	descr, fortran, dims := npyDescr.FindSubmatch(header), npyFortran.FindSubmatch(header), npyShape.FindSubmatch(header)
	if descr == nil || fortran == nil || dims == nil {
		return nil, fmt.Errorf("NumPy header %q is not that of an array of numbers", header)
	}
	dataType, ok := npyTypes[string(descr[2])]
	if !ok {
		return nil, fmt.Errorf("NumPy type %q is not supported; convert the array to a number type", descr[2])
	}
	shape := []int{}
	for _, word := range strings.FieldsFunc(string(dims[1]), func(r rune) bool { return r == ',' || r == ' ' }) {
		d, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("NumPy shape (%s) is too large", dims[1])
		}
		shape = append(shape, d)
	}
	count, err := CheckedCount(dataType, shape)
	if err != nil {
		return nil, err
	}
	if size := ByteSize(dataType, count); len(elements) != size {
		return nil, fmt.Errorf("NumPy array of %s%s has %d bytes of elements, needs %d", dataType, FormatShape(shape), len(elements), size)
	}
	t := &Tensor{Type: dataType, Shape: shape, Data: AlignedBytes(len(elements))}
	copy(t.Data, elements)
	if dataType == onnx.Bool { // a Go bool is 0 or 1
		for i, b := range t.Data {
			t.Data[i] = min(b, 1)
		}
	}
	if string(descr[1]) == ">" {
		swapBytes(t)
	}
	if string(fortran[1]) == "True" {
		t = fromFortranOrder(t)
	}
	return t, nil
}

func splitNPY(data []byte) (header, elements []byte, err error) {
	rest, ok := bytes.CutPrefix(data, []byte(npyMagic))
	if !ok || len(rest) < 2 {
		return nil, nil, errors.New("is not a NumPy .npy file")
	}
	major, rest := rest[0], rest[2:]
	width := 4
	switch major {
	case 1:
		width = 2
	case 2, 3:
	default:
		return nil, nil, fmt.Errorf("NumPy file version %d is not supported", major)
	}
	if len(rest) < width {
		return nil, nil, errors.New("NumPy file ends in its header")
	}
	var length uint64
	if width == 2 {
		length = uint64(binary.LittleEndian.Uint16(rest))
	} else {
		length = uint64(binary.LittleEndian.Uint32(rest))
	}
	rest = rest[width:]
	if length > uint64(len(rest)) {
		return nil, nil, errors.New("NumPy file ends in its header")
	}
	return rest[:length], rest[length:], nil
}

// swapBytes turns big-endian elements into little-endian ones.
func swapBytes(t *Tensor) {
	width := t.Type.Bits() / 8
	if t.Type == onnx.Complex64 || t.Type == onnx.Complex128 {
		width /= 2
	}
	for part := range slices.Chunk(t.Data, width) {
		slices.Reverse(part)
	}
}

// fromFortranOrder returns the array whose elements t holds with the first
// index varying fastest.
func fromFortranOrder(t *Tensor) *Tensor {
	out := New(t.Type, t.Shape...)
	width := t.Type.Bits() / 8
	for at := range out.Len() {
		from, stride := 0, 1
		for i, index := range Index(t.Shape, at) {
			from += index * stride
			stride *= t.Shape[i]
		}
		copy(out.Data[at*width:(at+1)*width], t.Data[from*width:])
	}
	return out
}

// WriteNPY writes the tensor as a NumPy .npy file, version 1.0. It fails for
// types that NumPy has not, such as bfloat16 and strings.
func (t *Tensor) WriteNPY(w io.Writer) error {
	name := ""
	for n, dataType := range npyTypes {
		if dataType == t.Type {
			name = n
		}
	}
	if name == "" {
		return fmt.Errorf("NumPy has no element type %s; write ONNX's .pb format instead", t.Type)
	}
	order := "<"
	if t.Type.Bits() == 8 {
		order = "|"
	}
	shape := ""
	for _, d := range t.Shape {
		shape += strconv.Itoa(d) + ", "
	}
	if len(t.Shape) > 1 {
		shape = strings.TrimSuffix(shape, ", ")
	}
	header := fmt.Sprintf("{'descr': '%s%s', 'fortran_order': False, 'shape': (%s), }", order, name, strings.TrimSuffix(shape, " "))
	// The elements start at a multiple of 64 bytes, after the header's newline.
	before := len(npyMagic) + 4
	padding := (64 - (before+len(header)+1)%64) % 64
	header += strings.Repeat(" ", padding) + "\n"
	if len(header) > 1<<16-1 {
		return fmt.Errorf("shape %s does not fit in a NumPy header", FormatShape(t.Shape))
	}
	prefix := append([]byte(npyMagic), 1, 0)
	prefix = binary.LittleEndian.AppendUint16(prefix, uint16(len(header)))
	for _, part := range [][]byte{prefix, []byte(header), t.Data} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}
