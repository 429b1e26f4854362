package runtime_test

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// trainedLayer has an FMoE node, for 2 × 3 tokens, and the sum of z as its loss.
func trainedLayer(t *testing.T, config moe.Config, change func(weights map[string]*tensor.Tensor)) *onnx.Model {
	m := fmoeModel(t, config, nil)
	weights := map[string]*tensor.Tensor{}
	for _, v := range m.Graph.Initializers {
		w, err := tensor.FromONNX(v)
		if err != nil {
			t.Fatal(err)
		}
		weights[v.Name] = w
	}
	if change != nil {
		change(weights)
	}
	m.Graph.Initializers = nil
	for name, w := range weights {
		m.Graph.Initializers = append(m.Graph.Initializers, w.ToONNX(name))
	}
	m.Graph.Nodes[0], m.Graph.Nodes[1].Outputs = node(t, "a = Add(x, x)"), []string{"Y"}
	ones := tensor.New(onnx.Float32, 2*3*4, 1)
	for i := range tensor.Of[float32](ones) {
		tensor.Of[float32](ones)[i] = 1
	}
	m.Graph.Initializers = append(m.Graph.Initializers, ones.ToONNX("ones"), tensor.FromSlice([]int64{1, 24}, 2).ToONNX("row"))
	m.Graph.Nodes = append(m.Graph.Nodes, node(t, "r = Reshape(z, row)"), node(t, "loss = MatMul(r, ones)"))
	m.Graph.Outputs = []*onnx.ValueInfo{{Name: "loss"}}
	return m
}

// TestFMoEGradientRefusals: what cannot be trained is refused with what to do
// about it.
func TestFMoEGradientRefusals(t *testing.T) {
	unlearned := moe.NaiveConfig(2, moe.GELU)
	unlearned.Gate = "test-unlearned"
	moe.Register(moe.Kind{Name: unlearned.Gate, New: func(c moe.Config, experts int) moe.Gate { return constantGate{} }})
	for _, c := range []struct {
		name   string
		config moe.Config
		change func(weights map[string]*tensor.Tensor)
		want   string
	}{
		{"a gate without a gradient", unlearned, nil, "the gate test-unlearned cannot be trained: it must implement moe.Differentiable"},
		{"weights of fewer bits", moe.NaiveConfig(2, moe.GELU), func(weights map[string]*tensor.Tensor) {
			for _, name := range []string{"fc1", "fc2"} {
				narrow := tensor.New(onnx.BFloat16, weights[name].Shape...)
				tensor.ConvertFloat(narrow, weights[name])
				weights[name] = narrow
			}
		}, "fc1_weight has type bfloat16 and no gradient; freeze it"},
	} {
		_, err := runtime.New(trainedLayer(t, c.config, c.change), runtime.Options{Gradient: &runtime.Gradient{Of: "loss", With: []string{"x", "gate", "fc1"}}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want one with %q", c.name, err, c.want)
		}
	}
}

// constantGate chooses the first expert for all tokens.
type constantGate struct{}

func (constantGate) Slots() int { return 2 }

func (constantGate) Choose(b *moe.Batch, lo, hi int) {
	for s := 2 * lo; s < 2*hi; s++ {
		b.Indices[s], b.Scores[s] = 0, 0.5
	}
}

func (constantGate) Settle(b *moe.Batch) { b.BalanceLoss = 0 }

// TestFMoEGradientOfFrozenExperts: experts stored in fewer bits are constants,
// through which gradients go to tokens and the router as through their values
// in float32.
func TestFMoEGradientOfFrozenExperts(t *testing.T) {
	run := func(change func(weights map[string]*tensor.Tensor)) map[string]*tensor.Tensor {
		s, err := runtime.New(trainedLayer(t, moe.NaiveConfig(2, moe.GELU), change), runtime.Options{Gradient: &runtime.Gradient{Of: "loss", With: []string{"x", "gate"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		x, gate := tensor.New(onnx.Float32, 2, 3, 4), tensor.New(onnx.Float32, 4, 8)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(i%7) - 3
		}
		for i := range tensor.Of[float32](gate) {
			tensor.Of[float32](gate)[i] = float32(i%5)/4 - 0.4
		}
		out, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x": x, "gate": gate, runtime.GradientName("loss"): tensor.FromSlice([]float32{1}, 1, 1)})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	rounded := func(wide bool) func(weights map[string]*tensor.Tensor) {
		return func(weights map[string]*tensor.Tensor) {
			for _, name := range []string{"fc1", "fc2"} {
				narrow := tensor.New(onnx.BFloat16, weights[name].Shape...)
				tensor.ConvertFloat(narrow, weights[name])
				if wide {
					tensor.ConvertFloat(weights[name], narrow)
				} else {
					weights[name] = narrow
				}
			}
		}
	}
	narrow, wide := run(rounded(false)), run(rounded(true))
	for _, name := range []string{"x", "gate"} {
		got, want := tensor.Of[float32](narrow[runtime.GradientName(name)]), tensor.Of[float32](wide[runtime.GradientName(name)])
		for i := range want {
			if d := math.Abs(float64(got[i] - want[i])); d > 1e-5+1e-6*math.Abs(float64(want[i])) {
				t.Fatalf("gradient by element %d of %s is %v, want %v", i, name, got[i], want[i])
			}
		}
	}
}
