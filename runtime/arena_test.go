package runtime_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Sharing memory changes nothing: a random graph gives the same bits whether
// only its last value is wanted, so that all others share the arena, or every
// value is, so that none may be overwritten.
func TestArenaKeepsValuesApart(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(2, seed))
		build := func(keepAll bool) *onnx.Model {
			r := rand.New(rand.NewPCG(3, seed))
			values := []string{"x"}
			var nodes []*onnx.Node
			pick := func() string { return values[max(0, len(values)-1-r.IntN(min(len(values), 6)))] }
			for i := range 40 {
				name := fmt.Sprintf("v%d", i)
				switch r.IntN(5) {
				case 0:
					nodes = append(nodes, node(t, name+" = Tanh("+pick()+")"))
				case 1:
					nodes = append(nodes, node(t, name+" = Add("+pick()+", "+pick()+")"))
				case 2:
					nodes = append(nodes, node(t, name+" = Mul("+pick()+", "+pick()+")"))
				case 3:
					nodes = append(nodes, node(t, name+" = Reshape("+pick()+", shape)"))
				case 4:
					nodes = append(nodes, node(t, name+" = Transpose("+pick()+")"))
				}
				values = append(values, name)
			}
			outputs := []string{values[len(values)-1] + " float32[a,b]"}
			if keepAll {
				for _, v := range values[1 : len(values)-1] {
					outputs = append(outputs, v+" float32[a,b]")
				}
			}
			return model(t, []string{"x float32[n,n]"}, outputs,
				map[string]*tensor.Tensor{"shape": tensor.FromSlice([]int64{0, -1})}, nodes...)
		}
		x := tensor.New(onnx.Float32, 5, 5)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(r.NormFloat64())
		}
		in := map[string]*tensor.Tensor{"x": x}
		shared, err := open(t, build(false)).Run(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		apart, err := open(t, build(true)).Run(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		d, err := tensor.Compare(shared["v39"], apart["v39"], 0, 0)
		if err != nil || d.Failures > 0 {
			t.Fatalf("seed %d: %+v %v", seed, d, err)
		}
	}
}

// Arenas are nearly as small as the values that are in use at a time.
func TestArenaIsSmall(t *testing.T) {
	models, err := filepath.Glob("../models/zoo/*/model.onnx")
	if err != nil || len(models) == 0 {
		t.Fatalf("no models: %v", err)
	}
	total, planned := 0.0, 0
	for _, path := range models {
		m, err := onnx.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		s := open(t, m)
		named, err := dataset.Random(m, s.Inputs(), nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		var inputs []*tensor.Tensor
		for _, v := range s.Inputs() {
			inputs = append(inputs, named[v.Name])
		}
		size, bound, err := s.Arena(inputs)
		if err != nil {
			continue // the inputs' shapes do not fit one another
		}
		planned++
		waste := float64(size-bound) / float64(max(bound, 1))
		if waste > 0.2 {
			t.Errorf("%s: an arena of %d bytes, of which %d are in use at a time", path, size, bound)
		}
		total += waste
	}
	if planned < len(models)*9/10 {
		t.Errorf("%d of %d models could be planned", planned, len(models))
	}
	if mean := total / float64(planned); mean > 0.03 {
		t.Errorf("arenas are larger than what is in use at a time by %.1f %% in the mean", 100*mean)
	}
}
