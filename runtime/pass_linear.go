package runtime

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// linear is a node of Linear in the making.
type linear struct {
	attributes []*onnx.Attribute
	in         [4]int // by slot of Linear
	activation moe.Activation
	out        int
}

// fuseLinear folds into products with a matrix what follows them and is all
// that uses them: the sum with a bias, an activation, the sum with a residual
// of the same shape.
func fuseLinear(r *rewriter) {
	for n := range r.nodes() {
		l := r.linear(n)
		if l == nil {
			continue
		}
		// A part comes only once, and after those that Linear computes before.
		r.foldBias(l)
		r.foldActivation(l)
		r.foldResidual(l)
		if l.out == n.out[0] && l.in[op.LinearBias] == absent {
			continue
		}
		attributes := l.attributes
		if l.activation != moe.Identity {
			attributes = append(attributes, onnx.StringAttribute("activation", string(l.activation)))
		}
		with := &onnx.Node{Domain: moe.Domain, OpType: "Linear", Attributes: attributes}
		r.replaceValues(n, with, l.in[:], []int{l.out})
	}
}

// linear reads a product with a matrix, nil where the node is none.
func (r *rewriter) linear(n *node) *linear {
	l := &linear{in: [4]int{absent, absent, absent, absent}, activation: moe.Identity, out: n.out[0]}
	if !n.is("MatMul", "Gemm") && !(n.op.Operator.Domain == "com.microsoft" && n.op.OpType == "FusedMatMul") ||
		!r.float(l.out) || r.rank(l.out) < 0 || r.rank(n.in[1]) != 2 {
		return nil
	}
	for _, a := range n.op.Attributes {
		switch a.Name {
		case "transB", "alpha":
			l.attributes = append(l.attributes, a)
		case "beta": // of C
			if n.input(2) != absent && a.Float != 1 {
				return nil
			}
		default: // transposes X
			if a.Int != 0 {
				return nil
			}
		}
	}
	l.in[op.LinearX], l.in[op.LinearWeight] = n.in[0], n.in[1]
	if c := n.input(2); c != absent && !r.takeBias(l, c) {
		return nil
	}
	return l
}

// takeBias adds a bias where a value is one.
func (r *rewriter) takeBias(l *linear, v int) bool {
	out, bias := r.fact(l.out).Shape, r.fact(v).Shape
	if l.in[op.LinearBias] != absent || l.activation != moe.Identity || len(out) == 0 || len(bias) != 1 || bias[0] != out[len(out)-1] {
		return false
	}
	l.in[op.LinearBias] = v
	return true
}

// user returns the node that is the only user of what l computes so far, and
// the other of its two inputs, absent where it has one; nil where it has more
// or there is another use.
func (r *rewriter) user(l *linear) (n *node, other int) {
	if !r.only(l.out) {
		return nil, absent
	}
	n = r.users[l.out][0]
	switch {
	case !n.made() || len(n.bodies) > 0:
	case len(n.in) == 1:
		return n, absent
	case len(n.in) == 2 && n.in[0] == l.out:
		return n, n.in[1]
	case len(n.in) == 2:
		return n, n.in[0]
	}
	return nil, absent
}

func (r *rewriter) foldBias(l *linear) {
	if n, other := r.user(l); n != nil && n.is("Add") && r.takeBias(l, other) {
		l.out = n.out[0]
	}
}

func (r *rewriter) foldActivation(l *linear) {
	n, other := r.user(l)
	if n == nil {
		return
	}
	activation := activationOf(n.op)
	if activation == moe.Identity || other != absent && (n.in[0] != l.out || !r.takeBias(l, other)) {
		return
	}
	l.activation, l.out = activation, n.out[0]
}

// activationOf returns the activation that a node applies, to the sum of its
// inputs where it has two, and Identity where it is none that Linear knows.
func activationOf(n *op.Node) moe.Activation {
	swish := func(alpha float32) moe.Activation {
		switch alpha {
		case 1:
			return moe.SiLU
		case 1.702:
			return moe.QuickGELU
		}
		return moe.Identity
	}
	switch n.Operator.Domain + "::" + n.OpType {
	case "::Relu":
		return moe.ReLU
	case "::Gelu":
		if n.String("approximate", "none") == "tanh" {
			return moe.GELUTanh
		}
		return moe.GELU
	case "::Swish":
		return swish(n.Float("alpha", 1))
	case "::Mish":
		return moe.Mish
	case "::HardSwish":
		return moe.HardSwish
	case "::Sigmoid":
		return moe.Sigmoid
	case "::Tanh":
		return moe.Tanh
	case "com.microsoft::BiasGelu":
		return moe.GELU
	case "com.microsoft::FastGelu":
		return moe.GELUTanh
	case "com.microsoft::QuickGelu":
		return swish(n.Float("alpha", 1.702))
	}
	return moe.Identity
}

func (r *rewriter) foldResidual(l *linear) {
	n, other := r.user(l)
	if n == nil || !n.is("Add") || !r.sameDims(l.out, other) {
		return
	}
	l.in[op.LinearResidual], l.out = other, n.out[0]
}

// sameDims reports whether two values have the same shape, as far as it is
// known: symbols may turn out to be different.
func (r *rewriter) sameDims(v, w int) bool {
	a, b := r.fact(v).Shape, r.fact(w).Shape
	if a == nil || len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && (a[i].Known() || b[i].Known()) {
			return false
		}
	}
	return true
}
