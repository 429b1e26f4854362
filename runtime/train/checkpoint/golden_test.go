package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

var update = flag.Bool("update", false, "write testdata/golden again; only a new format version may need that")

const golden = "testdata/golden"

// The golden checkpoint was written by the first version of the format. Every
// later one must load it: should this test fail, the code is wrong, not the
// checkpoint.
func TestGolden(t *testing.T) {
	if *update {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		save(t, golden, Options{ShardBytes: 4000}, 42)
		if err := os.Remove(filepath.Join(golden, lockName)); err != nil {
			t.Fatal(err)
		}
		if err := Export(golden, "testdata/exported.onnx", onnx.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := checkSample(c); err != nil {
		t.Error(err)
	}
	if c.Step() != 42 || c.Path() != filepath.Join(golden, "step-00000042") {
		t.Errorf("step %d in %s", c.Step(), c.Path())
	}
}

// ONNX Runtime runs the golden checkpoint's own model and the file that is
// exported from it; testdata/reference.py says how. This runtime computes the
// same from both.
func TestExportAgainstONNXRuntime(t *testing.T) {
	var want struct {
		X, Y  []float32
		Shape []int
	}
	if err := json.Unmarshal(must(os.ReadFile("testdata/reference.json")), &want); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.onnx")
	if err := Export(golden, out, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(must(os.ReadFile(out)), must(os.ReadFile("testdata/exported.onnx"))) {
		t.Error("the exported file is not the one that ONNX Runtime ran")
	}
	for _, path := range []string{out, filepath.Join(golden, "step-00000042", modelName)} {
		m, err := onnx.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		s, err := runtime.New(m, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		outputs, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x": tensor.FromSlice(want.X, want.Shape...)})
		if err != nil {
			t.Fatal(err)
		}
		if d, err := tensor.Compare(outputs["y"], tensor.FromSlice(want.Y, want.Shape...), 1e-5, 1e-5); err != nil || d.Failures > 0 {
			t.Errorf("%s: %+v, %v", path, d, err)
		}
	}
}

// The manifest is small and legible, and says all of it.
func TestGoldenManifest(t *testing.T) {
	m := must(readManifest(filepath.Join(golden, "step-00000042")))
	var files []string
	for _, f := range m.files() {
		files = append(files, f.Name)
	}
	slices.Sort(files)
	if want := append(names(t, filepath.Join(golden, "step-00000042"))[1:], "")[:len(files)]; !reflect.DeepEqual(files, want) {
		t.Errorf("it lists %q, there are %q", files, want)
	}
}
