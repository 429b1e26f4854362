package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// attendGradient computes the gradients of an attention. Scores are computed
// again, for a tile of queries and all keys that they see at a time, so that no
// more of them are in memory. With the probabilities P of a tile, dY the
// gradient of the result and ∘ the product of elements:
//
//	dP = dY·Vᵀ    dS = P∘(dP − Σ P∘dP)    dV += Pᵀ·dY    dQ = scale·dS·K    dK += scale·dSᵀ·Q
//
// A key without a value, the sink, has dS = −P·Σ P∘dP. The gradients of a head's
// keys and values are sums over the queries in their
// order. Where few heads would leave threads idle, the queries are cut into
// parts, whose number follows from the shapes alone, and their sums are added
// up at the end.
type attendGradient[T simd.Float] struct {
	*attend[T]
	dy, dq, dk, dv headView
	dscores        *tensor.Tensor // [batch, heads, queries, at most keys], or nil
	dsink          *tensor.Tensor // [batch, heads, queries], or nil
	groups, parts  int
	stride         int // between lines of scores
	space          *workspace[T]
	sums           []T // of each part, where there are several
}

// gradientParts is how many pieces of work are enough for any number of
// threads.
const gradientParts = 16

func bindAttentionGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape, err := op.AttentionDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	a := newAttend[T](shape)
	a.take(c, n, shape, false)
	a.k, a.v = viewHeads(c.In[1], a.kvHeads, a.keys, a.headSize), viewHeads(c.In[2], a.kvHeads, a.keys, a.valueSize)
	like := func(i, heads, length, size int) headView {
		return viewHeads(wanted(c, i, c.In[i].Type, c.In[i].Shape...), heads, length, size)
	}
	if sink := at(c.In, op.AttentionSinkInput); sink != nil {
		a.sink = func(h int) float64 { return float64(tensor.Of[T](sink)[h]) }
	}
	g := &attendGradient[T]{attend: a, dscores: at(c.Out, 3), dsink: at(c.Out, 4), groups: a.batch * a.kvHeads,
		dy: viewHeads(c.In[op.AttentionGradientInput], a.heads, a.queries, a.valueSize),
		dq: like(0, a.heads, a.queries, a.headSize),
		dk: like(1, a.kvHeads, a.keys, a.headSize),
		dv: like(2, a.kvHeads, a.keys, a.valueSize),
	}
	if a.batch*a.heads*a.queries*a.keys*a.headSize*a.valueSize == 0 {
		return func() error {
			for _, t := range []*tensor.Tensor{g.dq.tensor, g.dk.tensor, g.dv.tensor, g.dscores, g.dsink} {
				if t != nil {
					clear(t.Data)
				}
			}
			return nil
		}, nil
	}
	return g.bind(d, c.Scratch), nil
}

func (g *attendGradient[T]) bind(d *Device, scratch *device.Scratch) func() error {
	g.cut()
	g.stride = roundUp(g.keys, simd.TileCols[T]())
	g.parts = min(g.tiles, ceilDiv(gradientParts, g.groups))
	used := 0
	if g.parts > 1 {
		used = g.groups * g.parts * g.sumLen()
	}
	g.space = newWorkspace[T](d, scratch, used, newGradientMemory(g, nil).length)
	body := func(lo, hi int) {
		number, work := g.space.take()
		defer g.space.give(number)
		memory := newGradientMemory(g, work)
		for piece := lo; piece < hi; piece++ {
			g.piece(piece/g.parts, piece%g.parts, &memory)
		}
	}
	total := g.total
	grain := max(1, pieceWork/max(1, g.tileQueries*g.keys*(g.headSize+g.valueSize)))
	return func() error {
		g.sums = g.space.open()
		d.pool.run(g.groups*g.parts, grain, body)
		if g.parts > 1 {
			d.pool.run(g.groups*g.keys, max(1, 4096/(g.headSize+g.valueSize)), total)
		}
		return nil
	}
}

// sumLen is the number of elements of a head's keys and values.
func (g *attendGradient[T]) sumLen() int { return g.keys * (g.headSize + g.valueSize) }

// gradientMemory is what a piece works in.
type gradientMemory[T simd.Float] struct {
	length int

	keys, values []T // packed, transposed, for products with queries and dY
	rows         []T // keys packed as they are, for products with dS

	left    []T // packed queries, or dY
	right   []T // these packed as right-hand operands
	weights []T // packed P or dS, transposed or not

	probabilities, scores []T // P and dP, which becomes dS
	slopes                []T // of the softcap
}

// newGradientMemory cuts memory into its parts, or only finds its length where
// memory is nil.
func newGradientMemory[T simd.Float](g *attendGradient[T], memory []T) (m gradientMemory[T]) {
	take := func(n int) []T {
		from := m.length
		m.length += roundUp(n, 16)
		if memory == nil {
			return nil
		}
		return memory[from:m.length]
	}
	size := max(g.headSize, g.valueSize)
	m.keys, m.values = take(g.headSize*g.stride), take(g.valueSize*g.stride)
	m.rows = take(simd.ColsLen[T](g.keys, g.headSize))
	m.left, m.right = take(simd.RowsLen[T](g.tileQueries, size)), take(simd.ColsLen[T](g.tileQueries, size))
	m.weights = take(max(simd.RowsLen[T](g.keys, g.tileQueries), simd.RowsLen[T](g.tileQueries, g.keys)))
	m.probabilities, m.scores = take(g.tileQueries*g.stride), take(g.tileQueries*g.stride)
	if g.softcap > 0 {
		m.slopes = take(g.tileQueries * g.stride)
	}
	return m
}

// headSum is the gradient of a head's keys or values, vectors that lie stride
// apart.
type headSum[T simd.Float] struct {
	data   []T
	stride int
}

// piece computes a part of the queries that share keys and values.
func (g *attendGradient[T]) piece(group, part int, m *gradientMemory[T]) {
	batch, kvHead := group/g.kvHeads, group%g.kvHeads
	k, v := g.operands(batch, kvHead, 0, g.keys)
	simd.PackCols(m.keys, k)
	simd.PackCols(m.values, transposed(v))
	simd.PackCols(m.rows, transposed(k))
	dk := headSum[T]{from[T](g.dk, batch, kvHead, 0), g.dk.vector}
	dv := headSum[T]{from[T](g.dv, batch, kvHead, 0), g.dv.vector}
	if g.parts > 1 {
		own := g.sums[(group*g.parts+part)*g.sumLen():]
		dk, dv = headSum[T]{own, g.headSize}, headSum[T]{own[g.keys*g.headSize:], g.valueSize}
	}
	for j := range g.keys {
		clear(dk.data[j*dk.stride:][:g.headSize])
		clear(dv.data[j*dv.stride:][:g.valueSize])
	}
	for i := part * g.tiles / g.parts; i < (part+1)*g.tiles/g.parts; i++ {
		g.tile(g.attend.tile(batch, kvHead, i), dk, dv, m)
	}
}

func transposed[T simd.Float](m simd.Matrix[T]) simd.Matrix[T] {
	m.Rows, m.Cols, m.RowStride, m.ColStride = m.Cols, m.Rows, m.ColStride, m.RowStride
	return m
}

// tile adds what a tile of queries contributes.
func (g *attendGradient[T]) tile(t attendTile, dk, dv headSum[T], m *gradientMemory[T]) {
	begin, end := g.sees(t)
	unit := simd.TileCols[T]()
	first := begin / unit * unit
	n := end - first
	q, dy, dq := tileOf[T](t, g.q, g.headSize), tileOf[T](t, g.dy, g.valueSize), tileOf[T](t, g.dq, g.headSize)
	if begin >= end { // nothing is visible
		for i := range t.lines {
			clear(dq.Data[i*dq.RowStride:][:g.headSize])
			g.showScores(t, i, 0, nil)
			g.showSink(t, i, 0)
		}
		return
	}
	// multiply gives the products of a tile's vectors with packed keys or
	// values.
	multiply := func(out []T, lines simd.Matrix[T], factor float64, packed []T) {
		simd.PackRows(m.left, lines)
		if factor != 1 {
			scaleLine(m.left[:simd.RowsLen[T](t.lines, lines.Cols)], T(factor))
		}
		simd.MultiplyPanels(out, g.stride, m.left, packed[first*lines.Cols:], t.lines, roundUp(n, unit), lines.Cols, lines.Cols, false)
	}
	multiply(m.probabilities, q, g.scale, m.keys)
	multiply(m.scores, dy, 1, m.values)
	weights := func(data []T) simd.Matrix[T] {
		return simd.Matrix[T]{Data: data, Rows: t.lines, Cols: n, RowStride: g.stride, ColStride: 1}
	}
	// add adds the products of transposed weights with a tile's vectors.
	add := func(to headSum[T], data []T, lines simd.Matrix[T]) {
		simd.PackRows(m.weights, transposed(weights(data)))
		simd.PackCols(m.right, lines)
		simd.MultiplyPanels(to.data[first*to.stride:], to.stride, m.weights, m.right, n, lines.Cols, t.lines, t.lines, true)
	}
	for i := range t.lines {
		p, ds := m.probabilities[i*g.stride:][:n], m.scores[i*g.stride:][:n]
		var slopes []T
		if g.softcap > 0 {
			slopes = m.slopes[i*g.stride:][:n]
		}
		if sink, dependent := g.normalize(t, i, first, p, slopes); dependent {
			mean := simd.Dot(p, ds)
			normalizeLine(ds, ds, p, nil, mean, 1)
			g.showSink(t, i, -sink*mean)
		} else {
			clear(ds)
			g.showSink(t, i, 0)
		}
		g.showScores(t, i, first, ds)
		if slopes != nil {
			multiplyTo(ds, slopes)
		}
		scaleLine(ds, T(g.scale))
	}
	add(dv, m.probabilities, dy)
	add(dk, m.scores, q)
	simd.PackRows(m.weights, weights(m.scores))
	simd.MultiplyPanels(dq.Data, dq.RowStride, m.weights, m.rows[first*unit:], t.lines, g.headSize, n, g.keys, false)
}

// tileOf returns a tile's vectors of the given size.
func tileOf[T simd.Float](t attendTile, v headView, size int) simd.Matrix[T] {
	return simd.Matrix[T]{Data: from[T](v, t.batch, t.head, t.query), Rows: t.lines, Cols: size,
		RowStride: t.headStep*v.head + t.queryStep*v.vector, ColStride: 1}
}

// normalize turns the products of a query with the keys from first on into
// probabilities, and gives the slopes of the softcap if there is one. It
// returns the probability of the sink, and whether probabilities depend on the
// products, which the lowest numbers of a mask swallow where they hide all keys.
func (g *attendGradient[T]) normalize(t attendTile, line, first int, scores, slopes []T) (sink T, dependent bool) {
	h, i := t.head+line*t.headStep, t.query+line*t.queryStep
	if slopes != nil {
		scaleLine(scores, T(1/g.softcap))
		tanhLine(scores)
		for j, x := range scores {
			slopes[j] = 1 - x*x
		}
		scaleLine(scores, T(g.softcap))
	}
	lo, hi := g.visible(t.batch, i)
	lo = min(max(lo-first, 0), len(scores))
	hi = max(min(hi-first, len(scores)), lo)
	seen := scores[lo:hi]
	if g.bias != nil && len(seen) > 0 {
		g.bias(t.batch, h, i, first+lo, seen)
	}
	clear(scores[:lo])
	clear(scores[hi:])
	top, extra := greatest(seen), math.Inf(-1)
	if g.sink != nil {
		extra = g.sink(h)
		top = max(top, T(extra))
	}
	if math.IsInf(float64(top), -1) {
		clear(seen)
		return 0, false
	}
	extra = math.Exp(extra - float64(top))
	total := expSumLine(seen, seen, top) + extra
	scaleLine(seen, T(1/total))
	return T(extra / total), top > -1e30
}

// showSink gives the gradient of the score of a query's sink.
func (g *attendGradient[T]) showSink(t attendTile, line int, ds T) {
	if g.dsink != nil {
		h, i := t.head+line*t.headStep, t.query+line*t.queryStep
		tensor.Of[T](g.dsink)[(t.batch*g.heads+h)*g.queries+i] = ds
	}
}

// showScores gives the gradient of the scores of a query and the keys from
// first on, 0 for other keys.
func (g *attendGradient[T]) showScores(t attendTile, line, first int, ds []T) {
	if g.dscores == nil {
		return
	}
	h, i := t.head+line*t.headStep, t.query+line*t.queryStep
	width := g.dscores.Shape[3]
	row := tensor.Of[T](g.dscores)[((t.batch*g.heads+h)*g.queries+i)*width:][:width]
	clear(row[:min(first, width)])
	copied := 0
	if first < width {
		copied = copy(row[first:], ds)
	}
	clear(row[min(first+copied, width):])
}

// total adds up the sums of parts, in their order, for some keys of all heads.
func (g *attendGradient[T]) total(lo, hi int) {
	for i := lo; i < hi; i++ {
		group, key := i/g.keys, i%g.keys
		batch, kvHead := group/g.kvHeads, group%g.kvHeads
		dk := from[T](g.dk, batch, kvHead, key)[:g.headSize]
		dv := from[T](g.dv, batch, kvHead, key)[:g.valueSize]
		for part := range g.parts {
			own := g.sums[(group*g.parts+part)*g.sumLen():]
			k, v := own[key*g.headSize:][:g.headSize], own[g.keys*g.headSize+key*g.valueSize:][:g.valueSize]
			if part == 0 {
				copy(dk, k)
				copy(dv, v)
			} else {
				addTo(dk, k)
				addTo(dv, v)
			}
		}
	}
}
