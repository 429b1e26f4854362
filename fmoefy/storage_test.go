package fmoefy_test

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// gated is a layer of gated experts with biases.
func gated(b *builder) *onnx.Model {
	x := b.tokens()
	gate := b.linear(x, dModel, dHidden)
	hidden := b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), b.linear(x, dModel, dHidden))
	b.output(b.op("Add", x, b.linear(hidden, dHidden, dModel)))
	return b.model
}

// TestStorage: however experts are stored, the function body computes what the
// kernel does, in every era's operators; copies stay near the dense model.
func TestStorage(t *testing.T) {
	for _, s := range []struct {
		storage fmoefy.Storage
		nearly  float64 // to the dense model
	}{{"int8", 0.02}, {"int4", 0.3}, {"bf16", 0.02}, {"f16", 2e-3}, {"float32", 1e-6}} {
		for _, opset := range []int64{11, 13, 18} {
			for _, init := range []fmoefy.Init{fmoefy.Copy, fmoefy.Noise, fmoefy.Random} {
				for name, build := range map[string]func(*builder) *onnx.Model{"plain": func(b *builder) *onnx.Model { return layers(b, 2) }, "gated": gated} {
					t.Run(fmt.Sprintf("%s/opset %d/%s/%s", s.storage, opset, init, name), func(t *testing.T) {
						dense := build(newBuilder(opset))
						m, report := rewrite(t, dense, fmoefy.Options{NumExperts: 3, Init: init, GateStd: 1, ExpertWeights: s.storage})
						compare(t, decomposed(m), m, 1e-5)
						if init != fmoefy.Copy {
							return
						}
						if d := distance(t, m, dense); d > s.nearly {
							t.Errorf("results differ from the dense model's by %g", d)
						}
						if exact := s.storage == "float32"; report.Equal != exact || report.Approximate == exact || report.WeightError > s.nearly || (report.WeightError == 0) != exact {
							t.Errorf("reported as equal: %v, approximate: %v, by %g", report.Equal, report.Approximate, report.WeightError)
						}
					})
				}
			}
		}
	}
}

// distance returns the root of the mean square of the differences between
// outputs, over that of the wanted ones.
func distance(t *testing.T, got, want *onnx.Model) float64 {
	a, b := run(t, got), run(t, want)
	differences, squares := 0.0, 0.0
	for name := range b {
		x, err1 := tensor.Float64s(a[name])
		y, err2 := tensor.Float64s(b[name])
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		for i := range y {
			differences += (x[i] - y[i]) * (x[i] - y[i])
			squares += y[i] * y[i]
		}
	}
	return math.Sqrt(differences / squares)
}

// TestStorageOfHalfModels: experts of half-precision models may be quantised
// too.
func TestStorageOfHalfModels(t *testing.T) {
	for _, kind := range []onnx.DataType{onnx.Float16, onnx.BFloat16} {
		for _, storage := range []fmoefy.Storage{"int8", "int4", "bf16", "f16"} {
			b := newBuilder(18)
			b.kind = kind
			m, _ := rewrite(t, layers(b, 1), fmoefy.Options{NumExperts: 3, ExpertWeights: storage})
			compare(t, decomposed(m), m, 5e-2)
		}
	}
}

// TestStoredLayout: what is written has the layout that the operator says,
// copies are equal, and the same options give the same bytes.
func TestStoredLayout(t *testing.T) {
	o := fmoefy.Options{NumExperts: 3, ExpertWeights: fmoefy.StoreInt4, BlockSize: 16}
	m, _ := rewrite(t, layers(newBuilder(17), 1), o)
	again, _ := rewrite(t, layers(newBuilder(17), 1), o)
	if !bytes.Equal(encode(t, m), encode(t, again)) {
		t.Error("the same options give other bytes")
	}
	found := 0
	for _, w := range m.Graph.Initializers {
		want, ok := map[string]string{
			"fc1_weight": fmt.Sprint(onnx.Uint8, []int64{3, dHidden, 1, 8}), "fc1_scales": fmt.Sprint(onnx.Float32, []int64{3, dHidden, 1}),
			"fc2_weight": fmt.Sprint(onnx.Uint8, []int64{3, dModel, 1, 8}), "fc2_scales": fmt.Sprint(onnx.Float32, []int64{3, dModel, 1}),
		}[w.Name[strings.LastIndex(w.Name, ".")+1:]]
		if !ok {
			continue
		}
		found++
		if got := fmt.Sprint(w.DataType, w.Dims); got != want {
			t.Errorf("%s is %s, want %s", w.Name, got, want)
		}
		data, err := w.Bytes()
		if err != nil || !bytes.Equal(data[:len(data)/3], data[len(data)/3*2:]) {
			t.Errorf("%s: copies differ, %v", w.Name, err)
		}
	}
	if found != 4 {
		t.Errorf("%d tensors, want 4", found)
	}
}

// TestStorageRefuses: storages that are wider than what a block computes in.
func TestStorageRefuses(t *testing.T) {
	for _, c := range []struct {
		kind    onnx.DataType
		storage fmoefy.Storage
	}{{onnx.Float64, "int8"}, {onnx.Float64, "bf16"}, {onnx.Float64, "float32"}, {onnx.Float16, "float32"}} {
		b := newBuilder(17)
		b.kind = c.kind
		m := layers(b, 1)
		before := encode(t, m)
		_, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 2, ExpertWeights: c.storage})
		if err == nil || !strings.Contains(err.Error(), "it computes in "+c.kind.String()) {
			t.Errorf("%s as %s: %v", c.kind, c.storage, err)
		}
		if !bytes.Equal(encode(t, m), before) {
			t.Error("a refused model has changed")
		}
	}
}

// TestExportStored: FMoE nodes with stored weights get their body again, and
// become nodes that ONNX Runtime has.
func TestExportStored(t *testing.T) {
	for _, storage := range []fmoefy.Storage{"int8", "int4", "bf16", "f16"} {
		for name, build := range map[string]func(*builder) *onnx.Model{"plain": func(b *builder) *onnx.Model { return layers(b, 1) }, "gated": gated} {
			t.Run(fmt.Sprintf("%s/%s", storage, name), func(t *testing.T) {
				stored, _ := rewrite(t, build(newBuilder(17)), fmoefy.Options{NumExperts: 3, GateStd: 1, Init: fmoefy.Noise, ExpertWeights: storage})
				for _, target := range []fmoefy.Target{fmoefy.Portable, fmoefy.Standard, fmoefy.ONNXRuntime} {
					m := stored.Clone()
					if _, err := fmoefy.Export(m, fmoefy.ExportOptions{Target: target}); err != nil {
						t.Fatal(err)
					}
					if target != fmoefy.Portable && mixtures(m) != 0 {
						t.Errorf("%s: an FMoE node is left", target)
					}
					compare(t, m, stored, 1e-5)
				}
			})
		}
	}
}
