package checkpoint

import (
	"errors"
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
