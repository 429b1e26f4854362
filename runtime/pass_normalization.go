package runtime

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// recogniseNormalizations replaces z/√(mean(z²) + ε), with the weight and the
// bias behind it, by RMSNormalization, and by LayerNormalization where z is x
// without its mean.
func recogniseNormalizations(r *rewriter) {
	for n := range r.nodes() {
		if n.is("Mul", "Div") && r.float(n.out[0]) {
			if x, ok := r.normalized(n); ok {
				x.extend(r)
				x.replace(r)
			}
		}
	}
}

// normalization is what nodes compute together: x normalised over its last
// axes, times a weight, plus a bias.
type normalization struct {
	last         *node
	x            int
	axes         int // how many axes at the end
	centered     bool
	epsilon      float64
	weight, bias int
}

// normalized reads a node as one that normalises, without weight and bias.
func (r *rewriter) normalized(n *node) (*normalization, bool) {
	for i, z := range n.in {
		root, epsilon, ok := r.rootMeanSquare(n, 1-i)
		if !ok || n.is("Div") && i == 1 {
			continue
		}
		squared, axes, ok := r.mean(root)
		if !ok || !r.isSquare(squared, z) {
			continue
		}
		x := &normalization{last: n, x: z, axes: axes, epsilon: epsilon, weight: absent, bias: absent}
		if d := r.madeBy(z, "Sub"); d != nil {
			if of, meanAxes, ok := r.mean(d.in[1]); ok && of == d.in[0] && meanAxes == axes {
				x.x, x.centered = of, true
			}
		}
		return x, true
	}
	return nil, false
}

// rootMeanSquare returns m and ε where a node multiplies by 1/√(m + ε), which
// is made by its input i.
func (r *rewriter) rootMeanSquare(n *node, i int) (m int, epsilon float64, ok bool) {
	v := n.in[i]
	if n.is("Mul") {
		if p := r.madeBy(v, "Pow"); p != nil {
			if x, ok := r.number(p.in[1]); ok && x == -0.5 {
				return r.plus(p.in[0])
			}
			return absent, 0, false
		}
		if p := r.madeBy(v, "Reciprocal"); p != nil {
			v = p.in[0]
		} else if p := r.madeBy(v, "Div"); p != nil {
			if x, ok := r.number(p.in[0]); !ok || x != 1 {
				return absent, 0, false
			}
			v = p.in[1]
		} else {
			return absent, 0, false
		}
	}
	switch root := r.madeBy(v, "Sqrt", "Pow"); {
	case root == nil:
		return absent, 0, false
	case root.is("Pow"):
		if x, ok := r.number(root.in[1]); !ok || x != 0.5 {
			return absent, 0, false
		}
		return r.plus(root.in[0])
	default:
		return r.plus(root.in[0])
	}
}

// plus splits a sum of a value and a small positive number.
func (r *rewriter) plus(v int) (other int, number float64, ok bool) {
	n := r.madeBy(v, "Add")
	if n == nil {
		return absent, 0, false
	}
	other, number, ok = r.scaled(n, true)
	return other, number, ok && number >= 0 && number < 1
}

// mean returns of what, and over how many of the last axes, a value is the
// mean that keeps its dimensions.
func (r *rewriter) mean(v int) (of, axes int, ok bool) {
	n := r.madeBy(v, "ReduceMean")
	if n == nil || n.op.Int("keepdims", 1) != 1 {
		return absent, 0, false
	}
	list, rank := n.op.Ints("axes"), r.rank(n.in[0])
	if n.input(1) != absent {
		t := r.constant(n.in[1])
		if t == nil {
			return absent, 0, false
		}
		list, _ = t.Ints()
	}
	sorted, err := op.Axes(list, max(rank, 0))
	if err != nil || len(sorted) == 0 || sorted[0] != rank-len(sorted) {
		return absent, 0, false
	}
	return n.in[0], len(sorted), true
}

// isSquare reports whether a value is another one squared.
func (r *rewriter) isSquare(v, of int) bool {
	n := r.madeBy(v, "Pow", "Mul")
	if n == nil || n.in[0] != of {
		return false
	}
	if n.is("Mul") {
		return n.in[1] == of
	}
	x, ok := r.number(n.in[1])
	return ok && x == 2
}

// extend takes the nodes behind along that convert, weigh and shift what is
// normalised, as far as nobody else uses what is between.
func (x *normalization) extend(r *rewriter) {
	if cast := r.madeBy(x.x, "Cast"); cast != nil && r.narrower(cast.in[0], x.x) {
		// Half types are normalised in float32, in either form.
		if back := r.follower(x.last, "Cast"); back != nil && r.fact(back.out[0]).Type == r.fact(cast.in[0]).Type {
			x.x, x.last = cast.in[0], back
		}
	}
	if scale := r.follower(x.last, "Mul"); scale != nil {
		if w := other(scale, x.last.out[0]); x.fits(r, w) {
			x.weight, x.last = w, scale
		}
	}
	if x.centered {
		if shift := r.follower(x.last, "Add"); shift != nil {
			if b := other(shift, x.last.out[0]); x.fits(r, b) {
				x.bias, x.last = b, shift
			}
		}
	}
}

// narrower reports whether a has a shorter floating-point type than b.
func (r *rewriter) narrower(a, b int) bool {
	return r.float(a) && r.float(b) && r.fact(a).Type.Bits() < r.fact(b).Type.Bits()
}

// follower returns the only user of what a node makes, where it is one of
// ONNX's operators of the given name.
func (r *rewriter) follower(n *node, opType string) *node {
	if v := n.out[0]; r.only(v) && r.users[v][0].is(opType) {
		return r.users[v][0]
	}
	return nil
}

// other returns the input of a node of two that is not v.
func other(n *node, v int) int {
	if n.in[0] == v {
		return n.in[1]
	}
	return n.in[0]
}

// fits reports whether a weight or bias certainly broadcasts to the axes that
// are normalised, and not beyond.
func (x *normalization) fits(r *rewriter, v int) bool {
	shape, to := r.fact(v).Shape, r.fact(x.x).Shape
	if shape == nil || len(shape) > x.axes || r.fact(v).Type != r.fact(x.x).Type {
		return false
	}
	to = to[len(to)-len(shape):]
	for i, d := range shape {
		if d != 1 && d != to[i] {
			return false
		}
	}
	return true
}

func (x *normalization) replace(r *rewriter) {
	t := r.fact(x.x).Type
	if x.weight == absent {
		one := tensor.New(t)
		tensor.ConvertFloat(one, tensor.Scalar[float32](1))
		x.weight = r.insertConstant("one", one)
	}
	in, opType := []int{x.x, x.weight}, "RMSNormalization"
	if x.centered {
		opType = "LayerNormalization"
		if x.bias != absent {
			in = append(in, x.bias)
		}
	}
	axis, epsilon := onnx.IntAttribute("axis", int64(-x.axes)), onnx.FloatAttribute("epsilon", float32(x.epsilon))
	r.replace(x.last, onnxNode(opType, axis, epsilon), in...)
}
