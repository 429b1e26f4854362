package routing_test

import (
	"errors"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/routing"
)

// FuzzWatch prepares any model that decodes for being watched: it is refused,
// or its copy is a valid model that the runtime can take or refuse.
func FuzzWatch(f *testing.F) {
	for _, c := range nestedModels {
		m := newModel("x")
		c.build(m)
		data, err := onnx.Encode(&m.Model)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := onnx.Decode(data)
		if err != nil {
			return
		}
		w, err := routing.New(m, routing.Options{Training: true, Seed: 1})
		if err != nil {
			return
		}
		if err := onnx.Check(w.Model); err != nil {
			t.Fatalf("the copy is not valid: %v", err)
		}
		s, err := runtime.New(w.Model, runtime.Options{Threads: 1, MaxMemory: 16 << 20})
		if err != nil {
			if errors.Is(err, runtime.ErrInternal) {
				t.Fatal(err)
			}
			return
		}
		s.Close()
	})
}
