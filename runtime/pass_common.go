package runtime

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// shareCommon lets equal nodes with equal inputs be one node. Exporters
// compute the same shapes and masks in every layer.
func shareCommon(r *rewriter) {
	first := map[string]*node{}
	var key []byte
	for n := range r.nodes() {
		var ok bool
		if key, ok = r.identify(key[:0], n); !ok {
			continue
		}
		one := first[string(key)]
		if one == nil {
			first[string(key)] = n
			continue
		}
		for i, v := range n.out {
			if v != absent && one.out[i] != absent {
				r.substitute(v, one.out[i])
			}
		}
	}
}

// maxShared bounds the elements of constants that are compared by content.
const maxShared = 8

// identify appends to key what a node computes: its operator, attributes and
// inputs. ok is false for a node that is not to be shared.
func (r *rewriter) identify(key []byte, n *node) (_ []byte, ok bool) {
	o := n.op.Operator
	if o.Nondeterministic || len(n.bodies) > 0 || controls[o.Name] != nil && o.Domain == "" {
		return key, false
	}
	key = fmt.Appendf(key, "%s %s %d %d", o.Domain, o.Name, n.op.Since, len(n.out))
	for _, v := range n.in {
		t := r.constant(v)
		if t == nil || t.Len() > maxShared || t.Type == onnx.String {
			key = fmt.Appendf(key, " %d", v)
		} else {
			key = fmt.Appendf(key, " %d%v%x", t.Type, t.Shape, t.Data)
		}
	}
	for _, a := range n.op.Attributes {
		switch a.Type {
		case onnx.AttributeInt, onnx.AttributeFloat, onnx.AttributeString, onnx.AttributeInts, onnx.AttributeFloats:
			key = fmt.Appendf(key, " %s=%d %x %q %d %x", a.Name, a.Int, a.Float, a.String, a.Ints, a.Floats)
		default:
			return key, false
		}
	}
	return key, true
}
