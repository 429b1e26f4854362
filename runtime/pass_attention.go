package runtime

import (
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// recogniseAttention replaces softmax(scale·Q·Kᵀ + masks)·V by Attention.
// Reordering of [batch, sequence, heads, size] to [batch, heads, sequence,
// size] and back, and keys and values that are repeated for groups of heads
// become a part of it.
//
// Where every key of a query is masked by −∞ the nodes give NaN, Attention 0.
func recogniseAttention(r *rewriter) {
	for n := range r.nodes() {
		if !n.is("MatMul") || !r.float(n.out[0]) || r.rank(n.out[0]) != 4 {
			continue
		}
		a := attention{rewriter: r, product: n, scale: 1, causal: absent}
		if softmax := r.softmax(n.in[0]); softmax != nil && a.scores(softmax.in[0], maxMasks) && a.operands() {
			a.fuse()
		}
	}
}

// maxMasks bounds how many nodes may lie between scores and softmax.
const maxMasks = 8

// attention is one that the nodes of a program compute.
type attention struct {
	*rewriter
	product *node // of the probabilities and the values
	query   int   // [batch, heads, queries, size]
	keys    int   // transposed: [batch, heads, size, keys]
	scale   float64
	masks   []mask

	causal int // a condition that hides keys behind a query's own place, or absent

	q, k, v headed
}

// mask is what is added to scores, or where number is not 0, a condition for
// keeping a score; else it becomes the number.
type mask struct {
	value    int
	number   float64
	inverted bool // the condition is for the number
}

// softmax returns the Softmax over the last axis that makes a value, used only
// once, perhaps in a longer type.
func (r *rewriter) softmax(v int) *node {
	if cast := r.madeBy(v, "Cast"); cast != nil && r.only(v) && r.narrower(v, cast.in[0]) {
		v = cast.in[0]
	}
	n := r.madeBy(v, "Softmax")
	if n == nil || !r.only(v) {
		return nil
	}
	axis := int64(-1)
	if n.op.Since < 13 {
		axis = 1
	}
	if last, err := op.Axis(n.op.Int("axis", axis), 4); err != nil || last != 3 {
		return nil
	}
	return n
}

// scores reads a value as products of queries and keys with a scale and masks.
func (a *attention) scores(v, depth int) bool {
	n := a.maker(v)
	if n == nil || depth == 0 || !a.hidden(v) || a.rank(v) != 4 {
		return false
	}
	switch {
	case n.is("MatMul"):
		a.query, a.keys = n.in[0], n.in[1]
		return a.rank(a.query) == 4 && a.rank(a.keys) == 4
	case n.is("Cast"):
		return a.float(n.in[0]) && a.scores(n.in[0], depth-1)
	case n.is("Mul", "Div"):
		by, number, ok := a.scaled(n, n.is("Mul"))
		if !ok {
			return false
		}
		if n.is("Div") {
			number = 1 / number
		}
		masks := len(a.masks)
		if !a.scores(by, depth-1) || len(a.masks) > masks { // a mask would be scaled too
			return false
		}
		a.scale *= number
		return true
	case n.is("Add"):
		return a.masked(n.in[0], mask{value: n.in[1]}, depth) || a.masked(n.in[1], mask{value: n.in[0]}, depth)
	case n.is("Where"):
		// A score plus the lowest numbers is that number, so that it may be
		// added.
		if x, ok := a.number(n.in[2]); ok && x < -1e30 {
			return a.masked(n.in[1], mask{value: n.in[0], number: x}, depth)
		}
		x, ok := a.number(n.in[1])
		if ok && x <= -1e4 && a.causal == absent && a.later(n.in[0]) {
			// Every query sees a key, so that the number is as good as −∞.
			a.causal = n.in[0]
			return a.scores(n.in[2], depth-1)
		}
		if ok && x < -1e30 {
			return a.masked(n.in[2], mask{value: n.in[0], number: x, inverted: true}, depth)
		}
	}
	return false
}

// hidden reports whether one node uses a value, and others only its shape.
func (r *rewriter) hidden(v int) bool {
	count := 0
	for _, n := range r.users[v] {
		if !n.is("Shape") {
			count++
		}
	}
	return count == 1 && !r.results[v]
}

// later reports whether a condition is that a key's place is behind that of
// the query, where both are counted from 0.
func (r *rewriter) later(v int) bool {
	n := r.madeBy(v, "Greater", "Unsqueeze", "Reshape")
	for range maxReshapes {
		if n == nil || n.is("Greater") {
			break
		}
		if rank := r.rank(n.in[0]); rank < 2 || !slices.Equal(r.fact(n.out[0]).Shape[r.rank(n.out[0])-2:], r.fact(n.in[0]).Shape[rank-2:]) {
			return false // the last two axes are others
		}
		n = r.madeBy(n.in[0], "Greater", "Unsqueeze", "Reshape")
	}
	if n == nil || !n.is("Greater") {
		return false
	}
	keys, queries := r.fact(n.in[0]).Shape, r.fact(n.in[1]).Shape
	place := r.place(n.in[0])
	return len(keys) >= 1 && len(queries) >= 2 && place != absent && place == r.place(n.in[1]) &&
		keys[len(keys)-1] != 1 && queries[len(queries)-1] == 1 && (len(keys) == 1 || keys[len(keys)-2] == 1) &&
		queries[len(queries)-2] == keys[len(keys)-1]
}

// place returns the range from 0 of which a value is a view.
func (r *rewriter) place(v int) int {
	for range maxReshapes {
		n := r.madeBy(v, "Range", "Unsqueeze", "Reshape")
		if n == nil {
			return absent
		}
		if n.is("Range") {
			start, known := r.number(n.in[0])
			delta, ok := r.number(n.in[2])
			if known && ok && start == 0 && delta == 1 {
				return v
			}
			return absent
		}
		v = n.in[0]
	}
	return absent
}

func (a *attention) masked(scores int, m mask, depth int) bool {
	count := len(a.masks)
	a.masks = append(a.masks, m)
	if a.scores(scores, depth-1) {
		return true
	}
	a.masks, a.causal = a.masks[:count], absent
	return false
}

// headed is a value [batch, heads, sequence, size], or where flat is set
// [batch, sequence, heads, size].
type headed struct {
	value int
	flat  bool
}

// headed reads a value of rank 4, which heads come first in.
func (r *rewriter) headed(v int) headed {
	if n := r.madeBy(v, "Transpose"); n != nil && slices.Equal(n.op.Ints("perm"), []int64{0, 2, 1, 3}) {
		return headed{n.in[0], true}
	}
	return headed{v, false}
}

// shape returns batch, heads, sequence and size.
func (r *rewriter) headedShape(h headed) [4]op.Dim {
	s := [4]op.Dim(r.fact(h.value).Shape)
	if h.flat {
		s[1], s[2] = s[2], s[1]
	}
	return s
}

// operands finds queries, keys and values, and checks that none of them
// broadcasts as Attention would not.
func (a *attention) operands() bool {
	a.query = a.unscaled(a.query)
	a.q = a.headed(a.query)
	a.keys = a.unscaled(a.keys)
	n := a.madeBy(a.keys, "Transpose")
	if n == nil {
		return false
	}
	switch perm := n.op.Ints("perm"); {
	case slices.Equal(perm, []int64{0, 2, 3, 1}):
		a.k = headed{n.in[0], true}
	case slices.Equal(perm, []int64{0, 1, 3, 2}):
		a.k = headed{a.unscaled(n.in[0]), false}
	default:
		return false
	}
	a.v = headed{a.product.in[1], false}
	if a.rank(a.k.value) != 4 || a.rank(a.v.value) != 4 {
		return false
	}
	q, k, v := a.headedShape(a.q), a.headedShape(a.k), a.headedShape(a.v)
	if q[0] != k[0] || q[0] != v[0] || k[1] != v[1] || k[1] != q[1] && k[1] != 1 {
		return false
	}
	if !a.k.flat {
		keys, values := a.shared(a.k.value), a.shared(a.v.value)
		if keys != absent && values != absent && a.fact(keys).Shape[1] == a.fact(values).Shape[1] {
			a.k.value, a.v.value = keys, values
		}
	}
	return true
}

// unscaled returns the value before a multiplication by a number, which the
// attention's scale takes over.
func (a *attention) unscaled(v int) int {
	n := a.madeBy(v, "Mul", "Div")
	if n == nil {
		return v
	}
	from, number, ok := a.scaled(n, n.is("Mul"))
	if !ok || !same(a.fact(from), a.fact(v)) {
		return v
	}
	if n.is("Div") {
		number = 1 / number
	}
	a.scale *= number
	return from
}

// shared returns the value [batch, groups, sequence, size] whose heads a value
// repeats, each as often as the next; absent where there is none.
func (r *rewriter) shared(v int) int {
	joined := r.madeBy(v, "Reshape")
	if joined == nil {
		return absent
	}
	expanded := r.madeBy(joined.in[0], "Expand")
	if expanded == nil {
		return absent
	}
	opened := r.madeBy(expanded.in[0], "Unsqueeze", "Reshape")
	if opened == nil {
		return absent
	}
	from, to := r.fact(opened.in[0]).Shape, r.fact(v).Shape
	one, many := r.fact(opened.out[0]).Shape, r.fact(expanded.out[0]).Shape
	if len(from) != 4 || len(one) != 5 || len(many) != 5 || len(to) != 4 || !from[1].Known() || !many[2].Known() ||
		from[1] == 0 || many[2] > 1<<20 || from[1] > 1<<20 {
		return absent
	}
	whole := []op.Dim{from[0], from[1], many[2], from[2], from[3]}
	if !slices.Equal(one, []op.Dim{from[0], from[1], 1, from[2], from[3]}) || !slices.Equal(many, whole) ||
		!slices.Equal(to, []op.Dim{from[0], from[1] * many[2], from[2], from[3]}) {
		return absent
	}
	return opened.in[0]
}

// fuse puts an Attention node in the place of the nodes.
func (a *attention) fuse() {
	shape := a.headedShape(a.q)
	scores := append(shape[:3:3], a.fact(a.keys).Shape[3])
	bias, ok := a.mask(scores)
	if !ok {
		return
	}
	if a.causal != absent {
		if c := a.fact(a.causal).Shape; !slices.Equal(c[len(c)-2:], scores[2:]) || !a.broadcasts(a.causal, scores) {
			return
		}
	}
	attributes := []*onnx.Attribute{onnx.FloatAttribute("scale", float32(a.scale))}
	in := []int{absent, absent, absent}
	if bias != absent {
		in = append(in, bias)
	}
	if !a.k.flat {
		a.k = a.headed(a.k.value)
	}
	a.v = a.headed(a.v.value)
	groups := a.headedShape(a.k)[1]
	for i, h := range []headed{a.k, a.v} {
		if in[1+i] = a.input(h); in[1+i] == absent {
			return
		}
	}
	if groups.Known() {
		attributes = append(attributes, onnx.IntAttribute("kv_num_heads", int64(groups)))
	}
	behind := a.follower(a.product, "Transpose")
	if behind != nil && !slices.Equal(behind.op.Ints("perm"), []int64{0, 2, 1, 3}) {
		behind = nil
	}
	if a.causal != absent {
		attributes = append(attributes, onnx.IntAttribute("is_causal", 1))
	}
	size := a.fact(a.product.out[0]).Shape[3]
	if behind == nil || !a.q.flat || !shape[1].Known() || !size.Known() {
		if in[0] = a.query; a.rank(in[0]) == 4 {
			a.replace(a.product, onnxNode("Attention", attributes...), in...)
		}
		return
	}
	// Queries and results keep the order [batch, sequence, heads, size].
	if in[0] = a.input(a.q); in[0] == absent {
		return
	}
	attributes = append(attributes, onnx.IntAttribute("q_num_heads", int64(shape[1])))
	width := shape[1] * size
	if join := a.follower(behind, "Reshape"); join != nil && a.joins(join, width) {
		a.replace(join, onnxNode("Attention", attributes...), in...)
		return
	}
	if joined := a.insert(onnxNode("Attention", attributes...), behind.out[0], in...); joined != absent {
		split := a.insertConstant("heads", tensor.FromSlice([]int64{0, 0, int64(shape[1]), int64(size)}))
		a.replace(behind, onnxNode("Reshape"), joined, split)
	}
}

// joins reports whether a Reshape certainly joins the last two of four axes,
// which together have the given length.
func (r *rewriter) joins(n *node, width op.Dim) bool {
	before, after := r.fact(n.in[0]).Shape, r.fact(n.out[0]).Shape
	if slices.Equal(after, []op.Dim{before[0], before[1], width}) {
		return true
	}
	target := r.constant(n.in[1])
	if target == nil || n.op.Int("allowzero", 0) != 0 {
		return false
	}
	list, err := target.Ints()
	return err == nil && len(list) == 3 && list[0] == 0 && list[1] == 0 && (list[2] == -1 || list[2] == int64(width))
}

// input returns queries, keys or values in the form in which Attention takes
// them: [batch, heads, sequence, size] or [batch, sequence, heads·size].
func (r *rewriter) input(h headed) int {
	if !h.flat {
		return h.value
	}
	if v := r.joined(h); v != absent {
		return v
	}
	return r.insert(onnxNode("Transpose", onnx.IntsAttribute("perm", 0, 2, 1, 3)), h.value, h.value)
}

// joined returns the value [batch, sequence, heads·size] of one with heads
// behind the sequence; absent where their number or size is not known.
func (r *rewriter) joined(h headed) int {
	s := r.headedShape(h)
	if !s[1].Known() || !s[3].Known() {
		return absent
	}
	if n := r.madeBy(h.value, "Reshape"); n != nil && slices.Equal(r.fact(n.in[0]).Shape, []op.Dim{s[0], s[2], s[1] * s[3]}) {
		return n.in[0]
	}
	joined := r.insertConstant("joined", tensor.FromSlice([]int64{0, 0, int64(s[1] * s[3])}))
	return r.insert(onnxNode("Reshape"), h.value, h.value, joined)
}

// mask returns the sum of the masks, for scores of the given shape; absent
// where there is none. ok is false where they may not broadcast to the scores.
func (a *attention) mask(scores []op.Dim) (v int, ok bool) {
	v = absent
	for _, m := range a.masks {
		if n := a.madeBy(m.value, "Expand"); n != nil && a.broadcasts(n.in[0], scores) {
			m.value = n.in[0] // it broadcasts by itself
		}
		if !a.broadcasts(m.value, scores) {
			return absent, false
		}
		if m.number != 0 {
			if len(a.masks) == 1 && math.IsInf(m.number, -1) && !m.inverted {
				return m.value, true // Attention takes conditions
			}
			t := a.fact(a.product.out[0]).Type
			number, zero := tensor.New(t), tensor.New(t)
			tensor.ConvertFloat(number, tensor.Scalar(m.number))
			choice := []int{m.value, a.insertConstant("visible", zero), a.insertConstant("hidden", number)}
			if m.inverted {
				choice[1], choice[2] = choice[2], choice[1]
			}
			m.value = a.insert(onnxNode("Where"), m.value, choice...)
		}
		if v != absent && m.value != absent {
			m.value = a.insert(onnxNode("Add"), v, v, m.value)
		}
		if v = m.value; v == absent {
			return absent, false
		}
	}
	return v, true
}

// broadcasts reports whether a mask broadcasts to scores [batch, heads,
// queries, keys]. That a mask of other queries or keys is one of as many is
// left to binding, which fails where it is not.
func (a *attention) broadcasts(v int, scores []op.Dim) bool {
	shape := a.fact(v).Shape
	if len(shape) == 0 || len(shape) > 4 {
		return false
	}
	for i, d := range shape {
		at := 4 - len(shape) + i
		if to := scores[at]; d != 1 && d != to && (at < 2 || d.Known() && to.Known()) {
			return false
		}
	}
	return true
}
