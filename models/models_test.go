// Package models holds the sample models; see README.md.
package models_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
)

// The samples give the outputs that ONNX Runtime computed for them.
func TestSamplesEqualONNXRuntime(t *testing.T) {
	dirs, err := filepath.Glob("*/model.onnx")
	if err != nil || len(dirs) < 5 {
		t.Fatalf("%d samples found: %v", len(dirs), err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(dir, func(t *testing.T) {
			cases, err := devicetest.ReadCases(os.DirFS(dir))
			if err != nil || len(cases) != 1 {
				t.Fatalf("%d cases read: %v", len(cases), err)
			}
			if len(cases[0].Data) < 2 {
				t.Fatalf("%d data sets, want at least 2", len(cases[0].Data))
			}
			cases[0].Tolerance = devicetest.Tolerance{Relative: 1e-3, Absolute: 1e-5}
			if _, err := devicetest.Run(cases[0], runtime.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
}
