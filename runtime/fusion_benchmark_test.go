package runtime_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// BenchmarkFusion times nodes one by one and what passes make of them, on one
// thread and on two.
func BenchmarkFusion(b *testing.B) {
	for _, c := range []struct {
		name, nodes, y string
	}{
		{"linear", "p = MatMul(x, w)\nq = Add(p, bias)\ny = Gelu(q)", "y float32[128,3072]"},
	} {
		m := model(b, []string{"x float32[128,768]"}, []string{c.y},
			map[string]*tensor.Tensor{"w": tensor.New(onnx.Float32, 768, 3072), "bias": tensor.New(onnx.Float32, 3072)}, steps(b, c.nodes)...)
		m.OpsetImports[0].Version = 20
		for _, fused := range []bool{false, true} {
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/fused=%v/threads=%d", c.name, fused, threads), func(b *testing.B) {
					s, err := runtime.New(m, runtime.Options{Threads: threads, NoFusion: !fused})
					if err != nil {
						b.Fatal(err)
					}
					defer s.Close()
					r, x := s.NewRunner(), []*tensor.Tensor{tensor.New(onnx.Float32, 128, 768)}
					for b.Loop() {
						if _, err := r.Run(context.Background(), x); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
