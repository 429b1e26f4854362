package fmoefy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// codes adds an initializer of random bytes, as elements of type t.
func (b *builder) codes(t onnx.DataType, dims ...int) string {
	x := tensor.New(t, dims...)
	for i := range x.Data {
		x.Data[i] = byte(b.random.IntN(256))
	}
	return b.initializer("q", x)
}

// scales adds an initializer of small positive numbers.
func (b *builder) scales(dims ...int) string {
	values := make([]float64, tensor.Count(dims))
	for i := range values {
		values[i] = 0.01 + 0.01*b.random.Float64()
	}
	return b.initializer("s", b.floats(values, dims...))
}

// quantizedWeights are the ways in which DequantizeLinear describes a matrix
// [in, out].
var quantizedWeights = []struct {
	name  string
	opset int64
	kind  onnx.DataType // of the floating-point numbers
	write func(b *builder, in, out int) string
}{
	{"one scale", 13, onnx.Float32, func(b *builder, in, out int) string {
		return b.op("DequantizeLinear", b.codes(onnx.Int8, in, out), b.scales())
	}},
	{"one scale and zero point, operator set 11", 11, onnx.Float32, func(b *builder, in, out int) string {
		return b.op("DequantizeLinear", b.codes(onnx.Uint8, in, out), b.scales(), b.codes(onnx.Uint8))
	}},
	{"a scale and zero point for each output", 13, onnx.Float32, func(b *builder, in, out int) string {
		return b.op("DequantizeLinear", b.codes(onnx.Int8, in, out), b.scales(out), b.codes(onnx.Int8, out), intAttribute("axis", 1))
	}},
	{"transposed", 13, onnx.Float32, func(b *builder, in, out int) string {
		w := b.op("DequantizeLinear", b.codes(onnx.Int8, out, in), b.scales(out), intAttribute("axis", 0))
		return b.op("Transpose", w, onnx.IntsAttribute("perm", 1, 0))
	}},
	{"float16", 19, onnx.Float16, func(b *builder, in, out int) string {
		return b.op("DequantizeLinear", b.codes(onnx.Int8, in, out), b.scales(out), intAttribute("axis", 1))
	}},
	{"four bits in blocks", 21, onnx.Float32, func(b *builder, in, out int) string {
		return b.op("DequantizeLinear", b.codes(onnx.Int4, in, out), b.scales(in/2, out), b.codes(onnx.Int4, in/2, out),
			intAttribute("axis", 0), intAttribute("block_size", 2))
	}},
}

// TestDequantize: quantised weights are refused by default, and on demand
// become experts in floating point that compute the same.
func TestDequantize(t *testing.T) {
	for _, c := range quantizedWeights {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(c.opset)
			b.kind = c.kind
			x := b.tokens()
			h := b.op("Relu", b.op("Add", b.op("MatMul", x, c.write(b, dModel, dHidden)), b.weight(dHidden)))
			m := b.residual(x, b.op("MatMul", h, c.write(b, dHidden, dModel)))
			tolerance := 1e-5
			if c.kind == onnx.Float16 {
				tolerance = 1e-2
			}
			dequantize(t, m, m, tolerance)
		})
	}
}

// dequantize checks that a model with one block of quantised weights is
// refused by default, and that on demand its rewriting computes what another
// model does.
func dequantize(t *testing.T, quantized, same *onnx.Model, tolerance float64) {
	t.Helper()
	if _, err := fmoefy.Rewrite(quantized.Clone(), fmoefy.Options{NumExperts: 4}); err == nil || !strings.Contains(err.Error(), "--dequantize") {
		t.Errorf("by default: %v, want an error that names --dequantize", err)
	}
	rewritten, report := rewrite(t, quantized, fmoefy.Options{NumExperts: 4, Dequantize: true})
	if mixtures(rewritten) != 1 || !report.Equal {
		t.Errorf("%d FMoE nodes, the same function: %v", mixtures(rewritten), report.Equal)
	}
	for _, w := range rewritten.Graph.Initializers {
		if !w.DataType.IsFloat() {
			t.Errorf("%s of type %s stays although nothing uses it", w.Name, w.DataType)
		}
	}
	compare(t, rewritten, same, tolerance)
	compare(t, decomposed(rewritten), same, tolerance)
}

// TestDequantizeMatMulNBits takes the weights of ONNX Runtime's MatMulNBits
// apart; the dense model has the numbers that its documentation says.
func TestDequantizeMatMulNBits(t *testing.T) {
	const block = 16 // above the width of the first projection's input, K: its blocks are padded
	for _, bits := range []int{2, 4, 8} {
		for _, zeros := range []string{"", "packed", "float"} {
			t.Run(fmt.Sprintf("%d bits, zero points %q", bits, zeros), func(t *testing.T) {
				quantized, dense := newBuilder(17), newBuilder(17)
				layer := func(x, y string, in, out int) (string, string) {
					blocks := (in + block - 1) / block
					perByte := 8 / bits
					b, scales := quantized.codes(onnx.Uint8, out, blocks, block/perByte), quantized.scales(out, blocks)
					arguments := []any{x, b, scales}
					zeroRow := (blocks + perByte - 1) / perByte
					switch zeros {
					case "packed":
						arguments = append(arguments, quantized.codes(onnx.Uint8, out, zeroRow))
					case "float":
						arguments = append(arguments, quantized.weight(out, blocks))
					}
					values := map[string][]float64{}
					for _, w := range quantized.graph.Initializers {
						x, err := tensor.FromONNX(w)
						if err != nil {
							t.Fatal(err)
						}
						values[w.Name], _ = tensor.Float64s(x)
					}
					code := func(name string, row, perRow, i int) float64 {
						packed := int(values[name][row*perRow+i/perByte])
						return float64(packed >> (i % perByte * bits) & (1<<bits - 1))
					}
					w := make([]float64, in*out)
					for o := range out {
						for i := range in {
							zero := float64(int(1) << (bits - 1))
							switch zeros {
							case "packed":
								zero = code(arguments[3].(string), o, zeroRow, i/block)
							case "float":
								zero = values[arguments[3].(string)][o*blocks+i/block]
							}
							w[i*out+o] = (code(b, o, blocks*block/perByte, i) - zero) * values[scales][o*blocks+i/block]
						}
					}
					for _, a := range []struct {
						name  string
						value int
					}{{"K", in}, {"N", out}, {"bits", bits}, {"block_size", block}} {
						arguments = append(arguments, intAttribute(a.name, int64(a.value)))
					}
					return quantized.contrib("MatMulNBits", arguments...), dense.op("MatMul", y, dense.initializer("w", dense.floats(w, in, out)))
				}
				const wide = 40 // several blocks, the last one padded
				x, y := quantized.tokens(), dense.tokens()
				h1, h2 := layer(x, y, dModel, wide)
				r1, r2 := layer(quantized.op("Relu", h1), dense.op("Relu", h2), wide, dModel)
				quantized.output(quantized.op("Add", x, r1))
				dense.output(dense.op("Add", y, r2))
				dense.graph.Outputs[0].Name = quantized.graph.Outputs[0].Name
				dense.graph.Nodes[len(dense.graph.Nodes)-1].Outputs[0] = quantized.graph.Outputs[0].Name
				dequantize(t, quantized.model, dense.model, 1e-5)
			})
		}
	}
}

// TestQuantizedActivations: a block whose hidden values are rounded to 8 bits
// computes another function than its weights alone say.
func TestQuantizedActivations(t *testing.T) {
	for name, write := range map[string]func(b *builder, h string) string{
		"between activation and projection": func(b *builder, h string) string {
			scale, zero := b.scales(), b.codes(onnx.Uint8)
			h = b.op("DequantizeLinear", b.op("QuantizeLinear", b.op("Relu", h), scale, zero), scale, zero)
			return b.op("MatMul", h, b.op("DequantizeLinear", b.codes(onnx.Int8, dHidden, dModel), b.scales()))
		},
		"in the product": func(b *builder, h string) string {
			return b.contrib("MatMulIntegerToFloat", b.op("Relu", h), b.codes(onnx.Int8, dHidden, dModel), b.scales(), b.scales())
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(17)
			x := b.tokens()
			m := b.residual(x, write(b, b.linear(x, dModel, dHidden)))
			if _, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 2, Dequantize: true}); err == nil || !strings.Contains(err.Error(), "quanti") {
				t.Errorf("%v, want an error that says what is quantised", err)
			}
		})
	}
}
