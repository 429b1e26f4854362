package runtime

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// fuseCaches lets Attention append new keys and values to those of the past,
// where a Concat did. With them it has no gradient.
func fuseCaches(r *rewriter) {
	if r.compiler.gradient != nil {
		return
	}
	for n := range r.nodes() {
		if !n.is("Attention") || n.op.Since != 23 || n.input(4) != absent || n.op.Int("is_causal", 0) != 0 ||
			len(n.out) != 1 || !r.grown(n.in[1]) || !r.grown(n.in[2]) {
			continue // causal attention counts places from the end of the past
		}
		in := []int{n.in[0], absent, absent, n.input(3), absent, absent}
		heads := op.Dim(0)
		for i := range 2 {
			concat := r.maker(n.in[1+i])
			added := r.headed(concat.in[1])
			heads = r.headedShape(added)[1]
			in[1+i], in[4+i] = r.input(added), concat.in[0]
		}
		if in[1] == absent || in[2] == absent {
			continue
		}
		with := onnxNode("Attention")
		for _, a := range n.op.Attributes {
			if a.Name != "kv_num_heads" {
				with.Attributes = append(with.Attributes, a)
			}
		}
		if heads.Known() {
			with.Attributes = append(with.Attributes, onnx.IntAttribute("kv_num_heads", int64(heads)))
		}
		r.replaceValues(n, with, in, []int{n.out[0], n.in[1], n.in[2]})
	}
}

// grown reports whether a value [batch, heads, sequence, size] is a past with
// a new part behind, which one node uses and perhaps the caller.
func (r *rewriter) grown(v int) bool {
	n := r.madeBy(v, "Concat")
	if n == nil || len(n.in) != 2 || len(r.users[v]) != 1 || r.rank(n.in[0]) != 4 || r.rank(n.in[1]) != 4 {
		return false
	}
	axis, err := op.Axis(n.op.Int("axis", 0), 4)
	return err == nil && axis == 2
}
