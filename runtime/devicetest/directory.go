package devicetest

import (
	"io/fs"
	"path"
)

// ReadCases reads cases from a directory in ONNX's layout:
// case/model.onnx beside case/test_data_set_N/{input,output}_J.pb.
func ReadCases(dir fs.FS) ([]Case, error) {
	files := map[string][]byte{}
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ext := path.Ext(name); ext != ".onnx" && ext != ".pb" {
			return nil
		}
		files[name], err = fs.ReadFile(dir, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return assemble(files)
}
