// Package devicetest is the conformance suite that every device runs.
package devicetest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Case is one of ONNX's test cases: a model and data sets for it.
type Case struct {
	Name      string
	Model     []byte
	Data      []DataSet
	Tolerance Tolerance
}

// DataSet is one set of inputs and the outputs that they must give, each an
// encoded TensorProto in the order of the graph's inputs and outputs.
type DataSet struct {
	Name            string
	Inputs, Outputs [][]byte
}

// ErrNoCases says that the cases are not on this machine.
var ErrNoCases = errors.New("ONNX's test cases are not here: set FMOE_ONNX_TESTS to their directory (Debian's package libonnx-testdata has some)")

// LoadONNXCases reads ONNX's operator cases, ordered by name, from the
// directory that FMOE_ONNX_TESTS names or from the shared archive.
var LoadONNXCases = sync.OnceValues(func() ([]Case, error) {
	if dir := os.Getenv("FMOE_ONNX_TESTS"); dir != "" {
		return ReadCases(os.DirFS(dir))
	}
	root, err := repositoryRoot()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(filepath.Join(root, "..", "shared", "onnx-node-tests.tar.xz"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoCases
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readArchive(file)
})

// ONNXCases returns ONNX's operator cases, ordered by name. The test is
// skipped where they are not on this machine.
func ONNXCases(t testing.TB) []Case {
	t.Helper()
	cases, err := LoadONNXCases()
	if errors.Is(err, ErrNoCases) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// repositoryRoot finds the directory of go.mod above the working directory.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if parent := filepath.Dir(dir); parent != dir {
			dir = parent
			continue
		}
		return "", errors.New("no go.mod above the working directory")
	}
}

func readArchive(r io.Reader) ([]Case, error) {
	packed, err := xz.NewReader(r)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(packed); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return assemble(files)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if files[path.Clean(h.Name)], err = io.ReadAll(archive); err != nil {
				return nil, err
			}
		}
	}
}

// assemble builds cases from files named [dir/]case/model.onnx and
// [dir/]case/test_data_set_N/{input,output}_J.pb.
func assemble(files map[string][]byte) ([]Case, error) {
	var cases []Case
	for name, model := range files {
		if path.Base(name) != "model.onnx" {
			continue
		}
		dir := path.Dir(name)
		c := Case{Name: path.Base(dir), Model: model, Tolerance: ONNXTolerance}
		for n := 0; ; n++ {
			set := DataSet{Name: fmt.Sprintf("test_data_set_%d", n)}
			numbered := func(kind string) (list [][]byte) {
				for j := 0; ; j++ {
					b, ok := files[path.Join(dir, set.Name, fmt.Sprintf("%s_%d.pb", kind, j))]
					if !ok {
						return list
					}
					list = append(list, b)
				}
			}
			set.Inputs, set.Outputs = numbered("input"), numbered("output")
			if len(set.Inputs)+len(set.Outputs) == 0 {
				break
			}
			c.Data = append(c.Data, set)
		}
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return cases, nil
}

// decode reads one encoded TensorProto.
func decode(b []byte) (*tensor.Tensor, error) {
	t, err := onnx.DecodeTensor(b)
	if err != nil {
		return nil, err
	}
	return tensor.FromONNX(t)
}
