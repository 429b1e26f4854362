package tensorparallel_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/fmoefy/tensorparallel"
	"github.com/fmoe-go/fmoe/internal/megatron"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

const (
	samples = "../../models"
	width   = 128 // of the sample GPT
)

func splitGPT(t *testing.T, m *onnx.Model, size int64, o megatron.Options) []*onnx.Model {
	t.Helper()
	ranks, err := megatron.Split(m, size, o)
	if err != nil {
		t.Fatal(err)
	}
	return ranks
}

func readModel(t *testing.T, path string) *onnx.Model {
	t.Helper()
	m, err := onnx.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// expectOutputs runs a model on a sample's data and compares with the
// sample's outputs.
func expectOutputs(t *testing.T, m *onnx.Model, data string) {
	t.Helper()
	s, err := runtime.New(m, runtime.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	inputs, err := dataset.ReadInputs(data, s.Inputs())
	if err != nil {
		t.Fatal(err)
	}
	want, err := dataset.ReadOutputs(data, m.Graph.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Run(context.Background(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range want {
		d, err := tensor.Compare(got[name], w, 1e-3, 1e-4)
		if err != nil || d.Failures > 0 {
			t.Errorf("output %s: %d elements differ, by up to %g (%v)", name, d.Failures, d.MaxAbs, err)
		}
	}
}

// TestGPT: the ranks of the sample GPT, merged, are the sample GPT again, and
// its MLP blocks are whole.
func TestGPT(t *testing.T) {
	m := readModel(t, filepath.Join(samples, "gpt-megatron/model.onnx"))
	for _, size := range []int64{2, 4} {
		for _, o := range []megatron.Options{{}, {Collectives: true}, {Vocabulary: true}, {Vocabulary: true, Collectives: true, PartialBiases: true}} {
			t.Run(fmt.Sprintf("%d ranks %+v", size, o), func(t *testing.T) {
				ranks := splitGPT(t, m, size, o)
				merged, report, err := tensorparallel.Merge(ranks)
				if err != nil {
					t.Fatal(err)
				}
				columns, vocabulary := 12, 0
				if o.Vocabulary {
					columns, vocabulary = 13, 1
				}
				if len(report.Column) != columns || len(report.Row) != 12 || len(report.Vocabulary) != vocabulary {
					t.Errorf("joined %d weights by columns, %d by rows, %d embeddings", len(report.Column), len(report.Row), len(report.Vocabulary))
				}
				expectOutputs(t, merged, filepath.Join(samples, "gpt-megatron/test_data_set_0"))
				blocks := fmoefy.Find(merged)
				if len(blocks) != 6 {
					t.Fatalf("%d MLP blocks", len(blocks))
				}
				for _, b := range blocks {
					if b.Refused != "" || b.DModel != width || b.DHidden != 4*width {
						t.Errorf("block %s [%d, %d] %s", b.Name, b.DModel, b.DHidden, b.Refused)
					}
				}
				if _, err := fmoefy.Rewrite(merged, fmoefy.Options{NumExperts: 4}); err != nil {
					t.Fatal(err)
				}
				expectOutputs(t, merged, filepath.Join(samples, "gpt-megatron/test_data_set_0"))
			})
		}
	}
}

// TestRefused: what is no set of ranks is not merged.
func TestRefused(t *testing.T) {
	m := readModel(t, filepath.Join(samples, "gpt-megatron/model.onnx"))
	other := readModel(t, filepath.Join(samples, "bert/model.onnx"))
	norm := func() []*onnx.Model { // ranks whose norms differ
		ranks := splitGPT(t, m, 2, megatron.Options{})
		for _, w := range ranks[1].Graph.Initializers {
			if w.Name == "language_model.encoder.layers.0.input_layernorm.weight" {
				x := tensor.New(onnx.Float32, width)
				w.SetBytes(x.Data)
			}
		}
		return ranks
	}
	for _, c := range []struct {
		name  string
		ranks []*onnx.Model
		want  string
	}{
		{"one rank", splitGPT(t, m, 2, megatron.Options{})[:1], "two ranks at least"},
		{"other models", []*onnx.Model{m, other}, "not ranks of one model"},
		{"weights of a norm", norm(), `LayerNormalization): its input "language_model.encoder.layers.0.input_layernorm.weight" differs`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := tensorparallel.Merge(c.ranks); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestGated: the first projection of a gated MLP holds gate and up of each
// rank, which are joined part by part.
func TestGated(t *testing.T) {
	const d, h, size = 6, 8, 2
	values := func(n int, seed float32) []float32 {
		list := make([]float32, n)
		for i := range list {
			list[i] = float32((i*7+3)%11)/11 - seed
		}
		return list
	}
	gate, up, down := values(d*h, 0.3), values(d*h, 0.5), values(h*d, 0.4)
	// model holds the hidden units from first on, count of them.
	model := func(first, count int) *onnx.Model {
		fused, rest := make([]float32, 0, d*2*count), down[first*d:][:count*d]
		for i := range d {
			fused = append(fused, gate[i*h+first:][:count]...)
			fused = append(fused, up[i*h+first:][:count]...)
		}
		shape := &onnx.Shape{Dims: []onnx.Dim{{Param: "tokens"}, {Known: true, Value: d}}}
		value := func(name string) *onnx.ValueInfo {
			return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32, Shape: shape}}
		}
		op := func(opType, out string, in ...string) *onnx.Node {
			return &onnx.Node{Name: out, OpType: opType, Inputs: in, Outputs: []string{out}}
		}
		split := op("Split", "gate", "fused", "sizes")
		split.Outputs = append(split.Outputs, "up")
		split.Attributes = []*onnx.Attribute{onnx.IntAttribute("axis", -1)}
		return &onnx.Model{IRVersion: 8, OpsetImports: []onnx.OpsetImport{{Version: 17}}, Graph: &onnx.Graph{Name: "gated",
			Inputs: []*onnx.ValueInfo{value("x")}, Outputs: []*onnx.ValueInfo{value("y")},
			Nodes: []*onnx.Node{
				op("MatMul", "fused", "x", "fc1"), split, op("Sigmoid", "s", "gate"), op("Mul", "silu", "gate", "s"), op("Mul", "hidden", "silu", "up"),
				op("MatMul", "y", "hidden", "fc2"),
			},
			Initializers: []*onnx.Tensor{
				tensor.FromSlice(fused, d, 2*count).ToONNX("fc1"), tensor.FromSlice(rest, count, d).ToONNX("fc2"),
				tensor.FromSlice([]int64{int64(count), int64(count)}).ToONNX("sizes"),
			}}}
	}
	merged, _, err := tensorparallel.Merge([]*onnx.Model{model(0, h/size), model(h/size, h/size)})
	if err != nil {
		t.Fatal(err)
	}
	whole := model(0, h)
	for _, name := range []string{"fc1", "fc2"} {
		got, err := merged.Graph.Initializer(name).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		want, _ := whole.Graph.Initializer(name).Bytes()
		if !slices.Equal(got, want) {
			t.Errorf("%s is not that of the whole model", name)
		}
	}
	if blocks := fmoefy.Find(merged); len(blocks) != 1 || blocks[0].Kind != fmoefy.GatedFused || blocks[0].DHidden != h {
		t.Errorf("blocks %+v, want one gated MLP of %d hidden units", blocks, h)
	}
}
