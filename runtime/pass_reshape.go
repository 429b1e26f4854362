package runtime

import (
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// fixTargets gives a Reshape whose target is computed a constant one, if only
// one dimension is neither a number nor that of the same place in the data.
// What computed the target, often from the same data, is then not needed.
func fixTargets(r *rewriter) {
	for n := range r.nodes() {
		if !n.is("Reshape") || r.constant(n.in[1]) != nil || n.out[0] == absent {
			continue
		}
		if target, ok := fixedTarget(r.fact(n.in[0]).Shape, r.fact(n.out[0]).Shape); ok {
			name := r.program.values[n.in[1]].name + "/fixed"
			r.replace(n, onnxNode("Reshape"), n.in[0], r.insertConstant(name, tensor.FromSlice(target)))
		}
	}
}

// fixedTarget returns what makes Reshape give data of one shape another shape,
// whatever the symbols in them are.
func fixedTarget(data, shape []op.Dim) (target []int64, ok bool) {
	if len(data) == 0 || len(shape) == 0 {
		return nil, false
	}
	target = make([]int64, len(shape))
	open := false
	for i, d := range shape {
		switch {
		case d > 0:
			target[i] = int64(d)
		case i < len(data) && d == data[i]:
			target[i] = 0
		case d == 0 || open:
			return nil, false
		default:
			target[i], open = -1, true
		}
	}
	return target, true
}
