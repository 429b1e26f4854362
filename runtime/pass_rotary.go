package runtime

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// recogniseRotary replaces x·cos + rotated(x)·sin by RotaryEmbedding, where
// rotated(x) is the second half of the last axis negated, then the first half,
// and the angles of both halves are the same. Where x is a part of a longer
// axis whose rest is put behind the result, that is a part of it.
func recogniseRotary(r *rewriter) {
	ro := rotary{r, map[int]int{}}
	for n := range r.nodes() {
		if n.is("Add") && r.float(n.out[0]) && r.rank(n.out[0]) == 4 {
			_ = ro.recognise(n, n.in[0], n.in[1]) || ro.recognise(n, n.in[1], n.in[0])
		}
	}
}

// rotary finds rotary embeddings in a program.
type rotary struct {
	*rewriter
	tables map[int]int // the first halves of cosines and sines
}

// recognise replaces a sum of straight, a value times cosines, and crossed,
// the rotated value times sines.
func (r *rotary) recognise(sum *node, straight, crossed int) bool {
	a, b := r.madeBy(straight, "Mul"), r.madeBy(crossed, "Mul")
	if a == nil || b == nil {
		return false
	}
	for i := range 2 {
		x, ok := r.rotated(b.in[i])
		if !ok || x != a.in[0] && x != a.in[1] {
			continue
		}
		cos, sin := r.table(other(a, x), "Cos"), r.table(b.in[1-i], "Sin")
		if cos != absent && sin != absent && r.replaceRotary(sum, x, cos, sin) {
			return true
		}
	}
	return false
}

// rotated returns of what value, whose last axis has an even length, another
// is the second half negated and then the first.
func (r *rotary) rotated(v int) (x int, ok bool) {
	n := r.madeBy(v, "Concat")
	if n == nil || len(n.in) != 2 || !r.lastAxis(n) {
		return absent, false
	}
	negated := r.madeBy(n.in[0], "Neg")
	if negated == nil {
		return absent, false
	}
	second, first := r.part(negated.in[0]), r.part(n.in[1])
	x = first.of
	if x == absent || second.of != x || r.rank(x) != 4 {
		return absent, false
	}
	length := r.fact(x).Shape[3]
	return x, length.Known() && length > 0 && length%2 == 0 && first.from == 0 && first.length == length/2 &&
		second.from == length/2 && second.length == length/2
}

// lastAxis reports whether the attribute axis means the last one.
func (r *rewriter) lastAxis(n *node) bool {
	rank := r.rank(n.out[0])
	axis, err := op.Axis(n.op.Int("axis", 0), max(rank, 0))
	return err == nil && axis == rank-1
}

// part is a part of a value's last axis.
type part struct {
	of           int // the whole, absent where there is none
	from, length op.Dim
}

// part reads a value as a part of another.
func (r *rewriter) part(v int) part {
	none := part{of: absent}
	n := r.maker(v)
	if n == nil || !n.is("Slice", "Split") || r.rank(n.in[0]) < 1 {
		return none
	}
	shape := r.fact(n.in[0]).Shape
	last := len(shape) - 1
	if !shape[last].Known() {
		return none
	}
	if n.is("Split") {
		p := part{of: n.in[0]}
		if !r.lastAxis(n) {
			return none
		}
		for _, out := range n.out {
			if out == absent || !r.fact(out).Shape[last].Known() {
				return none
			}
			if p.length = r.fact(out).Shape[last]; out == v {
				return p
			}
			p.from += p.length
		}
		return none
	}
	strides, err := op.SliceStrides(n.op, shape, func(i int) ([]int64, bool) {
		t := r.constant(n.input(i))
		if t == nil {
			return nil, false
		}
		list, err := t.Ints()
		return list, err == nil
	})
	if err != nil || len(strides) != len(shape) || strides[last].Step != 1 {
		return none
	}
	for i, s := range strides[:last] {
		if s.Start != 0 || s.Step != 1 || s.Length != shape[i] {
			return none
		}
	}
	return part{n.in[0], op.Dim(strides[last].Start), strides[last].Length}
}

// table returns the first half, [sequence, size/2] or [batch, sequence,
// size/2], of cosines or sines whose halves are equal and which broadcast to
// [batch, heads, sequence, size]; absent where v is none.
func (r *rotary) table(v int, function string) int {
	whole := v
	if opened := r.madeBy(v, "Unsqueeze", "Reshape"); opened != nil {
		whole = opened.in[0]
		from, to := r.fact(whole).Shape, r.fact(v).Shape
		if !(len(from) == 3 && slices.Equal(to, []op.Dim{from[0], 1, from[1], from[2]})) &&
			!(len(from) == 2 && slices.Equal(to, []op.Dim{1, 1, from[0], from[1]})) {
			return absent
		}
	} else if r.rank(v) != 2 {
		return absent
	}
	last := r.rank(whole) - 1
	size := r.fact(whole).Shape[last]
	if !size.Known() || size%2 != 0 {
		return absent
	}
	if half, ok := r.tables[whole]; ok {
		return half
	}
	// Scaling and conversion keep the halves equal.
	at := whole
	for range 3 {
		n := r.madeBy(at, "Cast", "Mul")
		if n == nil {
			break
		}
		if at = n.in[0]; n.is("Mul") {
			if at, _, _ = r.scaled(n, true); at == absent {
				return absent
			}
		}
	}
	f := r.madeBy(at, function)
	if f == nil {
		return absent
	}
	if twice := r.madeBy(f.in[0], "Concat"); twice == nil || len(twice.in) != 2 || twice.in[0] != twice.in[1] || !r.lastAxis(twice) {
		return absent
	}
	ints := func(v int64) int { return r.insertConstant("half", tensor.FromSlice([]int64{v})) }
	half := r.insert(onnxNode("Slice"), whole, whole, ints(0), ints(int64(size/2)), ints(int64(last)))
	if half != absent && last == 2 && r.fact(half).Shape[0] == 1 { // one table for all
		half = r.insert(onnxNode("Reshape"), half, half, r.insertConstant("table", tensor.FromSlice([]int64{-1, int64(size / 2)})))
	}
	r.tables[whole] = half
	return half
}

// replaceRotary puts a RotaryEmbedding in the place of a sum.
func (r *rotary) replaceRotary(sum *node, x, cos, sin int) bool {
	rotated := r.fact(x).Shape[3]
	table, shape := r.fact(cos).Shape, r.fact(x).Shape
	if !slices.Equal(table, r.fact(sin).Shape) || !slices.Equal(table[len(table)-2:], []op.Dim{shape[2], rotated / 2}) ||
		len(table) == 3 && table[0] != shape[0] || !same(r.fact(x), r.fact(sum.out[0])) {
		return false
	}
	last := sum
	if p := r.part(x); p.of != absent && p.from == 0 {
		if join := r.follower(sum, "Concat"); join != nil && len(join.in) == 2 && join.in[0] == sum.out[0] && r.lastAxis(join) {
			rest := r.part(join.in[1])
			if rest.of == p.of && rest.from == p.length && same(r.fact(p.of), r.fact(join.out[0])) {
				x, last = p.of, join
			}
		}
	}
	with, in := onnxNode("RotaryEmbedding"), []int{x, cos, sin}
	if len(table) == 2 {
		// ONNX Runtime's operator takes one table for all, from a position on.
		with, in = microsoftNode("RotaryEmbedding"), []int{x, r.insertConstant("start", tensor.FromSlice([]int64{0})), cos, sin}
	}
	if size := r.fact(x).Shape[3]; size != rotated {
		with.Attributes = append(with.Attributes, onnx.IntAttribute("rotary_embedding_dim", int64(rotated)))
	}
	// Heads stay behind the sequence, where attention takes them from.
	h := r.headed(x)
	s := r.headedShape(h)
	if !h.flat || !s[1].Known() || s[1] == 0 || !s[3].Known() {
		return r.replace(last, with, in...)
	}
	if in[0] = r.joined(h); in[0] == absent {
		return false
	}
	with.Attributes = append(with.Attributes, onnx.IntAttribute("num_heads", int64(s[1])))
	y := r.insert(with, last.out[0], in...)
	if y == absent {
		return false
	}
	split := r.insertConstant("heads", tensor.FromSlice([]int64{0, 0, int64(s[1]), int64(s[3])}))
	y = r.insert(onnxNode("Reshape"), last.out[0], y, split)
	return y != absent && r.replace(last, onnxNode("Transpose", onnx.IntsAttribute("perm", 0, 2, 1, 3)), y)
}
