package cpu

import (
	"math"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func constant(n int, v float32) *tensor.Tensor {
	x := make([]float32, n)
	for i := range x {
		x[i] = v
	}
	return tensor.FromSlice(x)
}

// TestNormalizations: what is normalised has mean 0 and variance 1, without a
// mean root mean square 1, and where only the norm counts norm 1. The lines
// are far from 0, so that rounding would show.
func TestNormalizations(t *testing.T) {
	const lines, length = 300, 70
	x := random[float32](1, 3, 100, length)
	values := tensor.Of[float32](x)
	for i := range values {
		values[i] += 100
	}
	one, zero := constant(length, 1), constant(length, 0)
	for _, c := range []struct {
		node           onnx.Node
		opset          int64
		in             []*tensor.Tensor
		mean, variance float64 // NaN where not checked
		norm           float64
	}{
		{onnx.Node{OpType: "LayerNormalization"}, 17, []*tensor.Tensor{x, one, zero}, 0, 1, math.NaN()},
		{onnx.Node{OpType: "RMSNormalization"}, 23, []*tensor.Tensor{x, one}, math.NaN(), math.NaN(), math.Sqrt(length)},
		{onnx.Node{OpType: "LpNormalization"}, 22, []*tensor.Tensor{x}, math.NaN(), math.NaN(), 1},
		{onnx.Node{OpType: "MeanVarianceNormalization", Attributes: []*onnx.Attribute{onnx.IntsAttribute("axes", 2)}}, 13, []*tensor.Tensor{x}, 0, 1, math.NaN()},
		{onnx.Node{OpType: "InstanceNormalization"}, 22, []*tensor.Tensor{x, constant(100, 1), constant(100, 0)}, 0, 1, math.NaN()},
		{onnx.Node{OpType: "SkipLayerNormalization", Domain: "com.microsoft"}, 1, []*tensor.Tensor{x, x, one}, 0, 1, math.NaN()},
	} {
		t.Run(c.node.OpType, func(t *testing.T) {
			node := func() *onnx.Node {
				n := c.node
				n.Outputs = []string{"y"}
				return &n
			}
			y := floats(onEveryPool(t, node, c.opset, c.in...)[0])
			for i := range lines {
				line := y[i*length:][:length]
				mean := sum(line) / length
				squares := sum(mapped(line, func(v float64) float64 { return v * v }))
				for _, q := range []struct {
					what      string
					got, want float64
				}{{"mean", mean, c.mean}, {"variance", squares/length - mean*mean, c.variance}, {"norm", math.Sqrt(squares), c.norm}} {
					if !math.IsNaN(q.want) && !(math.Abs(q.got-q.want) < 1e-3) {
						t.Fatalf("line %d has %s %v, want %v", i, q.what, q.got, q.want)
					}
				}
			}
		})
	}
}

func TestSoftmax(t *testing.T) {
	for _, axis := range []int64{1, -1} {
		x := random[float32](1, 40, 50, 30)
		logs := func() *onnx.Node {
			return &onnx.Node{OpType: "LogSoftmax", Outputs: []string{"y"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", axis)}}
		}
		plain := func() *onnx.Node {
			n := logs()
			n.OpType = "Softmax"
			return n
		}
		y := onEveryPool(t, plain, 13, x)[0]
		wantNear(t, "exponentials of LogSoftmax", y, mapped(floats(onEveryPool(t, logs, 13, x)[0]), math.Exp), 1e-6)
		total := compute(t, 1, false, &onnx.Node{OpType: "ReduceSum", Outputs: []string{"y"}}, 13, y, tensor.FromSlice([]int64{axis}))[0]
		wantNear(t, "sum", total, floats(constant(total.Len(), 1)), 1e-6)
	}
}

// TestRotary: turning back what was turned gives the input, and the first
// position does not turn.
func TestRotary(t *testing.T) {
	const sequence, half = 6, 4
	cos, sin, back := make([]float32, sequence*half), make([]float32, sequence*half), make([]float32, sequence*half)
	for i := range cos {
		angle := float64(i/half) * math.Pow(0.3, float64(i%half))
		cos[i], sin[i], back[i] = float32(math.Cos(angle)), float32(math.Sin(angle)), float32(-math.Sin(angle))
	}
	table := func(x []float32) *tensor.Tensor { return tensor.FromSlice(x, sequence, half) }
	ids := tensor.FromSlice([]int64{0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0}, 2, sequence)
	x := random[float32](1, 2, 3, sequence, 2*half+2)
	for _, interleaved := range []int64{0, 1} {
		node := func() *onnx.Node {
			return &onnx.Node{OpType: "RotaryEmbedding", Outputs: []string{"y"},
				Attributes: []*onnx.Attribute{onnx.IntAttribute("interleaved", interleaved), onnx.IntAttribute("rotary_embedding_dim", 2*half)}}
		}
		y := onEveryPool(t, node, 23, x, table(cos), table(sin), ids)[0]
		wantNear(t, "first position", tensor.FromSlice(tensor.Of[float32](y)[:2*half+2]), floats(x)[:2*half+2], 0)
		wantNear(t, "turned back", onEveryPool(t, node, 23, y, table(cos), table(back), ids)[0], floats(x), 1e-6)
	}
}

// TestNormalizationGradient compares float32 with float64, which central
// differences prove right, and asks for the same bits from any number of
// threads.
func TestNormalizationGradient(t *testing.T) {
	for _, opType := range []string{"LayerNormalizationGradient", "RMSNormalizationGradient"} {
		for _, shape := range [][]int{{1, 7}, {300, 64}, {2000, 33}} {
			in := []*tensor.Tensor{random[float64](1, shape...), random[float64](2, shape...), random[float64](3, shape[1])}
			outputs := []string{"dx", "dscale", "dbias"}
			if opType == "RMSNormalizationGradient" {
				outputs = outputs[:2]
			}
			n := func() *onnx.Node { return &onnx.Node{Domain: moe.Domain, OpType: opType, Outputs: outputs} }
			want := compute(t, 1, false, n(), 1, in...)
			narrow := as(onnx.Float32, in)
			first := compute(t, 1, false, n(), 1, narrow...)
			for i, x := range first {
				wantNear(t, opType+" "+outputs[i], x, floats(want[i]), 2e-6)
			}
			for _, threads := range []int{2, 4} {
				wantSameBits(t, threads, compute(t, threads, false, n(), 1, narrow...), first)
			}
		}
	}
}
