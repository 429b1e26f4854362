package cpu

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// benchmark times a node whose first input changes and whose others are
// constant, as weights are, on one thread and on two.
func benchmark(b *testing.B, operations float64, n *onnx.Node, opset int64, in ...*tensor.Tensor) {
	benchmarkWith(b, operations, n, opset, in, append([]*tensor.Tensor{nil}, in[1:]...))
}

// benchmarkVariable is benchmark where no input is constant.
func benchmarkVariable(b *testing.B, operations float64, n *onnx.Node, opset int64, in ...*tensor.Tensor) {
	benchmarkWith(b, operations, n, opset, in, make([]*tensor.Tensor, len(in)))
}

func benchmarkWith(b *testing.B, operations float64, n *onnx.Node, opset int64, in, constants []*tensor.Tensor) {
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
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("%dthreads", threads), func(b *testing.B) {
			d := New(device.Options{Threads: threads})
			defer d.Close()
			benchmarkOn(b, d, operations, node, in, constants, outputs)
		})
	}
}

func benchmarkOn(b *testing.B, d *Device, operations float64, node *op.Node, in, constants []*tensor.Tensor, outputs []op.Fact) {
	kernel, err := d.Compile(node, constants)
	if err != nil {
		b.Fatal(err)
	}
	call := &device.Call{In: in, Scratch: &device.Scratch{}}
	for _, f := range outputs {
		call.Out = append(call.Out, tensor.New(f.Type, f.Ints()...))
	}
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
	for _, s := range []struct{ m, k, n int }{{512, 768, 3072}, {1024, 1024, 1024}, {128, 768, 3072}, {16, 768, 3072}, {4, 768, 3072}, {1, 768, 30000}} {
		b.Run(fmt.Sprintf("%dx%dx%d", s.m, s.k, s.n), func(b *testing.B) {
			benchmark(b, 2*float64(s.m)*float64(s.k)*float64(s.n), &onnx.Node{OpType: "MatMul", Outputs: []string{"y"}}, 13,
				random[float32](1, s.m, s.k), random[float32](2, s.k, s.n))
		})
	}
}

// BenchmarkTraining times the three products of a layer with 1024 tokens, 512
// inputs and 2048 outputs, in training: weights change from step to step.
func BenchmarkTraining(b *testing.B) {
	const tokens, in, out = 1024, 512, 2048
	x, w, g := random[float32](1, tokens, in), random[float32](2, in, out), random[float32](3, tokens, out)
	transposed := random[float32](2, out, in)
	for _, c := range []struct {
		name        string
		attributes  []*onnx.Attribute
		left, right *tensor.Tensor
		constant    bool
	}{
		{"constant", nil, x, w, true},
		{"forward", nil, x, w, false},
		{"forward/transB", []*onnx.Attribute{onnx.IntAttribute("transB", 1)}, x, transposed, false},
		{"inputs", []*onnx.Attribute{onnx.IntAttribute("transB", 1)}, g, w, false},
		{"inputs/transB", nil, g, transposed, false},
		{"weights", []*onnx.Attribute{onnx.IntAttribute("transA", 1)}, x, g, false},
		{"weights/transB", []*onnx.Attribute{onnx.IntAttribute("transA", 1)}, g, x, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			n := &onnx.Node{Domain: "com.microsoft", OpType: "FusedMatMul", Outputs: []string{"y"}, Attributes: c.attributes}
			in := []*tensor.Tensor{c.left, c.right}
			if c.constant {
				benchmark(b, 2*tokens*512*out, n, 1, in...)
			} else {
				benchmarkVariable(b, 2*tokens*512*out, n, 1, in...)
			}
		})
	}
}

func BenchmarkFMoE(b *testing.B) {
	for _, l := range []layer{
		{tokens: 1, experts: 8}, {tokens: 2, experts: 8}, {tokens: 16, experts: 8}, {tokens: 64, experts: 8}, {tokens: 512, experts: 8},
		{tokens: 2048, experts: 8, d: 128, h: 64}, {tokens: 4096, experts: 8, d: 512, h: 1024}, {tokens: 4096, experts: 128, d: 512, h: 1024},
	} {
		if l.d == 0 {
			l.d, l.h = 768, 3072
		}
		l.k, l.bias = 2, true
		b.Run(fmt.Sprintf("%dtokens%dexperts", l.tokens, l.experts), func(b *testing.B) {
			config := moe.NaiveConfig(l.k, moe.GELU)
			benchmark(b, 4*float64(l.tokens*l.k*l.d*l.h), fmoeNode(config, 1), 1, l.inputs(1)...)
		})
	}
}

// BenchmarkStoredExperts decodes one token at a time, of layers whose experts
// are stored in different ways: several layers and tokens in turn, so that the
// caches hold none of the weights.
func BenchmarkStoredExperts(b *testing.B) {
	const layers = 4
	l := layer{tokens: 1, experts: 8, k: 2, d: 768, h: 3072, bias: true}
	half := func(t onnx.DataType) func(in []*tensor.Tensor) []*tensor.Tensor {
		return func(in []*tensor.Tensor) []*tensor.Tensor {
			rounded := as(t, in)
			for _, slot := range expertWeights {
				in[slot] = rounded[slot]
			}
			return in
		}
	}
	for _, s := range []struct {
		name  string
		q     moe.Quantization
		store func(in []*tensor.Tensor) []*tensor.Tensor
	}{
		{"float32", moe.Quantization{}, func(in []*tensor.Tensor) []*tensor.Tensor { return in }},
		{"bfloat16", moe.Quantization{}, half(onnx.BFloat16)},
		{"float16", moe.Quantization{}, half(onnx.Float16)},
		{"int8", moe.Quantization{Bits: 8, Block: 32}, nil},
		{"int4", moe.Quantization{Bits: 4, Block: 32}, nil},
	} {
		in := l.inputs(1)
		if s.store != nil {
			in = s.store(in)
		} else {
			in, _ = quantized(s.q, in)
		}
		config := moe.NaiveConfig(l.k, moe.GELU)
		config.Quantization = s.q
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/%dthreads", s.name, threads), func(b *testing.B) {
				d := New(device.Options{Threads: threads})
				defer d.Close()
				n := fmoeNode(config, 1)
				for i, x := range in {
					n.Inputs = append(n.Inputs, "")
					if x != nil {
						n.Inputs[i] = fmt.Sprint("in", i)
					}
				}
				node, err := op.Resolve(n, 1)
				if err != nil {
					b.Fatal(err)
				}
				call := &device.Call{In: slices.Clone(in), Out: []*tensor.Tensor{tensor.New(onnx.Float32, 1, l.d)}, Scratch: &device.Scratch{}}
				call.In[moe.InputX] = tensor.New(onnx.Float32, 1, l.d)
				var runs [layers]func() error
				for i := range runs {
					kernel, err := d.Compile(node, append([]*tensor.Tensor{nil}, in[1:]...))
					if err != nil {
						b.Fatal(err)
					}
					if runs[i], err = kernel.Bind(call); err != nil {
						b.Fatal(err)
					}
				}
				tokens := random[float32](9, 64, l.d)
				for i := 0; b.Loop(); i++ {
					call.In[moe.InputX].Data = tokens.Data[i/layers%64*4*l.d:][:4*l.d]
					if err := runs[i%layers](); err != nil {
						b.Fatal(err)
					}
				}
				weights := float64(2 * l.k * l.d * l.h)
				b.ReportMetric(weights*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
			})
		}
	}
}

// BenchmarkNormalizationGradient counts bytes of one pass over the gradient, the
// input and the result.
func BenchmarkNormalizationGradient(b *testing.B) {
	const tokens, width = 1024, 512
	n := &onnx.Node{Domain: moe.Domain, OpType: "LayerNormalizationGradient", Outputs: []string{"dx", "dscale", "dbias"}}
	benchmarkVariable(b, 3*4*tokens*width, n, 1, random[float32](1, tokens, width), random[float32](2, tokens, width), random[float32](3, width))
}

// BenchmarkCrossEntropy counts the logits.
func BenchmarkCrossEntropy(b *testing.B) {
	const tokens, classes = 1024, 8192
	labels := make([]int64, tokens)
	for i := range labels {
		labels[i] = int64(i)
	}
	x := random[float32](1, tokens, classes)
	b.Run("forward", func(b *testing.B) {
		n := &onnx.Node{Domain: moe.Domain, OpType: "CrossEntropy", Outputs: []string{"loss"}}
		benchmarkVariable(b, tokens*classes, n, 1, x, tensor.FromSlice(labels, tokens))
	})
	b.Run("gradient", func(b *testing.B) {
		n := &onnx.Node{Domain: moe.Domain, OpType: "CrossEntropyGradient", Outputs: []string{"dx"}}
		benchmarkVariable(b, tokens*classes, n, 1, tensor.Scalar[float32](1), x, tensor.FromSlice(labels, tokens))
	})
}

// BenchmarkAttention: the work is counted as if every key were visible.
func BenchmarkAttention(b *testing.B) {
	const heads, size = 12, 64
	for _, c := range []struct {
		name                 string
		batch, queries, keys int
		kvHeads              int
		causal, mask         bool
	}{
		{"causal", 1, 128, 128, heads, true, false},
		{"long", 1, 1024, 1024, heads, true, false},
		{"masked", 8, 128, 128, heads, false, true},
		{"decode", 1, 1, 1024, heads, false, false},
		{"decodeshared", 1, 1, 1024, heads / 3, false, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			n := &onnx.Node{OpType: "Attention", Outputs: []string{"y"}}
			if c.causal {
				n.Attributes = append(n.Attributes, onnx.IntAttribute("is_causal", 1))
			}
			in := []*tensor.Tensor{random[float32](1, c.batch, heads, c.queries, size),
				random[float32](2, c.batch, c.kvHeads, c.keys, size), random[float32](3, c.batch, c.kvHeads, c.keys, size)}
			if c.mask {
				in = append(in, random[float32](4, c.batch, 1, c.queries, c.keys))
			}
			benchmark(b, 4*float64(c.batch*heads*c.queries*c.keys*size), n, 23, in...)
		})
	}
}

// BenchmarkAttentionGradient counts the work of five products as if every key
// were visible.
func BenchmarkAttentionGradient(b *testing.B) {
	const heads, size = 8, 64
	for _, c := range []struct{ batch, length int }{{8, 128}, {1, 1024}} {
		b.Run(fmt.Sprintf("%dx%d", c.batch, c.length), func(b *testing.B) {
			n := &onnx.Node{Domain: moe.Domain, OpType: "AttentionGradient", Outputs: []string{"dq", "dk", "dv"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("is_causal", 1)}}
			shape := []int{c.batch, heads, c.length, size}
			benchmarkVariable(b, 10*float64(c.batch*heads*c.length*c.length*size), n, 1, random[float32](1, shape...), random[float32](2, shape...), random[float32](3, shape...),
				nil, nil, nil, nil, random[float32](4, shape...))
		})
	}
}

// BenchmarkFMoETraining times the two halves of a training step whose weights
// change from step to step.
func BenchmarkFMoETraining(b *testing.B) {
	for _, l := range []layer{
		{tokens: 1024, experts: 8, k: 2, d: 512, h: 2048, bias: true},
		{tokens: 1024, experts: 8, k: 2, d: 512, h: 1024, bias: true, gated: true},
		{tokens: 1024, experts: 64, k: 8, d: 512, h: 256, bias: true},
	} {
		config := moe.NaiveConfig(l.k, moe.GELU)
		in := append(l.inputs(1), make([]*tensor.Tensor, moe.InputCount)...)[:moe.InputCount]
		work := 4 * float64(l.tokens*l.k*l.d*l.h)
		if l.gated {
			work *= 1.5
		}
		for _, threads := range []int{1, 2} {
			for _, half := range []string{"forward", "backward"} {
				b.Run(fmt.Sprintf("%dexperts,gated=%t/%s/%dthreads", l.experts, l.gated, half, threads), func(b *testing.B) {
					r := bindTraining(b, threads, config, in)
					r.run(b)
					run, work := r.forward, work
					if half == "backward" {
						run, work = r.backward, 2*work
					}
					for b.Loop() {
						if err := run(); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(work*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			}
		}
	}
}
