package safetensors

import (
	"fmt"
	"io"
	"os"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Named is a tensor with the name that a file has for it.
type Named struct {
	Name string
	*tensor.Tensor
	// Part says of which larger tensor this is a part; nil where it is whole.
	Part *Part
}

// Write writes a file of the tensors, straight from their memory, and returns
// where in it they are. It fails before the first byte where a tensor's type
// is not one of the format's or a name comes twice.
func Write(w io.Writer, tensors []Named, metadata map[string]string) ([]Entry, error) {
	for _, t := range tensors {
		if err := check(t); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	head, order, entries, err := layout(tensors, metadata)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	for _, i := range order {
		if _, err := w.Write(tensors[i].Data); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// Layout returns the bytes with which a file of the tensors begins, and where
// in it their elements are, which need not be in memory. It fails as [Write]
// does.
func Layout(tensors []Named, metadata map[string]string) (head []byte, entries []Entry, err error) {
	head, _, entries, err = layout(tensors, metadata)
	return head, entries, err
}

// File is a file that is open for reading.
type File struct {
	mapped   *memory.File
	entries  []Entry
	byName   map[string]int
	metadata map[string]string
}

// Open maps a file into memory and reads its header. Errors name the file.
func Open(path string) (*File, error) {
	mapped, err := memory.MapFile(path, os.Stat, os.Open)
	if err != nil {
		return nil, err
	}
	entries, metadata, err := parse(mapped.Bytes)
	if err != nil {
		mapped.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f := &File{mapped, entries, make(map[string]int, len(entries)), metadata}
	for i, e := range entries {
		f.byName[e.Name] = i
	}
	return f, nil
}

// Entries returns where the tensors are, in the order of their elements.
func (f *File) Entries() []Entry { return f.entries }

// Metadata returns the strings that the file holds beside its tensors.
func (f *File) Metadata() map[string]string { return f.metadata }

// Tensor returns the tensor of that name, or nil where there is none. It
// aliases the file: it is not to be written to, nor used after Close.
func (f *File) Tensor(name string) (*tensor.Tensor, error) {
	i, ok := f.byName[name]
	if !ok {
		return nil, nil
	}
	e := f.entries[i]
	dims := make([]int64, len(e.Shape))
	for i, d := range e.Shape {
		dims[i] = int64(d)
	}
	return tensor.FromONNX(onnx.NewTensor(name, e.Type, dims, f.mapped.Bytes[e.Offset:e.Offset+e.Size]))
}

// Close releases the file.
func (f *File) Close() error { return f.mapped.Close() }
