package runtime_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
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
