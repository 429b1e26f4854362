package fmoefy_test

import (
	"math"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// activations are the ways in which exporters write each activation of x.
var activations = []struct {
	name  string
	want  moe.Activation
	opset int64
	write func(b *builder, x string) string
}{
	{"relu", moe.ReLU, 17, func(b *builder, x string) string { return b.op("Relu", x) }},
	{"relu squared by multiplication", moe.ReLU2, 17, func(b *builder, x string) string {
		r := b.op("Relu", x)
		return b.op("Mul", r, r)
	}},
	{"relu squared by a power", moe.ReLU2, 17, func(b *builder, x string) string {
		return b.op("Pow", b.op("Relu", x), b.scalar(2))
	}},
	{"gelu of TorchScript", moe.GELU, 17, func(b *builder, x string) string {
		cdf := b.op("Add", b.op("Erf", b.op("Div", x, b.scalar(1.4142135))), b.scalar(1))
		return b.op("Mul", b.op("Mul", x, cdf), b.scalar(0.5))
	}},
	{"gelu of the dynamo exporter", moe.GELU, 18, func(b *builder, x string) string {
		cdf := b.op("Add", b.op("Erf", b.op("Div", x, b.scalar(1.41421354))), b.scalar(1))
		return b.op("Mul", x, b.op("Mul", b.scalar(0.5), cdf))
	}},
	{"gelu with a constant rounded to half precision", moe.GELU, 18, func(b *builder, x string) string {
		cdf := b.op("Add", b.op("Erf", b.op("Div", x, b.scalar(1.4140625))), b.scalar(1))
		return b.op("Mul", x, b.op("Mul", b.scalar(0.5), cdf))
	}},
	{"gelu in Python", moe.GELU, 17, func(b *builder, x string) string {
		cdf := b.op("Add", b.scalar(1), b.op("Erf", b.op("Div", x, b.op("Sqrt", b.scalar(2)))))
		return b.op("Mul", b.op("Mul", x, b.scalar(0.5)), cdf)
	}},
	{"gelu of TensorFlow", moe.GELU, 17, func(b *builder, x string) string {
		cdf := b.op("Add", b.op("Erf", b.op("Mul", x, b.scalar(0.70710678))), b.scalar(1))
		return b.op("Mul", b.op("Mul", b.scalar(0.5), cdf), x)
	}},
	{"gelu with constants behind casts", moe.GELU, 17, func(b *builder, x string) string {
		number := func(v float64) string {
			double := b.op("Constant", onnx.TensorAttribute("value", tensor.Scalar(v).ToONNX("")))
			return b.op("Cast", double, intAttribute("to", int64(onnx.Float32)))
		}
		cdf := b.op("Add", b.op("Erf", b.op("Div", x, number(math.Sqrt2))), number(1))
		return b.op("Mul", b.op("Mul", x, cdf), b.op("Constant", floatAttribute("value_float", 0.5)))
	}},
	{"gelu node", moe.GELU, 20, func(b *builder, x string) string { return b.op("Gelu", x) }},
	{"gelu of ONNX Runtime", moe.GELU, 17, func(b *builder, x string) string { return b.contrib("Gelu", x) }},
	{"tanh gelu of GPT-2", moe.GELUTanh, 17, func(b *builder, x string) string {
		cube := b.op("Mul", b.op("Pow", x, b.scalar(3)), b.scalar(0.044714998))
		inner := b.op("Mul", b.op("Add", x, cube), b.scalar(0.79788458))
		return b.op("Mul", b.op("Mul", x, b.scalar(0.5)), b.op("Add", b.op("Tanh", inner), b.scalar(1)))
	}},
	{"tanh gelu of TensorFlow", moe.GELUTanh, 17, func(b *builder, x string) string {
		cube := b.op("Mul", b.scalar(0.044715), b.op("Pow", x, b.scalar(3)))
		inner := b.op("Mul", b.op("Sqrt", b.scalar(2/math.Pi)), b.op("Add", x, cube))
		return b.op("Mul", x, b.op("Mul", b.scalar(0.5), b.op("Add", b.scalar(1), b.op("Tanh", inner))))
	}},
	{"tanh gelu of Megatron", moe.GELUTanh, 17, func(b *builder, x string) string {
		square := b.op("Add", b.scalar(1), b.op("Mul", b.op("Mul", b.scalar(0.044715), x), x))
		inner := b.op("Mul", b.op("Mul", x, b.scalar(0.79788456)), square)
		return b.op("Mul", b.op("Mul", x, b.scalar(0.5)), b.op("Add", b.op("Tanh", inner), b.scalar(1)))
	}},
	{"tanh gelu of TorchScript", moe.GELUTanh, 17, func(b *builder, x string) string {
		cube := b.op("Mul", b.op("Mul", x, b.op("Mul", x, x)), b.scalar(0.044715))
		inner := b.op("Mul", b.op("Add", x, cube), b.scalar(0.7978845608))
		return b.op("Mul", b.scalar(0.5), b.op("Mul", x, b.op("Add", b.op("Tanh", inner), b.scalar(1))))
	}},
	{"tanh gelu node", moe.GELUTanh, 20, func(b *builder, x string) string {
		return b.op("Gelu", x, onnx.StringAttribute("approximate", "tanh"))
	}},
	{"tanh gelu of ONNX Runtime", moe.GELUTanh, 17, func(b *builder, x string) string { return b.contrib("FastGelu", x) }},
	{"quick gelu", moe.QuickGELU, 17, func(b *builder, x string) string {
		return b.op("Mul", x, b.op("Sigmoid", b.op("Mul", x, b.scalar(1.702))))
	}},
	{"quick gelu of ONNX Runtime", moe.QuickGELU, 17, func(b *builder, x string) string {
		return b.contrib("QuickGelu", x, floatAttribute("alpha", 1.702))
	}},
	{"silu", moe.SiLU, 17, func(b *builder, x string) string { return b.op("Mul", b.op("Sigmoid", x), x) }},
	{"silu by exp", moe.SiLU, 17, func(b *builder, x string) string {
		return b.op("Div", x, b.op("Add", b.op("Exp", b.op("Neg", x)), b.scalar(1)))
	}},
	{"silu node", moe.SiLU, 24, func(b *builder, x string) string { return b.op("Swish", x) }},
	{"mish", moe.Mish, 17, func(b *builder, x string) string {
		return b.op("Mul", x, b.op("Tanh", b.op("Softplus", x)))
	}},
	{"mish node", moe.Mish, 18, func(b *builder, x string) string { return b.op("Mish", x) }},
	{"hard swish node", moe.HardSwish, 17, func(b *builder, x string) string { return b.op("HardSwish", x) }},
	{"tanh", moe.Tanh, 17, func(b *builder, x string) string { return b.op("Tanh", x) }},
	{"half of a relu", moe.ReLU, 17, func(b *builder, x string) string { return b.op("Mul", b.op("Relu", x), b.scalar(0.5)) }},
	{"gelu without its factor", moe.GELU, 17, func(b *builder, x string) string {
		return b.op("Mul", x, b.op("Add", b.op("Erf", b.op("Div", x, b.scalar(math.Sqrt2))), b.scalar(1)))
	}},
}

func TestActivations(t *testing.T) {
	for _, c := range activations {
		tolerance := 1e-5
		if strings.Contains(c.name, "half precision") {
			tolerance = 1e-3 // FMoE computes with the exact constant
		}
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(c.opset)
			x := b.tokens()
			m := b.residual(x, b.linear(c.write(b, b.linear(x, dModel, dHidden)), dHidden, dModel))
			expectBlock(t, m, fmoefy.Plain, c.want)
			upcycle(t, m, 1, tolerance)
		})
		t.Run("gated "+c.name, func(t *testing.T) {
			b := newBuilder(c.opset)
			x := b.tokens()
			gate := c.write(b, b.op("MatMul", x, b.weight(dModel, dHidden)))
			product := b.op("Mul", b.op("MatMul", x, b.weight(dModel, dHidden)), gate)
			m := b.residual(x, b.op("MatMul", product, b.weight(dHidden, dModel)))
			expectBlock(t, m, fmoefy.Gated, c.want)
			upcycle(t, m, 1, tolerance)
		})
	}
}

// expectBlock fails the test unless Find returns one block, of the given kind
// and with the test graphs' widths.
func expectBlock(t *testing.T, m *onnx.Model, kind fmoefy.Kind, activation moe.Activation) {
	t.Helper()
	blocks := fmoefy.Find(m)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks, want 1", len(blocks))
	}
	b := blocks[0]
	if b.Refused != "" {
		t.Fatalf("refused: %s", b.Refused)
	}
	if b.Kind != kind || b.Activation != activation || b.DModel != dModel || b.DHidden != dHidden {
		t.Errorf("%s %s [%d, %d], want %s %s [%d, %d]", b.Kind, b.Activation, b.DModel, b.DHidden, kind, activation, dModel, dHidden)
	}
}

// forms are the ways in which exporters write an MLP with ReLU between two
// linear layers.
var forms = []struct {
	name  string
	write func(b *builder, x string) string
}{
	{"bias first", func(b *builder, x string) string {
		h := b.op("Relu", b.op("Add", b.weight(dHidden), b.op("MatMul", x, b.weight(dModel, dHidden))))
		return b.op("Add", b.weight(dModel), b.op("MatMul", h, b.weight(dHidden, dModel)))
	}},
	{"bias second", func(b *builder, x string) string {
		h := b.op("Relu", b.op("Add", b.op("MatMul", x, b.weight(dModel, dHidden)), b.weight(dHidden)))
		return b.op("Add", b.op("MatMul", h, b.weight(dHidden, dModel)), b.weight(dModel))
	}},
	{"bias of rank 3", func(b *builder, x string) string {
		h := b.op("Relu", b.op("Add", b.op("MatMul", x, b.weight(dModel, dHidden)), b.weight(1, 1, dHidden)))
		return b.op("Add", b.op("MatMul", h, b.weight(dHidden, dModel)), b.weight(1, dModel))
	}},
	{"no biases", func(b *builder, x string) string {
		return b.op("MatMul", b.op("Relu", b.op("MatMul", x, b.weight(dModel, dHidden))), b.weight(dHidden, dModel))
	}},
	{"transposed weights", func(b *builder, x string) string {
		transposed := func(out, in int) string {
			return b.op("Transpose", b.weight(out, in), onnx.IntsAttribute("perm", 1, 0))
		}
		h := b.op("Relu", b.op("MatMul", x, transposed(dHidden, dModel)))
		return b.op("MatMul", h, transposed(dModel, dHidden))
	}},
	{"weights behind identities, casts and shape nodes", func(b *builder, x string) string {
		b.kind = onnx.Float16
		w1, w2, bias := b.weight(dHidden*dModel), b.weight(1, dHidden, dModel), b.weight(dModel)
		b.kind = onnx.Float32
		single := intAttribute("to", int64(onnx.Float32))
		w1 = b.op("Cast", b.op("Reshape", b.op("Identity", w1), b.ints(dModel, -1)), single)
		w2 = b.op("Identity", b.op("Cast", b.op("Squeeze", w2, b.ints(0)), single))
		h := b.op("Relu", b.op("MatMul", x, w1))
		return b.op("Add", b.op("Cast", bias, single), b.op("MatMul", h, w2))
	}},
	{"weights in Constant nodes", func(b *builder, x string) string {
		constant := func(dims ...int) string {
			name := b.weight(dims...)
			last := len(b.graph.Initializers) - 1
			value := b.graph.Initializers[last]
			b.graph.Initializers = b.graph.Initializers[:last]
			value.Name = ""
			_ = name
			return b.op("Constant", onnx.TensorAttribute("value", value))
		}
		h := b.op("Relu", b.op("Add", constant(dHidden), b.op("MatMul", x, constant(dModel, dHidden))))
		return b.op("MatMul", h, constant(dHidden, dModel))
	}},
	{"Gemm of a matrix, as OPT", func(b *builder, x string) string {
		rows := b.op("Reshape", x, b.ints(-1, dModel))
		h := b.op("Relu", b.op("Gemm", rows, b.weight(dHidden, dModel), b.weight(dHidden), intAttribute("transB", 1)))
		y := b.op("Gemm", h, b.weight(dModel, dHidden), b.weight(dModel), intAttribute("transB", 1))
		return b.op("Reshape", y, b.op("Shape", x))
	}},
	{"Gemm with alpha, beta and a scalar bias", func(b *builder, x string) string {
		rows := b.op("Reshape", x, b.ints(-1, dModel))
		h := b.op("Relu", b.op("Gemm", rows, b.weight(dModel, dHidden), b.weight(1, dHidden), floatAttribute("alpha", 0.5), floatAttribute("beta", 2)))
		y := b.op("Gemm", h, b.weight(dHidden, dModel), b.scalar(0.25), floatAttribute("alpha", 3))
		return b.op("Reshape", y, b.op("Shape", x))
	}},
	{"Gemm with a dummy C", func(b *builder, x string) string {
		rows := b.op("Flatten", x, intAttribute("axis", 2))
		zero := floatAttribute("beta", 0)
		h := b.op("Relu", b.op("Gemm", rows, b.weight(dModel, dHidden), b.weight(1), zero))
		return b.op("Reshape", b.op("Gemm", h, b.weight(dHidden, dModel), b.weight(1), zero), b.op("Shape", x))
	}},
	{"Conv1D of GPT-2, shapes from Shape nodes", func(b *builder, x string) string {
		conv1D := func(x string, in, out int) string {
			rows := b.op("Reshape", x, b.ints(-1, int64(in)))
			dim := func(axis int64) string {
				d := b.op("Gather", b.op("Shape", x), b.op("Constant", intAttribute("value_int", axis)))
				return b.op("Unsqueeze", d, b.ints(0))
			}
			shape := b.op("Concat", dim(0), dim(1), b.ints(int64(out)), intAttribute("axis", 0))
			return b.op("Reshape", b.op("Gemm", rows, b.weight(in, out), b.weight(out)), shape)
		}
		return conv1D(b.op("Relu", conv1D(x, dModel, dHidden)), dHidden, dModel)
	}},
	{"reshapes around every product, bias outside", func(b *builder, x string) string {
		product := func(x string, in, out int) string {
			rows := b.op("MatMul", b.op("Reshape", x, b.ints(-1, int64(in))), b.weight(in, out))
			shape := b.op("Concat", b.op("Slice", b.op("Shape", x), b.ints(0), b.ints(2)), b.ints(int64(out)), intAttribute("axis", 0))
			return b.op("Add", b.op("Reshape", rows, shape), b.weight(out))
		}
		return product(b.op("Relu", product(x, dModel, dHidden)), dHidden, dModel)
	}},
	{"reshapes around every product, to shapes that the input does not state", func(b *builder, x string) string {
		product := func(x string, in, out int) string {
			rows := b.op("MatMul", b.op("Reshape", x, b.ints(6, int64(in))), b.weight(in, out))
			return b.op("Add", b.op("Reshape", rows, b.ints(2, 3, int64(out))), b.weight(out))
		}
		return product(b.op("Relu", product(x, dModel, dHidden)), dHidden, dModel)
	}},
	{"Gemm without C, cast and Add, as Transformer Engine", func(b *builder, x string) string {
		to := func(x string, t onnx.DataType) string { return b.op("Cast", x, intAttribute("to", int64(t))) }
		rows := b.op("Reshape", x, b.ints(-1, dModel))
		h := to(b.op("Gemm", rows, b.weight(dHidden, dModel), intAttribute("transB", 1)), onnx.Float64)
		b.kind = onnx.Float64
		h = to(b.op("Relu", b.op("Add", h, b.weight(dHidden))), onnx.Float32)
		bias := b.weight(dModel)
		b.kind = onnx.Float32
		y := to(b.op("Gemm", h, b.weight(dModel, dHidden), intAttribute("transB", 1)), onnx.Float64)
		return b.op("Reshape", to(b.op("Add", y, bias), onnx.Float32), b.op("Shape", x))
	}},
	{"second projection in a wider type, as T5 in half precision", func(b *builder, x string) string {
		half := b.op("Cast", x, intAttribute("to", int64(onnx.Float16)))
		b.kind = onnx.Float16
		h := b.op("Relu", b.op("MatMul", half, b.weight(dModel, dHidden)))
		b.kind = onnx.Float32
		return b.op("MatMul", b.op("Cast", h, intAttribute("to", int64(onnx.Float32))), b.weight(dHidden, dModel))
	}},
	{"dropout in inference", func(b *builder, x string) string {
		h := b.op("Dropout", b.op("Relu", b.linear(x, dModel, dHidden)), b.scalar(0.1))
		return b.op("Dropout", b.linear(h, dHidden, dModel), b.scalar(0.1))
	}},
	{"dropout of nothing, in training", func(b *builder, x string) string {
		training := b.initializer("training", tensor.Scalar(true))
		h := b.op("Dropout", b.op("Relu", b.linear(x, dModel, dHidden)), b.scalar(0), training)
		return b.op("Dropout", b.linear(h, dHidden, dModel), b.scalar(0), training)
	}},
	{"fused products of ONNX Runtime", func(b *builder, x string) string {
		h := b.contrib("FusedMatMul", x, b.weight(dHidden, dModel), intAttribute("transB", 1), floatAttribute("alpha", 2))
		return b.contrib("FusedMatMul", b.op("Relu", h), b.weight(dHidden, dModel))
	}},
	{"fused Gemm and activation", func(b *builder, x string) string {
		rows := b.op("Reshape", x, b.ints(-1, dModel))
		h := b.contrib("FusedGemm", rows, b.weight(dModel, dHidden), b.weight(dHidden), onnx.StringAttribute("activation", "Relu"))
		y := b.op("Gemm", h, b.weight(dHidden, dModel), b.weight(dModel))
		return b.op("Reshape", y, b.op("Shape", x))
	}},
	{"constants as graph inputs, as before IR version 4", func(b *builder, x string) string {
		h := b.op("Relu", b.linear(x, dModel, dHidden))
		y := b.linear(h, dHidden, dModel)
		for _, w := range b.graph.Initializers {
			var dims []onnx.Dim
			for _, d := range w.Dims {
				dims = append(dims, onnx.Dim{Known: true, Value: d})
			}
			b.graph.Inputs = append(b.graph.Inputs, valueInfo(w.Name, w.DataType, dims...))
		}
		return y
	}},
}

func TestForms(t *testing.T) {
	for _, c := range forms {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(17)
			x := b.tokens()
			m := b.residual(x, c.write(b, x))
			expectBlock(t, m, fmoefy.Plain, moe.ReLU)
			tolerance := 1e-5
			if strings.Contains(c.name, "half precision") {
				tolerance = 1e-2
			}
			upcycle(t, m, 1, tolerance)
		})
	}
}

// TestDummyC: what Gemm multiplies by 0 is no bias.
func TestDummyC(t *testing.T) {
	b := newBuilder(17)
	rows := b.op("Reshape", b.tokens(), b.ints(-1, dModel))
	zero := floatAttribute("beta", 0)
	h := b.op("Relu", b.op("Gemm", rows, b.weight(dModel, dHidden), b.weight(1), zero))
	b.output(b.op("Add", rows, b.op("Gemm", h, b.weight(dHidden, dModel), b.weight(1), zero)))
	b.graph.Outputs[0].Type.Shape = nil
	for _, n := range upcycle(t, b.model, 1, 1e-5).Graph.Nodes {
		if n.OpType == moe.OpType && (n.Input(moe.InputFC1Bias) != "" || n.Input(moe.InputFC2Bias) != "") {
			t.Errorf("FMoE has the inputs %q", n.Inputs)
		}
	}
}

// gatedForms are the ways in which the two halves of a fused projection are
// taken apart. gate is the half that the activation is applied to.
var gatedForms = []struct {
	name  string
	write func(b *builder, fused string) string
}{
	{"split, gate first, as Phi-3", func(b *builder, fused string) string {
		n := b.node("", "Split", fused, intAttribute("axis", -1), intAttribute("num_outputs", 2))
		n.Outputs = []string{b.name("gate"), b.name("up")}
		return b.op("Mul", n.Outputs[1], b.op("Mul", n.Outputs[0], b.op("Sigmoid", n.Outputs[0])))
	}},
	{"split, gate second, as GEGLU", func(b *builder, fused string) string {
		n := b.node("", "Split", fused, b.ints(dHidden, dHidden), intAttribute("axis", 2))
		n.Outputs = []string{b.name("up"), b.name("gate")}
		return b.op("Mul", n.Outputs[0], b.op("Mul", n.Outputs[1], b.op("Sigmoid", n.Outputs[1])))
	}},
	{"two slices", func(b *builder, fused string) string {
		gate := b.op("Slice", fused, b.ints(0), b.ints(dHidden), b.ints(-1))
		up := b.op("Slice", fused, b.ints(dHidden), b.ints(math.MaxInt64), b.ints(-1))
		return b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up)
	}},
	{"interleaved slices", func(b *builder, fused string) string {
		gate := b.op("Slice", fused, b.ints(0), b.ints(math.MaxInt64), b.ints(2), b.ints(2))
		up := b.op("Slice", fused, b.ints(1), b.ints(math.MaxInt64), b.ints(2), b.ints(2))
		return b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up)
	}},
	{"slices at half of the shape, as TorchScript's chunk", func(b *builder, fused string) string {
		width := b.op("Gather", b.op("Shape", fused), b.ints(-1))
		half := b.op("Div", b.op("Add", width, b.ints(1)), b.ints(2))
		gate := b.op("Slice", fused, b.ints(0), b.op("Mul", half, b.ints(1)), b.ints(-1))
		up := b.op("Slice", fused, half, b.op("Mul", half, b.ints(2)), b.ints(-1))
		return b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up)
	}},
}

func TestFusedGateAndUp(t *testing.T) {
	for _, c := range gatedForms {
		for _, bias := range []string{"", " with bias"} {
			t.Run(c.name+bias, func(t *testing.T) {
				b := newBuilder(18)
				x := b.tokens()
				fused := b.op("MatMul", x, b.weight(dModel, 2*dHidden))
				if bias != "" {
					fused = b.op("Add", fused, b.weight(2*dHidden))
				}
				m := b.residual(x, b.op("MatMul", c.write(b, fused), b.weight(dHidden, dModel)))
				expectBlock(t, m, fmoefy.GatedFused, moe.SiLU)
				upcycle(t, m, 1, 1e-5)
			})
		}
	}
}

// TestBiasInTheActivation is how ONNX Runtime's optimiser leaves a block: the
// first bias in the activation, the second in the norm that follows.
func TestBiasInTheActivation(t *testing.T) {
	for _, c := range []struct {
		opType string
		want   moe.Activation
	}{{"FastGelu", moe.GELUTanh}, {"BiasGelu", moe.GELU}} {
		t.Run(c.opType, func(t *testing.T) {
			b := newBuilder(17)
			x := b.tokens()
			h := b.contrib(c.opType, b.op("MatMul", x, b.weight(dModel, dHidden)), b.weight(dHidden))
			y := b.op("MatMul", h, b.weight(dHidden, dModel))
			b.output(b.contrib("SkipLayerNormalization", y, x, b.weight(dModel), b.weight(dModel), b.weight(dModel)))
			expectBlock(t, b.model, fmoefy.Plain, c.want)
			rewritten := upcycle(t, b.model, 1, 1e-5)
			for _, n := range rewritten.Graph.Nodes {
				if n.OpType == moe.OpType && (n.Input(moe.InputFC1Bias) == "" || n.Input(moe.InputFC2Bias) != "") {
					t.Errorf("FMoE has inputs %q, want a first bias and no second", n.Inputs)
				}
			}
		})
	}
}

// TestBiasSplitGelu is Stable Diffusion's GEGLU as ONNX Runtime fuses it.
func TestBiasSplitGelu(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	h := b.contrib("BiasSplitGelu", b.op("MatMul", x, b.weight(dModel, 2*dHidden)), b.weight(2*dHidden))
	m := b.residual(x, b.op("MatMul", h, b.weight(dHidden, dModel)))
	expectBlock(t, m, fmoefy.GatedFused, moe.GELU)
}

func TestSwiGLUNode(t *testing.T) {
	b := newBuilder(28)
	x := b.tokens()
	h := b.op("SwiGLU", b.op("MatMul", x, b.weight(dModel, dHidden)), b.op("MatMul", x, b.weight(dModel, dHidden)))
	m := b.residual(x, b.op("MatMul", h, b.weight(dHidden, dModel)))
	expectBlock(t, m, fmoefy.Gated, moe.SiLU)
}
