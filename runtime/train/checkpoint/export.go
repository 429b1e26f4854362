package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fmoe-go/fmoe/onnx"
)

// Export writes the model of a checkpoint, or of the newest one in a run
// directory, to an ONNX file of its own: the graph that training began with,
// with the weights that it came to. See [onnx.WriteFile] for where weights go,
// and for what is left after an error. The state of the optimizer is not
// needed: it may be damaged, or not be there.
func Export(path, out string, o onnx.WriteOptions) (err error) {
	if path, err = locate(path); err != nil {
		return err
	}
	if inside(path, out) {
		return fmt.Errorf("%s would be a part of the checkpoint %s, and damage it: choose a file elsewhere", out, path)
	}
	list, err := readManifest(path)
	if err == nil {
		err = verify(path, append([]fileEntry{list.Model}, list.Weights...))
	}
	if err != nil {
		return err
	}
	m, err := onnx.ReadFile(filepath.Join(path, list.Model.Name))
	if err != nil {
		return &DamageError{path, list.Model.Name, err}
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return onnx.WriteFile(out, m, o)
}

// inside reports whether a file lies, or would lie, in a directory.
func inside(dir, file string) bool {
	a, err := os.Stat(dir)
	if err != nil {
		return false
	}
	b, err := os.Stat(filepath.Dir(file))
	return err == nil && os.SameFile(a, b)
}
