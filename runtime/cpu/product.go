package cpu

import (
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
)

// stack says where the matrices of an operand lie in its tensor.
type stack struct {
	rows, cols           int
	rowStride, colStride int

	// at has the beginning of each different matrix, of tells for each
	// product of a batch which of them it takes.
	at, of []int
}

// newStack describes an operand of the given shape whose axes, in the given
// order, are batch dimensions, rows and columns of its matrices. The batch
// dimensions broadcast to batch, or stay as they are where that is nil.
func newStack(shape, order, batch []int) stack {
	strides := make([]int, len(shape))
	for i, step := len(shape)-1, 1; i >= 0; i-- {
		strides[i] = step
		step *= shape[i]
	}
	own := len(order) - 2
	row, col := order[own], order[own+1]
	s := stack{rows: shape[row], cols: shape[col], rowStride: strides[row], colStride: strides[col],
		at: []int{0}, of: []int{0}}
	alone := make([]int, own)
	for i, axis := range order[:own] {
		s.at = nested(s.at, shape[axis], strides[axis])
		alone[i] = shape[axis]
	}
	if batch == nil {
		batch = alone
	}
	// Numbers of matrices step as offsets do, in a tensor of matrices.
	number := 1
	steps := make([]int, len(batch))
	for i := own - 1; i >= 0; i-- {
		if alone[i] != 1 {
			steps[len(batch)-own+i] = number
			number *= alone[i]
		}
	}
	for i, dim := range batch {
		s.of = nested(s.of, dim, steps[i])
	}
	return s
}

// nested adds an inner dimension to a list of offsets.
func nested(outer []int, length, step int) []int {
	list := make([]int, 0, len(outer)*length)
	for _, base := range outer {
		for i := range length {
			list = append(list, base+i*step)
		}
	}
	return list
}

// matrix returns the operand of product i of a batch.
func matrix[T simd.Number](s *stack, data []T, i int) simd.Matrix[T] {
	start := min(s.at[s.of[i]], len(data)) // matrices may have no elements
	return simd.Matrix[T]{Data: data[start:], Rows: s.rows, Cols: s.cols,
		RowStride: s.rowStride, ColStride: s.colStride}
}

// pack packs the different matrices of a constant right-hand operand, nil if
// they have no elements.
func pack[T simd.Number](d *Device, s stack, data []T) []*simd.Packed[T] {
	if s.rows == 0 || s.cols == 0 {
		return nil
	}
	packed := make([]*simd.Packed[T], len(s.at))
	for i, at := range s.at {
		packed[i] = simd.NewPacked[T](s.rows, s.cols)
		packBands(d, packed[i], simd.Matrix[T]{Data: data[at:], Rows: s.rows, Cols: s.cols, RowStride: s.rowStride, ColStride: s.colStride})
	}
	return packed
}

// packBand is how many elements of a matrix are packed before their memory is
// released.
const packBand = 1 << 18

// packBands packs a matrix band by band in the order in which it lies in
// memory.
func packBands[T simd.Number](d *Device, packed *simd.Packed[T], m simd.Matrix[T]) {
	step := simd.TileCols[T]()
	fill := func(first, last, from, to int) {
		d.pool.run((to-from+step-1)/step, max(1, 1<<14/((last-first)*step)), func(lo, hi int) {
			packed.FillRows(m, first, last, from+lo*step, min(from+hi*step, to))
		})
	}
	if m.RowStride >= m.ColStride {
		for first, band := 0, max(1, packBand/m.Cols); first < m.Rows; first += band {
			last := min(first+band, m.Rows)
			fill(first, last, 0, m.Cols)
			release(d, m.Data, first*m.RowStride, last*m.RowStride)
		}
		return
	}
	for from, band := 0, roundUp(packBand/m.Rows+1, step); from < m.Cols; from += band {
		to := min(from+band, m.Cols)
		fill(0, m.Rows, from, to)
		release(d, m.Data, from*m.ColStride, to*m.ColStride)
	}
}

// release states that elements of a constant were read for the last time.
func release[T simd.Number](d *Device, data []T, from, to int) {
	from, to = min(from, len(data)), min(to, len(data))
	var zero T
	part := data[from:to]
	d.release(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(part))), len(part)*int(unsafe.Sizeof(zero))))
}

// product is a batch of matrix products c[i] = a[i]·b[i], the results dense
// and one behind the other.
type product[T simd.Number] struct {
	a, b       stack
	packed     []*simd.Packed[T]  // b's matrices, where they were packed beforehand
	compressed []*simd.Compressed // or those that keep fewer bits

	// bias, where set, returns what is added to each row of a result.
	bias func() []T

	// finish, where set, is called for each piece of a result when it is
	// computed: element (i, j) of the piece, which begins at (row, col) of the
	// result, lies at i·stride + j.
	finish func(piece []T, stride, row, col, rows, cols int)

	// used is the number of elements at the beginning of the scratch memory
	// that are the caller's.
	used int
}

// use takes b's matrices as packConstant packed them, nil if it did not.
func (p *product[T]) use(packed any) {
	p.packed, _ = packed.([]*simd.Packed[T])
	p.compressed, _ = packed.([]*simd.Compressed)
}

// pieceWork is how many multiplications are worth handing to a thread.
const pieceWork = 1 << 17

// pieceSize returns the largest piece of a product of m rows that a thread
// computes at a time: small enough that its operands stay in a core's cache,
// and large enough that packing them is little work beside it.
func pieceSize(m int, packed bool) (rows, cols int) {
	if packed {
		return simd.RowBlock(m), 1024
	}
	return maxPieceRows, 256
}

// maxPieceRows is the height of the tallest piece.
const maxPieceRows = 384

// bind plans the products for the pool. load looks the tensors up.
func (p *product[T]) bind(d *Device, scratch *device.Scratch, load func() (c, a, b []T)) func() error {
	p.joinBatch()
	m, k, n := p.a.rows, p.a.cols, p.b.cols
	if m == 0 || n == 0 || len(p.a.of) == 0 {
		return func() error { return nil }
	}
	rows, cols := p.cut(d.pool.threads)
	switch {
	case p.sharesRows(cols):
		return p.bindShared(d, scratch, rows, cols, load)
	case p.packsBoth():
		return newWaves(d, p, scratch, rows, cols).bind(load)
	}
	length := simd.WorkLen[T](rows, k, cols)
	switch {
	case p.packed != nil:
		length = simd.WorkLenPacked[T](rows, k)
	case p.compressed != nil:
		length = simd.WorkLenCompressed[T](rows, k)
	}
	space := newWorkspace[T](d, scratch, p.used, length)
	downs, rights := (m+rows-1)/rows, (n+cols-1)/cols
	var c, a, b []T
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		for piece := lo; piece < hi; piece++ {
			// Pieces that share columns come one after the other.
			i, j, which := piece%downs*rows, piece/downs%rights*cols, piece/downs/rights
			height, width := min(rows, m-i), min(cols, n-j)
			out := c[which*m*n+i*n+j:]
			var bias []T
			if p.bias != nil {
				bias = p.bias()[j:][:width]
			}
			left := matrix(&p.a, a, which).Block(i, 0, height, k)
			switch {
			case p.packed != nil:
				simd.MultiplyPacked(out, n, left, p.packed[p.b.of[which]], j, j+width, bias, work)
			case p.compressed != nil:
				simd.MultiplyCompressed(out, n, left, m, p.compressed[p.b.of[which]], j, j+width, work)
			default:
				simd.MultiplyPart(out, n, left, matrix(&p.b, b, which).Block(0, j, k, width), m, n, work)
			}
			p.complete(out, n, i, j, height, width, p.packed != nil)
		}
	}
	pieces := len(p.a.of) * downs * rights
	grain := max(1, pieceWork/max(1, rows*cols*k))
	return func() error {
		c, a, b = load()
		space.open()
		d.pool.run(pieces, grain, body)
		return nil
	}
}

// complete does what follows a product to a piece of the result, which may have
// got its bias already.
func (p *product[T]) complete(piece []T, stride, row, col, rows, cols int, biased bool) {
	if p.bias != nil && !biased {
		simd.AddBias(piece, stride, rows, p.bias()[col:][:cols])
	}
	if p.finish != nil {
		p.finish(piece, stride, row, col, rows, cols)
	}
}

// The left-hand operand is packed once, and not for each piece, if that spares
// the packing of savedRows elements at least, and if it has no more than
// sharedRows elements, which stay in the second or third cache.
const (
	savedRows  = 1 << 16
	sharedRows = 1 << 19
)

// sharesRows reports whether pieces of so many columns share packed rows.
func (p *product[T]) sharesRows(cols int) bool {
	m, k := p.a.rows, p.a.cols
	return p.packed != nil && len(p.a.of) == 1 && m > 1 && m*k <= sharedRows && (p.b.cols-1)/cols*m*k >= savedRows
}

// bindShared is bind where pieces of rows × cols share packed rows.
func (p *product[T]) bindShared(d *Device, scratch *device.Scratch, rows, cols int, load func() (c, a, b []T)) func() error {
	m, k, n := p.a.rows, p.a.cols, p.b.cols
	const line = 64 // elements
	used, length, tile := roundUp(p.used, line), simd.RowsLen[T](m, k), simd.TileRows[T]()
	reserve[T](scratch, used+length)
	right := p.packed[p.b.of[0]]
	var c, packed []T
	var left simd.Matrix[T]
	pack := func(lo, hi int) { packLeft(packed, &left, lo*tile, hi*tile, rows, simd.DepthStep(k)) }
	downs := (m + rows - 1) / rows
	body := func(lo, hi int) {
		for piece := lo; piece < hi; piece++ {
			// Pieces that share columns come one after the other.
			i, j := piece%downs*rows, piece/downs*cols
			height, width := min(rows, m-i), min(cols, n-j)
			out := c[i*n+j:]
			simd.MultiplyLeft(out, n, packed[i*k:], height, right, j, j+width, simd.DepthStep(k), false)
			p.complete(out, n, i, j, height, width, false)
		}
	}
	pieces := downs * ((n + cols - 1) / cols)
	grain := max(1, pieceWork/max(1, rows*cols*k))
	return func() error {
		result, a, _ := load()
		c, packed, left = result, lookUp[T](scratch)[used:][:length], matrix(&p.a, a, 0)
		d.pool.run((m+tile-1)/tile, max(1, savedRows/(4*tile*k)), pack)
		d.pool.run(pieces, grain, body)
		return nil
	}
}

// packLeft packs the rows from … to−1 of a left-hand operand for pieces of so
// many rows each.
func packLeft[T simd.Number](packed []T, left *simd.Matrix[T], from, to, rows, step int) {
	for first, last := from, 0; first < min(to, left.Rows); first = last {
		i := first / rows * rows
		last = min(to, i+rows, left.Rows)
		simd.PackLeft(packed[i*left.Cols:], left.Block(i, 0, min(rows, left.Rows-i), left.Cols), first-i, last-i, step)
	}
}

// joinBatch makes one product of a batch whose left-hand matrices follow one
// another and whose right-hand matrix is always the same.
func (p *product[T]) joinBatch() {
	if len(p.b.at) != 1 || len(p.a.of) < 2 || len(p.a.at) != len(p.a.of) {
		return
	}
	for i, at := range p.a.at {
		if at != i*p.a.rows*p.a.rowStride {
			return
		}
	}
	p.a.rows *= len(p.a.of)
	p.a.at, p.a.of, p.b.of = []int{0}, []int{0}, []int{0}
}

// cut chooses how many rows and columns a piece has: as many as caches allow,
// but fewer where threads would be idle.
func (p *product[T]) cut(threads int) (rows, cols int) {
	m, k, n := p.a.rows, p.a.cols, p.b.cols
	rows, cols = pieceSize(m, p.packed != nil || p.compressed != nil)
	rows, cols = min(rows, m), min(cols, n)
	for threads > 1 && rows*cols*k >= 2*pieceWork {
		pieces := len(p.a.of) * ((m + rows - 1) / rows) * ((n + cols - 1) / cols)
		if pieces >= 4*threads {
			break
		}
		if cols >= rows {
			cols = (cols + 1) / 2
		} else {
			rows = (rows + 1) / 2
		}
	}
	return roundUp(rows, simd.TileRows[T]()), roundUp(cols, simd.TileCols[T]())
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
