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
		name, nodes string
		rows        int
	}{
		{"linear", "p = MatMul(x, w)\nq = Add(p, bias)\ny = Gelu(q)", 128},
		{"residual", "p = MatMul(x, w)\nq = Add(p, bias)\ny = Add(q, z)", 128},
		{"chain", "a = Mul(z, bias)\nb = Add(a, z)\nc = Relu(b)\nd = Sub(c, z)\ny = Mul(d, a)", 128},
		{"chain", "a = Mul(z, bias)\nb = Add(a, z)\nc = Relu(b)\nd = Sub(c, z)\ny = Mul(d, a)", 2048},
		{"swiglu", "a = Swish(z)\ny = Mul(a, z)", 128},
	} {
		m := model(b, []string{"x float32[rows,768]", "z float32[rows,3072]"}, []string{"y float32[rows,3072]"},
			map[string]*tensor.Tensor{"w": tensor.New(onnx.Float32, 768, 3072), "bias": tensor.New(onnx.Float32, 3072)}, steps(b, c.nodes)...)
		m.OpsetImports[0].Version = 24
		for _, fused := range []bool{false, true} {
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s%d/fused=%v/threads=%d", c.name, c.rows, fused, threads), func(b *testing.B) {
					s, err := runtime.New(m, runtime.Options{Threads: threads, NoFusion: !fused})
					if err != nil {
						b.Fatal(err)
					}
					defer s.Close()
					r, in := s.NewRunner(), []*tensor.Tensor{tensor.New(onnx.Float32, c.rows, 768), tensor.New(onnx.Float32, c.rows, 3072)}
					for b.Loop() {
						if _, err := r.Run(context.Background(), in); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
