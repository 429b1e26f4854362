// Package safetensors reads and writes safetensors files: named tensors behind
// a header of JSON. The format is the one of Hugging Face's library of that
// name (github.com/huggingface/safetensors).
//
//	8 bytes   the header's length, an unsigned little-endian number
//	header    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …},
//	          spaces behind it, and strings under "__metadata__"
//	elements  little-endian, row-major, without gaps
package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Entry says where in a file a tensor is.
type Entry struct {
	Name   string
	Type   onnx.DataType
	Shape  []int
	Offset int64 // of its first byte from the start of the file
	Size   int64 // in bytes
}

const (
	prefixBytes = 8
	// maxHeader is the limit of the format's own library.
	maxHeader   = 100_000_000
	metadataKey = "__metadata__"
)

// types are the element types of both safetensors and ONNX. Those of 4 and 6
// bits are left out: libraries do not agree on how they are packed.
var types = map[string]onnx.DataType{
	"BOOL": onnx.Bool, "U8": onnx.Uint8, "I8": onnx.Int8, "U16": onnx.Uint16, "I16": onnx.Int16,
	"U32": onnx.Uint32, "I32": onnx.Int32, "U64": onnx.Uint64, "I64": onnx.Int64,
	"F16": onnx.Float16, "BF16": onnx.BFloat16, "F32": onnx.Float32, "F64": onnx.Float64, "C64": onnx.Complex64,
	"F8_E4M3": onnx.Float8E4M3FN, "F8_E4M3FNUZ": onnx.Float8E4M3FNUZ,
	"F8_E5M2": onnx.Float8E5M2, "F8_E5M2FNUZ": onnx.Float8E5M2FNUZ, "F8_E8M0": onnx.Float8E8M0,
}

var typeNames = func() map[onnx.DataType]string {
	names := make(map[onnx.DataType]string)
	for name, t := range types {
		names[t] = name
	}
	return names
}()

// Supports reports whether the format has elements of type t.
func Supports(t onnx.DataType) bool { return typeNames[t] != "" }

// info is a tensor in a header.
type info struct {
	Type    string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// layout returns the file's bytes before the elements, and where the tensors
// are, which lie in the order of entries: the widest elements first, so that
// all are aligned, and otherwise as they are given.
func layout(tensors []Named, metadata map[string]string) (head []byte, order []int, entries []Entry, err error) {
	order = make([]int, len(tensors))
	seen := make(map[string]bool)
	for i, t := range tensors {
		order[i] = i
		if err := checkType(t); err != nil {
			return nil, nil, nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if seen[t.Name] {
			return nil, nil, nil, fmt.Errorf("there are two tensors %q", t.Name)
		}
		seen[t.Name] = true
	}
	slices.SortStableFunc(order, func(a, b int) int { return tensors[b].Type.Bits() - tensors[a].Type.Bits() })

	header := bytes.NewBufferString("{")
	put := func(name string, value any) error {
		if header.Len() > 1 {
			header.WriteByte(',')
		}
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		text, err := json.Marshal(value)
		header.Write(key)
		header.WriteByte(':')
		header.Write(text)
		return err
	}
	if len(metadata) > 0 {
		err = put(metadataKey, metadata)
	}
	end := int64(0)
	for _, i := range order {
		t := tensors[i]
		e := Entry{t.Name, t.Type, append([]int{}, t.Shape...), end, int64(tensor.ByteSize(t.Type, t.Len()))}
		end += e.Size
		entries = append(entries, e)
		err = errors.Join(err, put(t.Name, info{typeNames[t.Type], e.Shape, [2]int64{e.Offset, end}}))
	}
	header.WriteByte('}')
	for header.Len()%8 != 0 {
		header.WriteByte(' ')
	}
	if err == nil && header.Len() > maxHeader {
		err = fmt.Errorf("the header of %d tensors takes %d bytes, the format allows %d: write several files", len(tensors), header.Len(), maxHeader)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	for i := range entries {
		entries[i].Offset += prefixBytes + int64(header.Len())
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(header.Len())), header.Bytes()...), order, entries, nil
}

// check reports where a tensor cannot be written.
func check(t Named) error {
	if err := checkType(t); err != nil {
		return err
	}
	if n := tensor.ByteSize(t.Type, t.Len()); n != len(t.Data) {
		return fmt.Errorf("%s takes %d bytes, it has %d", t.Tensor, n, len(t.Data))
	}
	return nil
}

// checkType reports where the format has no tensor of the name, type and shape.
func checkType(t Named) error {
	switch {
	case t.Tensor == nil:
		return errors.New("it has no value")
	case t.Name == metadataKey || !utf8.ValidString(t.Name):
		return errors.New("the format does not allow this name")
	case !Supports(t.Type):
		return fmt.Errorf("the format has no elements of type %s", t.Type)
	}
	_, err := tensor.CheckedCount(t.Type, t.Shape)
	return err
}

// parse reads the header of a file of the given bytes. Entries are in the
// order of their elements, which they cover without gaps.
func parse(file []byte) ([]Entry, map[string]string, error) {
	if len(file) < prefixBytes {
		return nil, nil, fmt.Errorf("it has %d bytes, fewer than a header's length takes", len(file))
	}
	length := binary.LittleEndian.Uint64(file)
	if have := uint64(len(file) - prefixBytes); length > have {
		return nil, nil, fmt.Errorf("its header would have %d bytes, %d are left: it is cut short, or no safetensors file", length, have)
	}
	if length > maxHeader {
		return nil, nil, fmt.Errorf("its header has %d bytes, more than the %d that the format allows", length, maxHeader)
	}
	header, elements := file[prefixBytes:prefixBytes+length], file[prefixBytes+length:]
	if !utf8.Valid(header) {
		return nil, nil, errors.New("its header is not UTF-8")
	}
	entries, metadata, err := parseHeader(header)
	if err != nil {
		return nil, nil, err
	}
	slices.SortStableFunc(entries, func(a, b Entry) int {
		if a.Offset == b.Offset {
			return int(min(max(a.Size-b.Size, -1), 1)) // those of no elements come first
		}
		return int(min(max(a.Offset-b.Offset, -1), 1))
	})
	end := int64(0)
	for i := range entries {
		e := &entries[i]
		if e.Offset != end {
			return nil, nil, fmt.Errorf("tensor %q begins at byte %d of the elements, where the one before it ends at %d", e.Name, e.Offset, end)
		}
		if e.Size > int64(len(elements))-end {
			return nil, nil, fmt.Errorf("tensor %q ends at byte %d of the elements, of which there are %d: the file is cut short", e.Name, end+e.Size, len(elements))
		}
		end += e.Size
		e.Offset += prefixBytes + int64(length)
	}
	if end != int64(len(elements)) {
		return nil, nil, fmt.Errorf("%d bytes follow the last tensor", int64(len(elements))-end)
	}
	return entries, metadata, nil
}

// parseHeader returns the tensors of a header in its order, with offsets from
// the first element. It goes through the tokens of the JSON, as names that
// come twice would otherwise pass unseen.
func parseHeader(header []byte) (entries []Entry, metadata map[string]string, err error) {
	d := json.NewDecoder(bytes.NewReader(header))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, nil, errors.New("its header is not a JSON object: it is no safetensors file")
	}
	seen := make(map[string]bool)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, nil, fmt.Errorf("its header is damaged: %w", err)
		}
		name, ok := key.(string)
		if !ok {
			return nil, nil, errors.New("its header is damaged: a name is missing")
		}
		if seen[name] {
			return nil, nil, fmt.Errorf("its header has two tensors %q", name)
		}
		seen[name] = true
		if name == metadataKey {
			if err := d.Decode(&metadata); err != nil {
				return nil, nil, fmt.Errorf("the metadata in its header are not strings: %w", err)
			}
			continue
		}
		var read struct {
			info
			Offsets []int64 `json:"data_offsets"`
		}
		if err := d.Decode(&read); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: its entry in the header is damaged: %w", name, err)
		}
		if len(read.Offsets) != 2 || read.Shape == nil {
			return nil, nil, fmt.Errorf("tensor %q: its entry in the header needs dtype, shape and two data_offsets", name)
		}
		read.info.Offsets = [2]int64(read.Offsets)
		e, err := read.entry(name)
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		entries = append(entries, e)
	}
	if _, err := d.Token(); err != nil {
		return nil, nil, fmt.Errorf("its header is damaged: %w", err)
	}
	if rest := bytes.TrimLeft(header[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, nil, fmt.Errorf("its header goes on behind its JSON, with %.20q", rest)
	}
	return entries, metadata, nil
}

// entry checks what a header says of a tensor.
func (i *info) entry(name string) (Entry, error) {
	t, ok := types[i.Type]
	if !ok {
		return Entry{}, fmt.Errorf("elements of type %q are not supported", i.Type)
	}
	n, err := tensor.CheckedCount(t, i.Shape)
	if err != nil {
		return Entry{}, err
	}
	begin, end := i.Offsets[0], i.Offsets[1]
	if begin < 0 || end < begin {
		return Entry{}, fmt.Errorf("its elements cannot be from byte %d to byte %d", begin, end)
	}
	if size := int64(tensor.ByteSize(t, n)); end-begin != size {
		return Entry{}, fmt.Errorf("it has %d bytes, its type %s and shape %s take %d", end-begin, t, tensor.FormatShape(i.Shape), size)
	}
	return Entry{name, t, i.Shape, begin, end - begin}, nil
}
