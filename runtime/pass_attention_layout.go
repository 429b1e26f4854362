package runtime

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// layOutAttentions feeds attention with queries, keys and values [batch,
// sequence, heads·size], as projections make them, where a transposition
// brings them to [batch, heads, sequence, size], perhaps before rotary
// embeddings; and takes its result in that form where it is transposed back.
func layOutAttentions(r *rewriter) {
	for n := range r.nodes() {
		if n.is("Attention") && n.out[0] != absent && (n.op.Since < 24 || n.input(3) == absent) { // they read masks otherwise
			r.layOutAttention(n)
		}
	}
}

func (r *rewriter) layOutAttention(n *node) {
	in := slices.Clone(n.in)
	with := onnxNode("Attention", slices.Clone(n.op.Attributes)...)
	beside := func(i int, attribute string) bool {
		v, heads := r.headsBeside(n.in[i])
		if v == absent {
			return false
		}
		in[i] = v
		with.Attributes = slices.DeleteFunc(with.Attributes, func(a *onnx.Attribute) bool { return a.Name == attribute })
		with.Attributes = append(with.Attributes, onnx.IntAttribute(attribute, heads))
		return true
	}
	key, value := beside(1, "kv_num_heads"), beside(2, "kv_num_heads")
	back := r.transposedBack(n)
	if back == nil || !beside(0, "q_num_heads") {
		if key || value {
			r.replace(n, with, in...)
		}
		return
	}
	y := r.fact(n.out[0])
	heads, size := y.Shape[1], y.Shape[3]
	out := slices.Clone(n.out)
	out[0] = r.value(r.program.values[back.out[0]].name+"/joined",
		op.Fact{Type: y.Type, Shape: []op.Dim{y.Shape[0], y.Shape[2], heads * size}})
	if r.replaceValues(n, with, in, out) {
		split := tensor.FromSlice([]int64{0, 0, int64(heads), int64(size)})
		r.replace(back, onnxNode("Reshape"), out[0], r.insertConstant("heads", split))
	}
}

// transposedBack returns the node that brings the result of an attention to
// [batch, sequence, heads, size], if that is all that is done with it.
func (r *rewriter) transposedBack(n *node) *node {
	y := n.out[0]
	shape := r.fact(y).Shape
	if !r.only(y) || len(shape) != 4 || !positive(shape[1]) || !positive(shape[3]) || !r.swapsHeads(r.users[y][0]) {
		return nil
	}
	return r.users[y][0]
}

// headsBeside returns the value [batch, sequence, heads·size] of the elements
// of v [batch, heads, sequence, size] and the number of heads, absent where v
// is not made from such a value or something else uses it too.
func (r *rewriter) headsBeside(v int) (beside int, heads int64) {
	n, shape := r.maker(v), r.fact(v).Shape
	if n == nil || !r.only(v) || len(shape) != 4 || !positive(shape[1]) || !positive(shape[3]) {
		return absent, 0
	}
	heads = int64(shape[1])
	switch {
	case r.swapsHeads(n):
		joined := tensor.FromSlice([]int64{0, 0, heads * int64(shape[3])})
		return r.insert(onnxNode("Reshape"), n.in[0], n.in[0], r.insertConstant("heads", joined)), heads
	case n.op.OpType == "RotaryEmbedding":
		in := slices.Clone(n.in)
		if in[0], _ = r.headsBeside(n.in[0]); in[0] == absent {
			return absent, 0
		}
		with := &onnx.Node{Domain: n.op.Operator.Domain, OpType: n.op.OpType, Attributes: slices.Clone(n.op.Attributes)}
		with.Attributes = slices.DeleteFunc(with.Attributes, func(a *onnx.Attribute) bool { return a.Name == "num_heads" })
		with.Attributes = append(with.Attributes, onnx.IntAttribute("num_heads", heads))
		return r.insert(with, v, in...), heads
	}
	return absent, 0
}

// swapsHeads reports whether a node exchanges axes 1 and 2 of 4.
func (r *rewriter) swapsHeads(n *node) bool {
	if !n.is("Transpose") || r.rank(n.in[0]) != 4 {
		return false
	}
	perm, err := op.Permutation(n.op, 4)
	return err == nil && slices.Equal(perm, []int{0, 2, 1, 3})
}

// positive reports whether a dimension is known and not 0, which a Reshape
// would take for something else.
func positive(d op.Dim) bool { return d.Known() && d > 0 }
