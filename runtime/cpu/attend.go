package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// attend computes softmax(scale·Q·Kᵀ + bias)·V for every batch and head. It
// goes through tiles of queries × keys and keeps, for each query, the sum of
// the values so far in terms of the greatest score so far, so that no more
// scores than a tile's are in memory (Dao, "FlashAttention-2", arXiv
// 2307.08691). Tiles in which no query sees a key are left out.
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

	// The sizes of tiles follow from the shapes alone, as results depend on
	// them.
	tileQueries, tileKeys int
	tiles                 int  // of queries that share keys and values
	packed                bool // whether keys and values are packed
}

func newAttend[T simd.Float](s *op.AttentionShape) *attend[T] {
	return &attend[T]{batch: int(s.Batch), heads: int(s.Heads), kvHeads: int(s.KVHeads),
		queries: int(s.Queries), keys: int(s.Past + s.Keys), headSize: int(s.HeadSize), valueSize: int(s.ValueSize),
		scale: 1 / math.Sqrt(float64(s.HeadSize))}
}

const (
	// A tile's scores, and the packed queries and keys behind them, stay in
	// the first two caches.
	maxTileQueries = 48
	maxTileKeys    = 128

	// Up to fewQueries queries wait for keys and values to come from memory,
	// which are then read where they lie, in long tiles.
	fewQueries  = 4
	fewTileKeys = 1024

	// pieceTiles is up to how many tiles of queries go through keys and values
	// that are packed once for all of them.
	pieceTiles = 8
)

// bind plans the computation. A piece of it is a number of tiles of queries
// that share keys and values.
func (a *attend[T]) bind(d *Device, scratch *device.Scratch) func() error {
	if a.batch*a.heads*a.queries == 0 || a.y.tensor == nil && a.probe == nil {
		return func() error { return nil }
	}
	a.cut()
	each, groups := min(a.tiles, pieceTiles), a.batch*a.kvHeads
	for each > 1 && groups*ceilDiv(a.tiles, each) < 4*d.pool.threads {
		each = (each + 1) / 2
	}
	pieces := ceilDiv(a.tiles, each)
	space := newWorkspace[T](d, scratch, 0, newAttendMemory(a, each, nil).length)
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		memory := newAttendMemory(a, each, work)
		for piece := lo; piece < hi; piece++ {
			group, first := piece/pieces, piece%pieces*each
			a.piece(group/a.kvHeads, group%a.kvHeads, first, min(each, a.tiles-first), &memory)
		}
	}
	grain := max(1, pieceWork/max(1, each*a.tileQueries*a.keys*(a.headSize+a.valueSize)))
	return func() error {
		space.open()
		d.pool.run(groups*pieces, grain, body)
		return nil
	}
}

// cut chooses the sizes of tiles.
func (a *attend[T]) cut() {
	lines, groups := a.queries, a.heads/a.kvHeads
	if a.queries == 1 { // a tile is of heads that share keys and values
		lines, groups = groups, 1
	}
	a.tileQueries = min(lines, maxTileQueries)
	a.tiles = groups * ceilDiv(lines, a.tileQueries)
	a.packed = lines > fewQueries
	a.tileKeys = maxTileKeys
	if !a.packed {
		a.tileKeys = fewTileKeys
	}
	if a.probe != nil { // shows whole lines
		a.tileKeys = a.keys
	}
	a.tileKeys = max(1, min(a.tileKeys, a.keys))
}

func ceilDiv(n, by int) int { return (n + by - 1) / by }

// attendMemory is what a piece works in.
type attendMemory[T simd.Float] struct {
	length int

	// What is kept for each query: its elements times the scale; the weighted
	// sum of values; the greatest score, which has weight 1; and the sum of
	// weights.
	queries, sums, top, total []T
	queriesLen                int // elements of the queries of a tile
	width                     int // elements of a sum

	scores, keys, values, work []T
	stride                     int // elements between lines of scores
}

// newAttendMemory cuts memory for a number of tiles into its parts, or only
// finds its length where memory is nil.
func newAttendMemory[T simd.Float](a *attend[T], tiles int, memory []T) attendMemory[T] {
	m := attendMemory[T]{
		width: roundUp(a.valueSize, simd.TileCols[T]()), stride: roundUp(a.tileKeys, simd.TileCols[T]()),
		queriesLen: simd.RowsLen[T](a.tileQueries, a.headSize),
	}
	take := func(n int) []T {
		from := m.length
		m.length += roundUp(n, 16)
		if memory == nil {
			return nil
		}
		return memory[from:m.length]
	}
	lines := tiles * a.tileQueries
	m.queries, m.sums = take(tiles*m.queriesLen), take(lines*m.width)
	m.top, m.total = take(lines), take(lines)
	m.scores = take(a.tileQueries * m.stride)
	if a.packed {
		m.keys, m.values = take(a.headSize*m.stride), take(a.tileKeys*m.width)
		m.work = take(simd.RowsLen[T](a.tileQueries, a.tileKeys))
	} else {
		m.work = take(a.tileQueries * m.width)
	}
	return m
}

// attendTile is a number of queries that share keys and values: the first is
// query of head, each of the next ones a step further.
type attendTile struct {
	batch, kvHead       int
	head, query         int
	headStep, queryStep int
	lines               int
}

// tile returns tile number i of the queries that share keys and values.
func (a *attend[T]) tile(batch, kvHead, i int) attendTile {
	t := attendTile{batch: batch, kvHead: kvHead}
	share := a.heads / a.kvHeads
	if a.queries == 1 {
		first := i * a.tileQueries
		t.head, t.headStep, t.lines = kvHead*share+first, 1, min(a.tileQueries, share-first)
		return t
	}
	tiles := ceilDiv(a.queries, a.tileQueries)
	t.head, t.query, t.queryStep = kvHead*share+i/tiles, i%tiles*a.tileQueries, 1
	t.lines = min(a.tileQueries, a.queries-t.query)
	return t
}

// sees returns the range of keys that any of the tile's queries sees.
func (a *attend[T]) sees(t attendTile) (from, to int) {
	if a.probe != nil {
		return 0, a.keys
	}
	from = a.keys
	for i := range t.lines {
		lo, hi := a.visible(t.batch, t.query+i*t.queryStep)
		if lo < hi {
			from, to = min(from, lo), max(to, hi)
		}
	}
	return from, to
}

// piece computes a number of tiles from the given one on, all of which go
// through a tile of keys before the next one is packed.
func (a *attend[T]) piece(batch, kvHead, first, tiles int, m *attendMemory[T]) {
	begin, end := a.keys, 0
	for i := range tiles {
		t := a.tile(batch, kvHead, first+i)
		a.open(t, m.part(a, i))
		from, to := a.sees(t)
		begin, end = min(begin, from), max(end, to)
	}
	for from := begin / a.tileKeys * a.tileKeys; from < end; from += a.tileKeys {
		to := min(from+a.tileKeys, a.keys)
		if a.packed {
			a.pack(batch, kvHead, from, to, m)
		}
		for i := range tiles {
			t := a.tile(batch, kvHead, first+i)
			a.add(t, from, to, m.part(a, i))
		}
	}
	for i := range tiles {
		a.close(a.tile(batch, kvHead, first+i), m.part(a, i))
	}
}

// part returns the memory of which the queries, sums, greatest scores and sums
// of weights are those of tile i.
func (m *attendMemory[T]) part(a *attend[T], i int) attendMemory[T] {
	p := *m
	line := i * a.tileQueries
	p.queries = m.queries[i*m.queriesLen:]
	p.sums, p.top, p.total = m.sums[line*m.width:], m.top[line:], m.total[line:]
	return p
}

// open prepares a tile that has seen no key.
func (a *attend[T]) open(t attendTile, m attendMemory[T]) {
	if a.headSize > 0 {
		q := simd.Matrix[T]{Data: from[T](a.q, t.batch, t.head, t.query), Rows: t.lines, Cols: a.headSize,
			RowStride: t.headStep*a.q.head + t.queryStep*a.q.vector, ColStride: 1}
		n := t.lines * a.headSize
		if a.packed {
			simd.PackRows(m.queries, q)
			n = simd.RowsLen[T](t.lines, a.headSize)
		} else {
			for i := range t.lines {
				copy(m.queries[i*a.headSize:][:a.headSize], q.Data[i*q.RowStride:])
			}
		}
		scaleLine(m.queries[:n], T(a.scale))
	}
	clear(m.sums[:t.lines*m.width])
	for i := range t.lines {
		m.top[i], m.total[i] = T(math.Inf(-1)), 0
		if a.sink != nil {
			m.top[i], m.total[i] = T(a.sink(t.head+i*t.headStep)), 1
		}
	}
}

// pack packs the keys from … to−1 and their values.
func (a *attend[T]) pack(batch, kvHead, from, to int, m *attendMemory[T]) {
	k, v := a.operands(batch, kvHead, from, to)
	simd.PackCols(m.keys, k)
	simd.PackCols(m.values, v)
}

// operands returns the keys from … to−1, transposed, and their values.
func (a *attend[T]) operands(batch, kvHead, begin, end int) (k, v simd.Matrix[T]) {
	k = simd.Matrix[T]{Rows: a.headSize, Cols: end - begin, RowStride: 1, ColStride: a.k.vector}
	v = simd.Matrix[T]{Rows: end - begin, Cols: a.valueSize, RowStride: a.v.vector, ColStride: 1}
	if a.headSize > 0 {
		k.Data = from[T](a.k, batch, kvHead, begin)
	}
	if a.valueSize > 0 {
		v.Data = from[T](a.v, batch, kvHead, begin)
	}
	return k, v
}

// add lets a tile see those of the keys begin … end−1 that it may.
func (a *attend[T]) add(t attendTile, begin, end int, m attendMemory[T]) {
	first, last := a.sees(t)
	first, last = max(first, begin), min(last, end)
	if first >= last {
		return
	}
	unit := simd.TileCols[T]()
	skip := (first - begin) / unit * unit // whole panels that no query sees
	first = begin + skip
	n := last - first
	var v simd.Matrix[T]
	if a.packed {
		simd.MultiplyPanels(m.scores, m.stride, m.queries, m.keys[skip*a.headSize:], t.lines, roundUp(n, unit), a.headSize, a.headSize, false)
	} else {
		var k simd.Matrix[T]
		k, v = a.operands(t.batch, t.kvHead, first, last)
		simd.DotRows(m.scores, m.stride, simd.RowMajor(m.queries, t.lines, a.headSize), k)
	}
	for i := range t.lines {
		a.weigh(t, i, first, m.scores[i*m.stride:][:n], m)
	}
	if m.width == 0 || a.y.tensor == nil {
		return
	}
	weights := simd.Matrix[T]{Data: m.scores, Rows: t.lines, Cols: n, RowStride: m.stride, ColStride: 1}
	if a.packed {
		simd.PackRows(m.work, weights)
		simd.MultiplyPanels(m.sums, m.width, m.work, m.values[skip*unit:], t.lines, m.width, n, end-begin, true)
	} else {
		simd.AddRows(m.sums, m.width, weights, v)
	}
}

// weigh turns the products of a query with the keys from first on into the
// weights of their values, and adjusts what was summed up before.
func (a *attend[T]) weigh(t attendTile, line, first int, scores []T, m attendMemory[T]) {
	h, i := t.head+line*t.headStep, t.query+line*t.queryStep
	a.show(0, t.batch, h, i, scores)
	if a.softcap > 0 {
		scaleLine(scores, T(1/a.softcap))
		tanhLine(scores)
		scaleLine(scores, T(a.softcap))
	}
	a.show(1, t.batch, h, i, scores)
	lo, hi := a.visible(t.batch, i)
	lo = min(max(lo-first, 0), len(scores))
	hi = max(min(hi-first, len(scores)), lo)
	seen, before, behind := scores[lo:hi], scores[:lo], scores[hi:]
	if a.bias != nil && len(seen) > 0 {
		a.bias(t.batch, h, i, first+lo, seen)
	}
	if a.probe != nil {
		hide(before)
		hide(behind)
	}
	a.show(2, t.batch, h, i, scores)
	clear(before)
	clear(behind)
	top := max(m.top[line], greatest(seen))
	if math.IsInf(float64(top), -1) { // nothing is visible yet
		clear(seen)
		a.show(3, t.batch, h, i, scores)
		return
	}
	sum := T(expSumLine(seen, seen, top))
	if top != m.top[line] {
		factor := T(math.Exp(float64(m.top[line] - top)))
		scaleLine(m.sums[line*m.width:][:m.width], factor)
		m.top[line] = top
		m.total[line] *= factor
	}
	m.total[line] += sum
	if a.probe != nil && a.probeStage == 3 {
		scaleLine(scores, 1/m.total[line])
		a.show(3, t.batch, h, i, scores)
		m.total[line] = 1
	}
}

// close writes the tile's results. A query that saw no key gets zeros.
func (a *attend[T]) close(t attendTile, m attendMemory[T]) {
	if m.width == 0 || a.y.tensor == nil {
		return
	}
	for i := range t.lines {
		y := from[T](a.y, t.batch, t.head+i*t.headStep, t.query+i*t.queryStep)[:a.valueSize]
		if m.total[i] == 0 {
			clear(y)
			continue
		}
		copy(y, m.sums[i*m.width:])
		scaleLine(y, 1/m.total[i])
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

// greatest returns the greatest element of x, −∞ if there is none, and what is
// not a number if there is nothing else that is visible.
func greatest[T simd.Float](x []T) T {
	top := largest(x)
	if math.IsInf(float64(top), -1) {
		for _, v := range x {
			if v != v {
				return v
			}
		}
	}
	return top
}

// tanhLine replaces x by its hyperbolic tangent.
func tanhLine[T simd.Float](x []T) {
	switch x := any(x).(type) {
	case []float32:
		simd.Tanh(x)
	case []float64:
		for i, v := range x {
			x[i] = math.Tanh(v)
		}
	}
}
