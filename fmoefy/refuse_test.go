package fmoefy_test

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// refusals are blocks that must stay, with a part of the reason. write
// returns the block's result, which is then added to x.
var refusals = []struct {
	name   string
	reason string
	write  func(b *builder, x string) string
}{
	{"another width comes out", "it takes 6 values and gives 8: a head or projection", func(b *builder, x string) string {
		return b.op("MatMul", b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, 8), b.weight(8, dModel))
	}},
	{"inner value is an output", "is an output of the graph", func(b *builder, x string) string {
		h := b.op("Relu", b.linear(x, dModel, dHidden))
		b.graph.Outputs = append(b.graph.Outputs, valueInfo(h, onnx.Float32))
		return b.linear(h, dHidden, dModel)
	}},
	{"inner value is used elsewhere", `is used by Abs "Abs_`, func(b *builder, x string) string {
		h := b.linear(x, dModel, dHidden)
		b.output(b.op("Abs", h))
		return b.linear(b.op("Relu", h), dHidden, dModel)
	}},
	{"inner value is used in a branch", `is used by If "If_`, func(b *builder, x string) string {
		h := b.linear(x, dModel, dHidden)
		branch := b.subgraph("branch")
		branch.output(branch.op("Abs", h))
		condition := b.initializer("condition", tensor.FromSlice([]bool{true}, 1))
		b.output(b.op("If", condition, onnx.GraphAttribute("then_branch", branch.graph), onnx.GraphAttribute("else_branch", branch.graph.Clone())))
		return b.linear(b.op("Relu", h), dHidden, dModel)
	}},
	{"norm before the second projection", `LayerNormalization "LayerNormalization_`, func(b *builder, x string) string {
		h := b.op("LayerNormalization", b.op("Relu", b.linear(x, dModel, dHidden)), b.weight(dHidden))
		return b.linear(h, dHidden, dModel)
	}},
	{"computed weight", "is computed by Abs", func(b *builder, x string) string {
		h := b.op("Relu", b.op("MatMul", x, b.op("Abs", b.weight(dModel, dHidden))))
		return b.linear(h, dHidden, dModel)
	}},
	{"weight from outside", `"w" is not a constant`, func(b *builder, x string) string {
		w := b.input("w", onnx.Dim{Known: true, Value: dHidden}, onnx.Dim{Known: true, Value: dModel})
		return b.op("MatMul", b.op("Relu", b.linear(x, dModel, dHidden)), w)
	}},
	{"quantised weight", "quantised", func(b *builder, x string) string {
		codes := b.initializer("q", tensor.New(onnx.Int8, dHidden, dModel))
		w := b.op("DequantizeLinear", codes, b.scalar(0.1))
		return b.op("MatMul", b.op("Relu", b.linear(x, dModel, dHidden)), w)
	}},
	{"quantised product", "quantised", func(b *builder, x string) string {
		h := b.op("Relu", b.linear(x, dModel, dHidden))
		codes := b.initializer("q", tensor.New(onnx.Uint8, dModel, 1, 8))
		return b.contrib("MatMulNBits", h, codes, b.weight(dModel), intAttribute("K", dHidden), intAttribute("N", dModel), intAttribute("bits", 4), intAttribute("block_size", 16))
	}},
	{"unknown activation", "a function with elu", func(b *builder, x string) string {
		return b.linear(b.op("Elu", b.linear(x, dModel, dHidden)), dHidden, dModel)
	}},
	{"another constant than GELU's", "a function with erf", func(b *builder, x string) string {
		h := b.linear(x, dModel, dHidden)
		cdf := b.op("Add", b.op("Erf", b.op("Div", h, b.scalar(1.5))), b.scalar(1))
		return b.linear(b.op("Mul", h, cdf), dHidden, dModel)
	}},
	{"dropout in training", "dropout in training mode", func(b *builder, x string) string {
		training := b.initializer("training", tensor.Scalar(true))
		return b.linear(b.op("Dropout", b.op("Relu", b.linear(x, dModel, dHidden)), b.scalar(0.5), training), dHidden, dModel)
	}},
	{"transposed data", "transposes its data", func(b *builder, x string) string {
		rows := b.op("Transpose", b.op("Reshape", x, b.ints(-1, dModel)), onnx.IntsAttribute("perm", 1, 0))
		h := b.op("Relu", b.op("Gemm", rows, b.weight(dModel, dHidden), intAttribute("transA", 1)))
		return b.op("Reshape", b.op("Gemm", h, b.weight(dHidden, dModel)), b.op("Shape", x))
	}},
	{"bias that depends on the position", "must be one value for each of 10 outputs", func(b *builder, x string) string {
		h := b.op("Relu", b.op("Add", b.op("MatMul", x, b.weight(dModel, dHidden)), b.weight(3, dHidden)))
		return b.linear(h, dHidden, dModel)
	}},
	{"branches with different inputs", "different inputs", func(b *builder, x string) string {
		gate := b.op("Sigmoid", b.linear(b.op("Abs", x), dModel, dHidden))
		return b.linear(b.op("Mul", gate, b.linear(x, dModel, dHidden)), dHidden, dModel)
	}},
	{"shapes that cannot be reconciled", "may have different shapes", func(b *builder, x string) string {
		h := b.op("Reshape", b.op("Relu", b.op("MatMul", x, b.weight(dModel, dHidden))), b.ints(-1, dHidden))
		return b.op("Reshape", b.op("MatMul", h, b.weight(dHidden, dModel)), b.ints(3, -1, 2, dModel))
	}},
	{"batch and sequence change places", "may have different shapes", func(b *builder, x string) string {
		h := b.op("Reshape", b.op("Relu", b.op("MatMul", x, b.weight(dModel, dHidden))), b.ints(-1, dHidden))
		dims := b.op("Gather", b.op("Shape", x), b.ints(1, 0, 2))
		return b.op("Transpose", b.op("Reshape", b.op("MatMul", h, b.weight(dHidden, dModel)), dims), onnx.IntsAttribute("perm", 1, 0, 2))
	}},
	{"expert that sees gathered tokens", "a TopK routes its tokens", func(b *builder, x string) string {
		rows := b.op("Reshape", x, b.ints(-1, dModel))
		routed := b.node("", "TopK", b.op("MatMul", rows, b.weight(dModel, 2)), b.ints(1))
		routed.Outputs = []string{b.name("scores"), b.name("experts")}
		mine := b.op("Reshape", b.op("NonZero", b.op("Equal", routed.Outputs[1], b.ints(0))), b.ints(-1))
		h := b.op("Relu", b.linear(b.op("Gather", rows, mine), dModel, dHidden))
		return b.op("ReduceSum", b.linear(h, dHidden, dModel))
	}},
	{"expert whose result is weighted", "a TopK routes its tokens", func(b *builder, x string) string {
		routed := b.node("", "TopK", b.op("MatMul", x, b.weight(dModel, 2)), b.ints(1))
		routed.Outputs = []string{b.name("scores"), b.name("experts")}
		return b.op("Mul", b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel), b.op("Softmax", routed.Outputs[0]))
	}},
	{"mixture of ONNX Runtime", "com.microsoft::MoE is a mixture of experts already", func(b *builder, x string) string {
		rows := b.op("Reshape", x, b.ints(-1, dModel))
		return b.contrib("MoE", x, b.op("MatMul", rows, b.weight(dModel, 2)), b.weight(2, dHidden, dModel), "", b.weight(2, dModel, dHidden))
	}},
}

func TestRefusals(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(17)
			x := b.tokens()
			m := b.residual(x, c.write(b, x))
			blocks := fmoefy.Find(m)
			if len(blocks) != 1 {
				t.Fatalf("%d blocks, want 1", len(blocks))
			}
			if !strings.Contains(blocks[0].Refused, c.reason) {
				t.Errorf("refused for %q, want %q", blocks[0].Refused, c.reason)
			}
			if blocks[0].Doubtful {
				t.Error("it counts as replaceable on request")
			}
			_, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 2, Include: []string{"0"}})
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("Rewrite: %v, want an error with %q", err, c.reason)
			}
		})
	}
}

// TestNoBlock has graphs in which nothing looks like an MLP.
func TestNoBlock(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(b *builder, x string) string
	}{
		{"two linear layers, as in attention or LoRA", func(b *builder, x string) string {
			return b.linear(b.linear(x, dModel, dHidden), dHidden, dModel)
		}},
		{"attention", func(b *builder, x string) string {
			scores := b.op("MatMul", b.linear(x, dModel, dModel), b.op("Transpose", b.linear(x, dModel, dModel), onnx.IntsAttribute("perm", 0, 2, 1)))
			return b.linear(b.op("MatMul", b.op("Softmax", scores), b.linear(x, dModel, dModel)), dModel, dModel)
		}},
		{"projection of a gated state", func(b *builder, x string) string {
			gate := b.linear(x, dModel, dModel)
			return b.linear(b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), b.op("Abs", x)), dModel, dModel)
		}},
		{"norm written out", func(b *builder, x string) string {
			root := b.op("Sqrt", b.op("Add", b.op("ReduceMean", b.op("Mul", x, x), onnx.IntsAttribute("axes", -1)), b.scalar(1e-6)))
			return b.linear(b.op("Div", x, root), dModel, dModel)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(17)
			x := b.tokens()
			m := b.residual(x, c.write(b, x))
			if blocks := fmoefy.Find(m); len(blocks) != 0 {
				t.Errorf("found %+v", blocks[0].Describe())
			}
			if _, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 2}); err == nil || !strings.Contains(err.Error(), "no MLP block") {
				t.Errorf("Rewrite: %v, want that there is no MLP block", err)
			}
		})
	}
}

// TestHead: an MLP that nothing adds to a residual stream is replaced where it
// is named, and counts as a Transformer's where there are two alike.
func TestHead(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	b.output(b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel))
	blocks := fmoefy.Find(b.model)
	if len(blocks) != 1 || !blocks[0].Doubtful || !strings.Contains(blocks[0].Refused, "head or projection") {
		t.Fatalf("found %+v, want one doubtful block", blocks)
	}
	if _, err := fmoefy.Rewrite(b.model.Clone(), fmoefy.Options{NumExperts: 2, Include: []string{"*"}}); err == nil {
		t.Error("a pattern for all blocks replaced it")
	}
	for _, pattern := range []string{"0", blocks[0].Name} {
		m := b.model.Clone()
		if _, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 2, Include: []string{pattern}}); err != nil || mixtures(m) != 1 {
			t.Errorf("include %q: %v, %d FMoE nodes", pattern, err, mixtures(m))
		}
	}

	b = newBuilder(17)
	x = b.tokens()
	for range 2 {
		x = b.op("LayerNormalization", b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel), b.weight(dModel))
	}
	b.output(x)
	upcycle(t, b.model, 2, 1e-5)
}
