package runtime

import (
	"github.com/fmoe-go/fmoe/onnx"
)

// foldTransposes lets products read an operand from before the Transpose that
// swaps the last two dimensions of it, which constants are without by now and
// weights in training are not. Neither the product nor its gradient, which
// reads the operand once more, then needs it in another order.
func foldTransposes(r *rewriter) {
	for n := range r.nodes() {
		gemm := n.is("Gemm")
		if !gemm && !n.is("MatMul") && !(n.op.Operator.Domain == "com.microsoft" && n.op.OpType == "FusedMatMul") || !r.float(n.out[0]) ||
			n.op.Int("transBatchA", 0) != 0 || n.op.Int("transBatchB", 0) != 0 {
			continue
		}
		in, trans := append([]int(nil), n.in...), [2]int64{n.op.Int("transA", 0), n.op.Int("transB", 0)}
		folded := false
		for i := range trans {
			if t := r.madeBy(in[i], "Transpose"); t != nil && r.swapsMatrix(t) {
				in[i], trans[i], folded = t.in[0], 1-trans[i], true
			}
		}
		if !folded {
			continue
		}
		with := microsoftNode("FusedMatMul", onnx.IntAttribute("transA", trans[0]), onnx.IntAttribute("transB", trans[1]))
		if gemm {
			with = onnxNode("Gemm", with.Attributes...)
		}
		for _, a := range n.op.Attributes {
			if a.Name != "transA" && a.Name != "transB" {
				with.Attributes = append(with.Attributes, a)
			}
		}
		r.replace(n, with, in...)
	}
}

// swapsMatrix reports whether a Transpose swaps the last two dimensions alone.
func (r *rewriter) swapsMatrix(n *node) bool {
	rank := r.rank(n.in[0])
	perm := n.op.Ints("perm")
	if rank < 2 || perm == nil && rank > 2 || perm != nil && len(perm) != rank {
		return false
	}
	for i, axis := range perm {
		want := i
		switch i {
		case rank - 2:
			want++
		case rank - 1:
			want--
		}
		if int(axis) != want {
			return false
		}
	}
	return true
}
