package runtime_test

import (
	"context"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The graph that a session computes is a model of its own, which gives the
// same outputs and gradients.
func TestGraph(t *testing.T) {
	m := model(t, []string{"x float32[n,3]"}, []string{"loss float32[]"},
		map[string]*tensor.Tensor{"w": floats([]int{3, 2}, 1, -2, 3, 4, 5, 6), "axes": tensor.FromSlice([]int64{0, 1}, 2)},
		node(t, "y = MatMul(x, w)"), node(t, "z = Relu(y)"), node(t, "s = Mul(z, z)"),
		node(t, "loss = ReduceSum(s, axes)", onnx.IntAttribute("keepdims", 0)))
	options := runtime.Options{Threads: 1, Gradient: &runtime.Gradient{Of: "loss", With: []string{"w", "x"}}}
	g, err := runtime.Graph(m, options)
	if err != nil {
		t.Fatal(err)
	}
	if err := onnx.Check(g); err != nil {
		t.Fatal(err)
	}
	inputs := map[string]*tensor.Tensor{"x": floats([]int{2, 3}, 1, 2, 3, 4, -5, 6), "w": floats([]int{3, 2}, 1, -2, 3, 4, 5, 6),
		runtime.GradientName("loss"): tensor.Scalar(float32(1))}
	run := func(m *onnx.Model, o runtime.Options) map[string]*tensor.Tensor {
		s, err := runtime.New(m, o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		out, err := s.Run(context.Background(), inputs)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	want, got := run(m, options), run(g, runtime.Options{Threads: 1})
	if len(want) != 3 {
		t.Errorf("%d outputs", len(want))
	}
	for name, w := range want {
		if got[name] == nil || !slices.Equal(got[name].Data, w.Data) {
			t.Errorf("%s is %v, want %v", name, got[name], w)
		}
	}
}
