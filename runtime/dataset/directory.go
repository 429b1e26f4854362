package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// ReadInputs reads input_0.pb, input_1.pb, … of a directory in the layout of
// ONNX's test data: the values of a model's inputs, by name. A file belongs to
// the input that it names, or to that of its number where it names none.
func ReadInputs(dir string, inputs []*onnx.ValueInfo) (map[string]*tensor.Tensor, error) {
	return readNumbered(dir, "input", inputs)
}

// ReadOutputs is ReadInputs for output_0.pb, output_1.pb, …
func ReadOutputs(dir string, outputs []*onnx.ValueInfo) (map[string]*tensor.Tensor, error) {
	return readNumbered(dir, "output", outputs)
}

func readNumbered(dir, kind string, values []*onnx.ValueInfo) (map[string]*tensor.Tensor, error) {
	known := map[string]bool{}
	for _, v := range values {
		known[v.Name] = true
	}
	tensors := map[string]*tensor.Tensor{}
	for i := 0; ; i++ {
		path := filepath.Join(dir, fmt.Sprintf("%s_%d.%s", kind, i, PB))
		name, t, err := ReadTensor(path)
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 && len(values) > 0 {
				return nil, fmt.Errorf("there is no %s; the directory must hold ONNX test data", path)
			}
			return tensors, nil
		}
		if err != nil {
			return nil, err
		}
		if !known[name] {
			if i >= len(values) {
				return nil, fmt.Errorf("%s: the model has no %s number %d", path, kind, i)
			}
			name = values[i].Name
		}
		if tensors[name] != nil {
			return nil, fmt.Errorf("%s: there are two files for the %s %q", path, kind, name)
		}
		tensors[name] = t
	}
}

// fileNames are the names of values that can name files.
var fileNames = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}$`)

// WriteOutputs writes a model's outputs to a directory, which it makes where
// there is none: output_0.pb, output_1.pb, … in the layout of ONNX's test
// data, or NumPy files named after the outputs. It returns the paths in the
// order of outputs.
func WriteOutputs(dir, format string, outputs []*onnx.ValueInfo, tensors map[string]*tensor.Tensor) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	paths := make([]string, len(outputs))
	for i, v := range outputs {
		base := fmt.Sprintf("output_%d", i)
		if format == NPY && fileNames.MatchString(v.Name) {
			base = v.Name
		}
		paths[i] = filepath.Join(dir, base+"."+format)
		if err := WriteTensor(paths[i], v.Name, tensors[v.Name]); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
