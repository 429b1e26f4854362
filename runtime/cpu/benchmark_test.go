package cpu

import (
	"fmt"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// benchmark times a node whose first input changes and whose others are
// constant, as weights are.
func benchmark(b *testing.B, operations float64, n *onnx.Node, opset int64, in ...*tensor.Tensor) {
	d := New(device.Options{})
	defer d.Close()
	for i, x := range in {
		name := ""
		if x != nil {
			name = fmt.Sprint("in", i)
		}
		n.Inputs = append(n.Inputs, name)
	}
	node, err := op.Resolve(n, opset)
	if err != nil {
		b.Fatal(err)
	}
	facts := make([]op.Fact, len(in))
	for i, x := range in {
		if x != nil {
			facts[i] = op.FactOf(x)
		}
	}
	outputs, err := op.Infer(node, facts, &op.Symbols{})
	if err != nil {
		b.Fatal(err)
	}
	kernel, err := d.Compile(node, append([]*tensor.Tensor{nil}, in[1:]...))
	if err != nil {
		b.Fatal(err)
	}
	call := &device.Call{In: in, Out: []*tensor.Tensor{tensor.New(outputs[0].Type, outputs[0].Ints()...)}, Scratch: &device.Scratch{}}
	run, err := kernel.Bind(call)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := run(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(operations*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

func BenchmarkMatMul(b *testing.B) {
	const k, n = 1024, 4096
	for _, m := range []int{1, 4, 16, 64, 512} {
		b.Run(fmt.Sprintf("%dx%dx%d", m, k, n), func(b *testing.B) {
			benchmark(b, 2*float64(m)*k*n, &onnx.Node{OpType: "MatMul", Outputs: []string{"y"}}, 13, random[float32](1, m, k), random[float32](2, k, n))
		})
	}
}

func BenchmarkFMoE(b *testing.B) {
	for _, tokens := range []int{1, 8, 64, 512} {
		l := layer{tokens: tokens, experts: 8, k: 2, d: 512, h: 2048, bias: true}
		b.Run(fmt.Sprintf("%dtokens", tokens), func(b *testing.B) {
			config := moe.Config{TopK: l.k, Gate: moe.GateNaive, Activation: moe.ReLU, Normalize: true}
			benchmark(b, 4*float64(tokens*l.k*l.d*l.h), fmoeNode(config, 1), 1, l.inputs(1)...)
		})
	}
}
