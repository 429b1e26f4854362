package checkpoint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// large is 96 MiB of a model and its optimizer.
func large() Snapshot {
	w := tensor.New(onnx.Float32, 2048, 4096)
	for i := range w.Data {
		w.Data[i] = byte(i * 7)
	}
	s := Snapshot{Model: &onnx.Model{IRVersion: 8, OpsetImports: []onnx.OpsetImport{{Version: 17}}, Graph: &onnx.Graph{Name: "g", Initializers: []*onnx.Tensor{w.ToONNX("w")}}}}
	s.Weights = []Named{{Name: "w", Tensor: w}}
	s.Optimizer = []Named{{Name: "m", Tensor: w}, {Name: "v", Tensor: w}}
	return s
}

func BenchmarkSave(b *testing.B) {
	s := large()
	b.SetBytes(3 * int64(len(s.Weights[0].Data)))
	run := must(OpenRun(b.TempDir(), Options{Keep: 1}))
	defer run.Close()
	for b.Loop() {
		s.Step++
		if _, err := run.Save(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s, dir := large(), b.TempDir()
	b.SetBytes(3 * int64(len(s.Weights[0].Data)))
	must(Save(dir, s, Options{}))
	for b.Loop() {
		must(Open(dir)).Close()
	}
}

// BenchmarkWriteFiles is what the disk takes for the same bytes.
func BenchmarkWriteFiles(b *testing.B) {
	data, dir := large().Weights[0].Data, b.TempDir()
	b.SetBytes(3 * int64(len(data)))
	for b.Loop() {
		f := must(os.Create(filepath.Join(dir, "file")))
		for range 3 {
			must(f.Write(data))
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
