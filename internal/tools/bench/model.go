package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/fmoe-go/fmoe/internal/benchmodel"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/dataset"
)

// model is a file that is made when a contest needs it.
type model struct {
	name string
	make func() *onnx.Model // a new model, or
	from *model             // one that fmoefy makes of another
	args []string           // with these arguments before and after the file's name
}

// rewritten is a model that fmoefy makes of another; arguments[0] may be a
// subcommand.
func rewritten(name string, from *model, arguments ...string) *model {
	return &model{name: name, from: from, args: arguments}
}

func product(k, n int) *model {
	return &model{name: fmt.Sprintf("product-%dx%d", k, n), make: func() *onnx.Model { return benchmodel.Product(k, n) }}
}

func mixture(x benchmodel.Mixture) *model {
	name := fmt.Sprintf("fmoe-%d-experts-top-%d-%dx%d", x.Experts, x.TopK, x.Model, x.Hidden)
	if x.Favoured > 0 {
		name += "-skewed"
	}
	return &model{name: name, make: x.Layer}
}

// forONNXRuntime is a model whose FMoE nodes are com.microsoft::MoE.
func forONNXRuntime(m *model) *model {
	return rewritten(m.name+"-onnxruntime", m, "export", "--target", "onnxruntime")
}

// file makes the model where there is none and returns its path.
func (s *suite) file(m *model) (string, error) {
	path := filepath.Join(s.models(), m.name+".onnx")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	// A name of its own until it is complete, and its data's.
	made := filepath.Join(s.models(), "incomplete", m.name+".onnx")
	if err := os.MkdirAll(filepath.Dir(made), 0o777); err != nil {
		return "", err
	}
	fmt.Printf("making %s\n", path)
	if err := s.makeFile(m, made); err != nil {
		return "", err
	}
	if err := os.Rename(made+".data", path+".data"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return path, os.Rename(made, path)
}

func (s *suite) makeFile(m *model, path string) error {
	if m.from == nil {
		return onnx.WriteFile(path, m.make(), onnx.WriteOptions{})
	}
	from, err := s.file(m.from)
	if err != nil {
		return err
	}
	args := append(append([]string{}, m.args...), from, "-o", path)
	c := exec.Command(filepath.Join(s.bin, "fmoefy"), args...)
	c.Stderr = os.Stderr
	return c.Run()
}

// inputs makes random inputs for a model in a directory, and returns that.
func (s *suite) inputs(contest string, path string, dims map[string]int) (string, error) {
	dir := filepath.Join(s.dir, "inputs", contest)
	m, err := onnx.ReadFile(path)
	if err != nil {
		return "", err
	}
	defer m.Close()
	tensors, err := dataset.Random(m, m.Graph.Inputs, dims, 1)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	for i, v := range m.Graph.Inputs {
		if err := dataset.WriteTensor(filepath.Join(dir, fmt.Sprintf("input_%d.%s", i, dataset.PB)), v.Name, tensors[v.Name]); err != nil {
			return "", err
		}
	}
	return dir, nil
}
