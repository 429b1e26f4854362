package runtime

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// lowerProducts lets products of float32, which take most of the time, read
// and write numbers of half the width: their inputs are cast, and their results
// cast back. What is between them, and the routers of mixtures of experts,
// stay float32 (Micikevicius et al. 2018, arXiv 1710.03740). Weights that are
// inputs are cast too, so that gradients and updates are those of float32.
func lowerProducts(r *rewriter) {
	casts := map[int]int{}
	for n := range r.nodes() {
		if !n.lowers() || r.fact(n.out[0]).Type != onnx.Float32 {
			continue
		}
		in := slices.Clone(n.in)
		for i, v := range in {
			if v == absent || r.fact(v).Type != onnx.Float32 || n.routes(i) {
				continue
			}
			if _, known := casts[v]; !known {
				casts[v] = r.insert(castTo(r.precision), v, v)
			}
			in[i] = casts[v]
		}
		r.lower(n, in)
	}
}

func castTo(t onnx.DataType) *onnx.Node {
	return onnxNode("Cast", onnx.IntAttribute("to", int64(t)))
}

// lowers reports whether a node is a product.
func (n *node) lowers() bool {
	return n.is("MatMul", "Gemm", "Conv", "Attention") || n.op.Operator.Domain == "com.microsoft" && n.op.OpType == "FusedMatMul" || n.mixes()
}

func (n *node) mixes() bool { return n.op.Operator.Domain == moe.Domain && n.op.OpType == moe.OpType }

// routes reports whether an input is the router's.
func (n *node) routes(input int) bool {
	return n.mixes() && slices.Contains([]int{moe.InputGateWeight, moe.InputGateBias, moe.InputNoiseWeight, moe.InputSelectionBias}, input)
}

// lower gives a node other inputs, and casts its results back. The node stays
// as it is if it does not take them.
func (r *rewriter) lower(n *node, in []int) {
	facts := make([]op.Fact, len(in))
	for i, v := range in {
		facts[i] = r.fact(v)
	}
	inferred, err := op.Infer(n.op, facts, &r.symbols)
	if err != nil {
		return
	}
	n.in = in
	r.connect(n)
	for i, v := range n.out {
		if v == absent || inferred[i].Type == r.fact(v).Type {
			continue
		}
		n.out[i] = r.value(r.program.values[v].name+"/"+r.precision.String(), inferred[i])
		r.makers[n.out[i]] = n
		cast := castTo(r.fact(v).Type)
		made, _, err := r.infer(cast, []int{n.out[i]}, 1)
		if err != nil {
			panic(err) // a Cast takes all numbers
		}
		cast.Name, cast.Outputs[0] = n.op.Name+"/Cast", r.program.values[v].name
		made.out = []int{v}
		r.add(made)
	}
}
