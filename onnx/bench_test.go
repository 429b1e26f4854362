package onnx

import (
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkReadFile opens a model of 256 MB in 24 tensors, all in one file and
// with external data.
func BenchmarkReadFile(b *testing.B) {
	const tensors, size = 24, 256 << 20 / 24
	m := smallModel()
	for i := range tensors {
		w := NewTensor(fmt.Sprint("layer", i), Uint8, []int64{size}, nil)
		w.SetSource(zeros{size, size})
		m.Graph.Initializers = append(m.Graph.Initializers, w)
	}
	for name, mode := range map[string]ExternalMode{"one file": ExternalNever, "external data": ExternalAlways} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "model.onnx")
			if err := WriteFile(path, m, WriteOptions{External: mode}); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				m, err := ReadFile(path)
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
