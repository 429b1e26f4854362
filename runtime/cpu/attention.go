package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Attention", floatKernel(bindAttention[float32], bindAttention[float64], 0, 1, 2, 4, 5))
}

func bindAttention[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape, err := op.AttentionDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	a := newAttend[T](shape)
	if scale := n.Attribute("scale"); scale != nil {
		a.scale = float64(scale.Float)
	}
	a.softcap = float64(n.Float("softcap", 0))
	a.q = viewHeads(c.In[0], a.heads, a.queries, a.headSize)
	a.y = viewHeads(c.Out[0], a.heads, a.queries, a.valueSize)
	past, added := int(shape.Past), int(shape.Keys)
	keys := newCache[T](d, shape, a.headSize, viewHeads(c.In[1], a.kvHeads, added, a.headSize),
		viewHeads(at(c.In, 4), a.kvHeads, past, a.headSize), viewHeads(at(c.Out, 1), a.kvHeads, a.keys, a.headSize))
	values := newCache[T](d, shape, a.valueSize, viewHeads(c.In[2], a.kvHeads, added, a.valueSize),
		viewHeads(at(c.In, 5), a.kvHeads, past, a.valueSize), viewHeads(at(c.Out, 2), a.kvHeads, a.keys, a.valueSize))
	a.k, a.v = keys.attended, values.attended
	a.probe, a.probeStage = at(c.Out, 3), int(n.Int("qk_matmul_output_mode", 0))

	lengths := at(c.In, 6)
	left, right := int(n.Int("left_window_size", -1)), int(n.Int("right_window_size", -1))
	if n.Int("is_causal", 0) != 0 {
		right = 0
	}
	a.visible = func(b, i int) (from, to int) {
		offset, to := past, a.keys
		if lengths != nil {
			length := tensor.Of[int64](lengths)[b]
			to = int(min(max(length, 0), int64(a.keys)))
			offset = to - a.queries
		}
		return window(offset+i, left, right, to)
	}
	if mask := at(c.In, 3); mask != nil {
		a.bias = maskBias[T](mask, a.keys, n.Since < 24)
	}
	attend := a.bind(d, c.Scratch)
	return func() error {
		keys.fill()
		values.fill()
		return attend()
	}, nil
}

// window returns the keys among the first length ones that a query at the
// given position sees; a negative bound does not bound.
func window(position, left, right, length int) (from, to int) {
	to = length
	if right >= 0 && right < length { // a larger one could overflow
		to = max(min(to, position+right+1), 0)
	}
	if left >= 0 && left < length+max(position, 0) {
		from = max(position-left, 0)
	}
	return min(from, to), to
}

// inferenceOf states what is known of a call in the form that inference has.
func inferenceOf(n *op.Node, c *device.Call) *op.Inference {
	facts := make([]op.Fact, len(c.In))
	for i, t := range c.In {
		if t != nil {
			facts[i] = op.Fact{Type: t.Type, Shape: op.Dims(t.Shape...)}
		}
	}
	for _, i := range n.Operator.Parameters {
		if t := at(c.In, i); t != nil {
			facts[i].Value = t
		}
	}
	return &op.Inference{Node: n, Inputs: facts, Symbols: &op.Symbols{}}
}

// headView shows a tensor as vectors, one for each batch, head and place in a
// sequence. A vector is contiguous; start and strides count elements.
type headView struct {
	tensor              *tensor.Tensor
	start               int
	batch, head, vector int
}

// viewHeads views a dense tensor [batch, heads, length, size] or, of rank 3,
// [batch, length, heads·size]. Without a tensor it is a view of nothing.
func viewHeads(t *tensor.Tensor, heads, length, size int) headView {
	if t == nil {
		return headView{}
	}
	v := headView{tensor: t, batch: heads * length * size, head: length * size, vector: size}
	if t.Rank() == 3 {
		v.head, v.vector = size, heads*size
	}
	return v
}

// from returns the elements from a vector on.
func from[T simd.Float](v headView, batch, head, i int) []T {
	return tensor.Of[T](v.tensor)[v.start+batch*v.batch+head*v.head+i*v.vector:]
}

// cache is a sequence of keys or values: those of the past followed by new
// ones.
type cache[T simd.Float] struct {
	attended headView
	fill     func() // puts past and new ones together
}

// newCache arranges keys or values of the given size. past and present, the
// output for past and new ones together, may be views of nothing.
func newCache[T simd.Float](d *Device, s *op.AttentionShape, size int, added, past, present headView) cache[T] {
	batch, heads, before, length := int(s.Batch), int(s.KVHeads), int(s.Past), int(s.Past+s.Keys)
	if present.tensor == nil && past.tensor != nil {
		present = viewHeads(tensor.New(past.tensor.Type, batch, heads, length, size), heads, length, size)
	}
	if present.tensor == nil || size == 0 || length == 0 {
		return cache[T]{attended: added, fill: func() {}}
	}
	body := func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b, h := i/heads, i%heads
			if before > 0 {
				copy(from[T](present, b, h, 0), from[T](past, b, h, 0)[:before*size])
			}
			for j := before; j < length; j++ {
				copy(from[T](present, b, h, j), from[T](added, b, h, j-before)[:size])
			}
		}
	}
	grain := max(1, 1<<14/(length*size))
	return cache[T]{attended: present, fill: func() { d.pool.run(batch*heads, grain, body) }}
}

// maskBias returns the function that applies a mask [batch, heads, queries,
// keys], whose dimensions broadcast and of which leading ones may lack, to
// scores. Keys beyond the mask's end are masked, unless broadcastKeys lets a
// mask of one key stand for all.
func maskBias[T simd.Float](mask *tensor.Tensor, keys int, broadcastKeys bool) func(b, h, i, first int, scores []T) {
	var strides [3]int
	width := mask.Shape[mask.Rank()-1]
	for i, stride := mask.Rank()-2, width; i >= 0; i-- {
		if mask.Shape[i] != 1 {
			strides[i+4-mask.Rank()] = stride
		}
		stride *= mask.Shape[i]
	}
	masked := T(math.Inf(-1))
	single := broadcastKeys && width == 1
	return func(b, h, i, first int, scores []T) {
		start := b*strides[0] + h*strides[1] + i*strides[2]
		if mask.Type == onnx.Bool {
			line := tensor.Of[bool](mask)[start:][:width]
			for j := range scores {
				if key := first + j; single && !line[0] || !single && (key >= width || !line[key]) {
					scores[j] = masked
				}
			}
			return
		}
		line := tensor.Of[T](mask)[start:][:width]
		for j := range scores {
			m := masked
			if single {
				m = line[0]
			} else if first+j < width {
				m = line[first+j]
			}
			if m == masked { // also where the score is +∞
				scores[j] = masked
			} else {
				scores[j] += m
			}
		}
	}
}

// attend computes softmax(scale·Q·Kᵀ + bias)·V for every batch and head. Of
// the scores no more than a block of queries is in memory at a time.
type attend[T simd.Float] struct {
	batch, heads, kvHeads int
	queries, keys         int
	headSize, valueSize   int
	scale                 float64
	softcap               float64 // 0 for none

	q, k, v headView
	y       headView // y.tensor is nil where only the probe is wanted

	// visible returns the range of keys that query i of batch b attends.
	visible func(b, i int) (from, to int)
	// bias, where set, adds to the scores of query i and the keys from first
	// on; −∞ hides a key.
	bias func(b, h, i, first int, scores []T)
	// sink, where set, is the score of a head's extra key that has no value.
	sink func(h int) float64

	// probe, where set, receives the scores [batch, heads, queries, keys]: 0
	// as products, 1 after softcap, 2 with bias, 3 as probabilities.
	probe      *tensor.Tensor
	probeStage int
}

func newAttend[T simd.Float](s *op.AttentionShape) *attend[T] {
	return &attend[T]{batch: int(s.Batch), heads: int(s.Heads), kvHeads: int(s.KVHeads),
		queries: int(s.Queries), keys: int(s.Past + s.Keys), headSize: int(s.HeadSize), valueSize: int(s.ValueSize),
		scale: 1 / math.Sqrt(float64(s.HeadSize))}
}

// bind plans the computation. Blocks are of queries of one head, or where
// there is one query, of the heads that share keys and values.
func (a *attend[T]) bind(d *Device, scratch *device.Scratch) func() error {
	if a.batch*a.heads*a.queries == 0 || a.y.tensor == nil && a.probe == nil {
		return func() error { return nil }
	}
	share := a.heads / a.kvHeads
	groups, lines := a.heads, a.queries
	if a.queries == 1 {
		groups, lines = a.kvHeads, share
	}
	rows := min(lines, max(8, min(64, 1<<20/max(a.keys, 1))))
	if a.queries == 1 {
		rows = min(lines, 4) // more would be packed for, and wait for memory
	}
	blocks := (lines + rows - 1) / rows
	products := max(simd.WorkLen[T](rows, a.headSize, a.keys), simd.WorkLen[T](rows, a.keys, a.valueSize))
	space := newWorkspace[T](d, scratch, 0, rows*a.keys+products)
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		for piece := lo; piece < hi; piece++ {
			block := attendBlock{batch: piece / blocks / groups, lines: min(rows, lines-piece%blocks*rows)}
			group, first := piece/blocks%groups, piece%blocks*rows
			if a.queries == 1 {
				block.head, block.kvHead, block.headStep = group*share+first, group, 1
			} else {
				block.head, block.kvHead = group, group/share
				block.query, block.queryStep = first, 1
			}
			a.block(block, work[:rows*a.keys], work[rows*a.keys:])
		}
	}
	grain := max(1, pieceWork/max(1, rows*a.keys*(a.headSize+a.valueSize)))
	return func() error {
		space.open()
		d.pool.run(a.batch*groups*blocks, grain, body)
		return nil
	}
}

// attendBlock is a number of lines of scores of one batch and one head of
// keys: the first line is of head and query, the next ones a step further.
type attendBlock struct {
	batch, kvHead       int
	head, query         int
	headStep, queryStep int
	lines               int
}

func (a *attend[T]) block(at attendBlock, scores, work []T) {
	first, end := a.keys, 0
	for i := range at.lines {
		lo, hi := a.visible(at.batch, at.query+i*at.queryStep)
		first, end = min(first, lo), max(end, hi)
	}
	if a.probe != nil {
		first, end = 0, a.keys
	}
	n := max(0, end-first)
	if n > 0 {
		q := simd.Matrix[T]{Data: from[T](a.q, at.batch, at.head, at.query), Rows: at.lines, Cols: a.headSize,
			RowStride: at.headStep*a.q.head + at.queryStep*a.q.vector, ColStride: 1}
		k := simd.Matrix[T]{Data: from[T](a.k, at.batch, at.kvHead, first), Rows: a.headSize, Cols: n,
			RowStride: 1, ColStride: a.k.vector}
		simd.Multiply(scores, n, q, k, work)
	}
	for i := range at.lines {
		a.line(at.batch, at.head+i*at.headStep, at.query+i*at.queryStep, first, scores[i*n:][:n])
	}
	if a.y.tensor == nil {
		return
	}
	p := simd.RowMajor(scores, at.lines, n)
	v := simd.Matrix[T]{Rows: n, Cols: a.valueSize, RowStride: a.v.vector, ColStride: 1}
	if n > 0 && a.valueSize > 0 {
		v.Data = from[T](a.v, at.batch, at.kvHead, first)
	}
	if a.valueSize > 0 {
		y := from[T](a.y, at.batch, at.head, at.query)
		simd.Multiply(y, at.headStep*a.y.head+at.queryStep*a.y.vector, p, v, work)
	}
}

// line turns the products of a query with the keys from first on into
// probabilities.
func (a *attend[T]) line(b, h, i, first int, scores []T) {
	scale := T(a.scale)
	for j := range scores {
		scores[j] *= scale
	}
	a.show(0, b, h, i, scores)
	if a.softcap > 0 {
		for j, x := range scores {
			scores[j] = T(a.softcap * math.Tanh(float64(x)/a.softcap))
		}
	}
	a.show(1, b, h, i, scores)
	lo, hi := a.visible(b, i)
	hide(scores[:max(0, min(lo-first, len(scores)))])
	hide(scores[max(0, min(hi-first, len(scores))):])
	if a.bias != nil {
		a.bias(b, h, i, first, scores)
	}
	a.show(2, b, h, i, scores)
	if len(scores) > 0 {
		a.softmax(h, scores)
	}
	a.show(3, b, h, i, scores)
}

// softmax leaves zeros where no key is visible.
func (a *attend[T]) softmax(h int, scores []T) {
	top := largest(scores)
	if math.IsInf(float64(top), -1) {
		clear(scores)
		return
	}
	if a.sink == nil {
		softmaxLine(scores, scores)
		return
	}
	sink := a.sink(h)
	top = max(top, T(sink))
	subtract(scores, scores, top)
	expLine(scores)
	factor := T(1 / (sumLine(0.0, scores) + math.Exp(sink-float64(top))))
	for j := range scores {
		scores[j] *= factor
	}
}

func (a *attend[T]) show(stage, b, h, i int, scores []T) {
	if a.probe != nil && a.probeStage == stage {
		copy(tensor.Of[T](a.probe)[((b*a.heads+h)*a.queries+i)*a.keys:], scores)
	}
}

func hide[T simd.Float](scores []T) {
	for j := range scores {
		scores[j] = T(math.Inf(-1))
	}
}
