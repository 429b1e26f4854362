package train

import (
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Of operators that take weights among other initializers, only those are
// parameters.
func TestParametersAmongInputs(t *testing.T) {
	weight := func(name string, shape ...int) *onnx.Tensor {
		x := tensor.New(onnx.Float32, shape...)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(i)
		}
		return x.ToONNX(name)
	}
	for _, c := range []struct {
		node *onnx.Node
		want []string
	}{
		{&onnx.Node{OpType: "CausalConvWithState", Inputs: []string{"x", "a", "b", "c"}}, []string{"a", "b"}},
		{&onnx.Node{OpType: "GroupQueryAttention", Domain: "com.microsoft",
			Inputs: []string{"x", "", "", "", "", "lengths", "total", "a", "b", "", "", "c"}}, []string{"c"}},
	} {
		c.node.Outputs = []string{"y"}
		m := &onnx.Model{Graph: &onnx.Graph{
			Inputs:       []*onnx.ValueInfo{{Name: "x", Type: tensorType(onnx.Float32, []int64{-1, 4, -1})}},
			Initializers: []*onnx.Tensor{weight("a", 4, 3), weight("b", 4, 3), weight("c", 4)},
			Nodes:        []*onnx.Node{c.node},
		}}
		var got []string
		for _, p := range Parameters(m) {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: parameters %q, want %q", c.node.OpType, got, c.want)
		}
	}
}
