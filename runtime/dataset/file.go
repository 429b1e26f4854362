// Package dataset reads and writes the tensors that models run on: files in
// NumPy's and ONNX's formats, directories in the layout of ONNX's test data,
// and random inputs.
package dataset

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/fmoe-go/fmoe/internal/files"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The formats of tensor files, by the extension of the file's name.
const (
	NPY = "npy" // NumPy: no name, no strings and no types that NumPy has not
	PB  = "pb"  // ONNX: an encoded TensorProto
)

// ReadTensor reads a .npy or .pb file, whichever its extension says. The name
// is that in the file, "" where the format has none.
func ReadTensor(path string) (name string, t *tensor.Tensor, err error) {
	switch extension(path) {
	case NPY:
		t, err = readNPY(path)
	case PB:
		name, t, err = readPB(path)
	default:
		return "", nil, fmt.Errorf("%s: a tensor file must be named .npy or .pb", path)
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return name, t, nil
}

func extension(path string) string {
	if e := filepath.Ext(path); e != "" {
		return e[1:]
	}
	return ""
}

func readNPY(path string) (*tensor.Tensor, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return tensor.ReadNPY(bufio.NewReader(f))
}

func readPB(path string) (string, *tensor.Tensor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	encoded, err := onnx.DecodeTensor(data)
	if err != nil {
		return "", nil, err
	}
	t, err := tensor.FromONNX(encoded)
	return encoded.Name, t, err
}

// WriteTensor writes a .npy or .pb file, whichever its extension says. What
// was at path is replaced when the new file is complete, and not at all after
// an error.
func WriteTensor(path, name string, t *tensor.Tensor) error {
	var fill func(io.Writer) error
	switch extension(path) {
	case NPY:
		fill = func(w io.Writer) error { return tensor.WriteNPY(w, t) }
	case PB:
		fill = func(w io.Writer) error {
			data, err := onnx.EncodeTensor(t.ToONNX(name))
			if err == nil {
				_, err = w.Write(data)
			}
			return err
		}
	default:
		return fmt.Errorf("%s: a tensor file must be named .npy or .pb", path)
	}
	if err := files.Replace(path, fill); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
