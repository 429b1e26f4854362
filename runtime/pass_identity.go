package runtime

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// removeIdentities lets what uses the output of a node that changes nothing
// use its input, and makes one of several reshapes.
func removeIdentities(r *rewriter) {
	for n := range r.nodes() {
		if v, ok := r.identity(n); ok && same(r.fact(v), r.fact(n.out[0])) {
			r.substitute(n.out[0], v)
		} else if n.is("Reshape") {
			r.reshapeOnce(n)
		}
	}
}

// maxReshapes bounds how many reshapes are looked through.
const maxReshapes = 4

// reshapeOnce lets a Reshape take the value before other reshapes, or its
// users that value, if it gives back its shape.
func (r *rewriter) reshapeOnce(n *node) {
	v := n.in[0]
	for range maxReshapes {
		before := r.madeBy(v, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
		if before == nil {
			break
		}
		if v = before.in[0]; same(r.fact(v), r.fact(n.out[0])) {
			r.substitute(n.out[0], v)
			return
		}
	}
	// A 0 in the target copies a dimension of what is reshaped.
	if target := r.constant(n.in[1]); v != n.in[0] && target != nil && r.rank(v) >= 0 {
		if list, err := target.Ints(); err == nil && !slices.Contains(list, 0) {
			r.replace(n, onnxNode("Reshape"), v, n.in[1])
		}
	}
}

// same reports whether two values certainly have one type and one shape.
func same(a, b op.Fact) bool {
	return a.Type == b.Type && a.Type != onnx.Undefined && a.Shape != nil && b.Shape != nil && slices.Equal(a.Shape, b.Shape)
}

// identity returns the input whose elements are those of the node's output,
// provided that types and shapes are the same.
func (r *rewriter) identity(n *node) (v int, ok bool) {
	if n.out[0] == absent || n.op.Operator.Domain != "" {
		return absent, false
	}
	switch n.op.OpType {
	case "Identity", "Reshape", "Flatten", "Expand":
		return n.in[0], true
	case "Cast":
		if wide := r.madeBy(n.in[0], "Cast"); wide != nil && r.narrower(wide.in[0], n.in[0]) {
			return wide.in[0], true // and back
		}
		return n.in[0], true
	case "Sum", "Max", "Min", "Mean":
		return n.in[0], len(n.in) == 1
	case "Concat":
		return r.onlyPart(n)
	case "Slice":
		p := r.part(n.out[0])
		return p.of, p.of != absent
	case "Dropout":
		training := n.op.Since >= 12 && n.input(2) != absent
		if training {
			on, known := r.number(n.in[2])
			training = !known || on != 0
		}
		return n.in[0], !training && (len(n.out) < 2 || n.out[1] == absent)
	case "Mul":
		v, x, ok := r.scaled(n, true)
		return v, ok && x == 1
	case "Div":
		v, x, ok := r.scaled(n, false)
		return v, ok && x == 1
	case "Transpose":
		if rank := r.rank(n.in[0]); rank >= 0 {
			perm, err := op.Permutation(n.op, rank)
			return n.in[0], err == nil && slices.IsSorted(perm)
		}
	}
	return absent, false
}

// onlyPart returns the input of a Concat beside which the others are empty.
func (r *rewriter) onlyPart(n *node) (v int, ok bool) {
	axis, err := op.Axis(n.op.Int("axis", 0), max(r.rank(n.out[0]), 0))
	if err != nil {
		return absent, false
	}
	v = absent
	for _, in := range n.in {
		if shape := r.fact(in).Shape; axis < len(shape) && shape[axis] == 0 {
			continue
		}
		if v != absent {
			return absent, false
		}
		v = in
	}
	return v, v != absent
}
