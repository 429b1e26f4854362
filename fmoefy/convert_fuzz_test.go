package fmoefy_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// FuzzConvert gives Import and Export any model that decodes: one that the
// checker accepts is converted into one that it accepts too, or refused with
// an error that is not fmoefy's own, and nothing panics.
func FuzzConvert(f *testing.F) {
	add := func(m *onnx.Model) {
		data, err := onnx.Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		for target := range fmoefy.Targets {
			f.Add(data, uint8(target))
		}
	}
	for _, x := range []mixture{{activation: moe.SiLU, gated: true, biases: true}, {activation: moe.GELUTanh}, {activation: moe.ReLU, biases: true, overAll: true}} {
		for _, target := range fmoefy.Targets {
			m := x.build()
			if _, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: target}); err != nil {
				f.Fatal(err)
			}
			add(m)
		}
	}
	files, _ := filepath.Glob("testdata/mixtures/*/model.onnx")
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, uint8(0))
	}
	options := fmoefy.ImportOptions{Run: func(m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
		s, err := runtime.New(m, runtime.Options{Threads: 1, MaxMemory: 1 << 28})
		if err != nil {
			return nil, err
		}
		defer s.Close()
		return s.Run(context.Background(), inputs)
	}}
	f.Fuzz(func(t *testing.T, data []byte, target uint8) {
		m, err := onnx.Decode(data)
		if err != nil {
			return
		}
		accepted := onnx.Check(m) == nil
		converted := func(err error) {
			if err != nil && strings.Contains(err.Error(), "error in fmoefy") {
				t.Fatal(err)
			}
			if err == nil && !accepted {
				t.Fatal("a model that the checker refuses was converted")
			}
			if err := onnx.Check(m); err != nil && accepted {
				t.Fatalf("the converted model: %v", err)
			}
		}
		_, err = fmoefy.Import(m, options)
		converted(err)
		_, err = fmoefy.Export(m, fmoefy.ExportOptions{Target: fmoefy.Targets[int(target)%len(fmoefy.Targets)]})
		converted(err)
		if initializerBytes(m) < 1<<24 {
			_, _ = onnx.Encode(m)
		}
	})
}
