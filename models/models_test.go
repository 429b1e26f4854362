// Package models holds the sample models; see README.md.
package models_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
	"github.com/fmoe-go/fmoe/runtime/tensor"
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

// A run in steady state allocates its outputs and the map that holds them,
// and nothing for its hundreds of nodes.
func TestRunsDoNotAllocateByNode(t *testing.T) {
	s, err := runtime.Open("gpt-megatron/model.onnx", runtime.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	inputs := map[string]*tensor.Tensor{"input_ids": tensor.New(onnx.Int64, 1, 16)}
	allocations := testing.AllocsPerRun(5, func() {
		if _, err := s.Run(context.Background(), inputs); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 12 {
		t.Errorf("%v allocations a run, want at most 12", allocations)
	}
}
