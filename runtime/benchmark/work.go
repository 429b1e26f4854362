package benchmark

import (
	"unsafe"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Work is what one run of a model takes at least.
type Work struct {
	// Operations are the floating-point operations of products, convolutions
	// and attention, a multiply-add counting as two.
	Operations float64
	// Bytes are those of the weights that are read, each once: of a lookup
	// table the rows that are looked up, of a mixture the experts that can be
	// chosen.
	Bytes float64
}

// CountWork counts the work of a model for inputs of the given shapes.
// Loops are not counted.
func CountWork(m *onnx.Model, inputs map[string]*tensor.Tensor) (Work, error) {
	c := counter{read: map[unsafe.Pointer]bool{}}
	err := runtime.Infer(m, inputs, c.node)
	return c.work, err
}

type counter struct {
	work Work
	read map[unsafe.Pointer]bool // the weights counted so far
}

func (c *counter) node(n *op.Node, in, out []op.Fact) {
	c.work.Operations += operations(n, in, out)
	switch {
	case n.OpType == "Gather":
		if in[0].Value != nil {
			c.work.Bytes += elements(out[0]) * float64(out[0].Type.Bits()) / 8
		}
	case n.OpType == moe.OpType && n.Domain == moe.Domain:
		c.mixture(n, in)
	default:
		c.weights(in, 1)
	}
}

// weights counts those of a node's inputs that are constant, each once in the
// model.
func (c *counter) weights(in []op.Fact, share float64) {
	for _, f := range in {
		if f.Value == nil || len(f.Value.Data) == 0 {
			continue
		}
		if p := unsafe.Pointer(unsafe.SliceData(f.Value.Data)); !c.read[p] {
			c.read[p] = true
			c.work.Bytes += share * float64(len(f.Value.Data))
		}
	}
}

// mixture counts the weights of an FMoE node, of which tokens·top_k experts
// are read at most.
func (c *counter) mixture(n *op.Node, in []op.Fact) {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return
	}
	tokens, experts := elements(in[moe.InputX])/last(in[moe.InputX], 0), last(in[moe.InputGateWeight], 0)
	c.weights(in[:moe.InputFC1Weight], 1)
	c.weights(in[moe.InputFC1Weight:], min(1, tokens*float64(config.TopK)/experts))
}

// operations counts those of one node.
func operations(n *op.Node, in, out []op.Fact) float64 {
	product := func(k float64) float64 { return 2 * elements(out[0]) * k }
	switch n.Domain + "::" + n.OpType {
	case "::MatMul", "::MatMulInteger", "com.microsoft::FusedMatMul":
		return product(last(in[0], n.Int("transA", 0)))
	case "::QLinearMatMul":
		return product(last(in[0], 0))
	case "::Gemm":
		return product(last(in[0], n.Int("transA", 0)))
	case "com.microsoft::MatMulNBits":
		return product(float64(n.Int("K", 0)))
	case "::Conv":
		return product(elements(in[1]) / dimension(in[1], 0))
	case "::Attention":
		return attention(n, in, out)
	case moe.Domain + "::" + moe.OpType:
		return mixture(n, in)
	}
	return 0
}

// attention counts both products; what a mask hides is counted too.
func attention(n *op.Node, in, out []op.Fact) float64 {
	d, err := op.AttentionDims(&op.Inference{Node: n, Inputs: in, Outputs: out, Symbols: &op.Symbols{}})
	if err != nil || len(in) > 4 && !in[4].Concrete() && n.Input(4) != "" {
		return 0
	}
	keys := float64(d.Keys + d.Past)
	return 2 * float64(d.Batch) * float64(d.Heads) * float64(d.Queries) * keys * float64(d.HeadSize+d.ValueSize)
}

// mixture counts the router and, for each token, the chosen experts.
func mixture(n *op.Node, in []op.Fact) float64 {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return 0
	}
	model := last(in[moe.InputX], 0)
	tokens, hidden := elements(in[moe.InputX])/model, dimension(in[moe.InputFC1Weight], 1)
	layers := 2.0
	if n.Input(moe.InputFC3Weight) != "" {
		layers = 3
	}
	return 2 * tokens * model * (last(in[moe.InputGateWeight], 0) + float64(config.TopK)*layers*hidden)
}

// elements is the number of a value's elements, 0 where it is not known.
func elements(f op.Fact) float64 {
	if !f.Concrete() {
		return 0
	}
	n := 1.0
	for _, d := range f.Shape {
		n *= float64(d)
	}
	return n
}

// last is the last dimension of a value, or the first of a matrix that is
// transposed; 0 where it is not known.
func last(f op.Fact, transposed int64) float64 {
	axis := len(f.Shape) - 1
	if transposed != 0 {
		axis--
	}
	return dimension(f, axis)
}

func dimension(f op.Fact, axis int) float64 {
	if axis < 0 || axis >= len(f.Shape) || !f.Concrete() {
		return 0
	}
	return float64(f.Shape[axis])
}
