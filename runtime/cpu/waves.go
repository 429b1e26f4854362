package cpu

import (
	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
)

// waves computes a product of two operands that change from run to run, as all
// do in training: activations, weights and their gradients. What packing costs
// is paid once for each element and not for each piece, whatever the strides of
// the operands are. A wave is a part of the product that is cut from rows,
// columns and depth so that packed operands take little memory, which stays in
// the last cache; all threads pack its operands, then all compute pieces of it.
// A depth is cut where blocks of it end, so that waves change no bits.
type waves[T simd.Number] struct {
	*product[T]
	device     *Device
	scratch    *device.Scratch
	rows, cols int // of a piece
	high, wide int // rows and columns of a wave
	deep, step int // its depth, and that of a block

	// The wave in progress.
	c           []T
	left        simd.Matrix[T] // the rows and columns that it has of the operands
	rightRows   simd.Matrix[T]
	packed      []T // by packLeft
	right       simd.Packed[T]
	row, col    int  // where it begins
	first, last bool // of those that add to the same elements
}

const (
	// waveSize bounds the elements that a wave has of each operand, waveDepth
	// its depth.
	waveSize  = 1 << 20
	waveDepth = 1024

	// From waveRows rows and waveCols columns on an operand would be packed
	// for more than one piece.
	waveRows = 2 * 144
	waveCols = 2 * 256

	// bandRows is how many rows of a matrix are packed at a time, as they lie
	// in memory.
	bandRows = 16
)

// packsBoth reports whether the product is to be computed in waves.
func (p *product[T]) packsBoth() bool {
	return p.packed == nil && p.compressed == nil && len(p.a.of) == 1 &&
		p.a.rows >= waveRows && p.b.cols >= waveCols && p.a.cols > 0
}

func newWaves[T simd.Number](d *Device, p *product[T], scratch *device.Scratch, rows, cols int) *waves[T] {
	m, k, n := p.a.rows, p.a.cols, p.b.cols
	w := &waves[T]{product: p, device: d, scratch: scratch, step: simd.DepthStep(k), rows: min(rows, simd.RowBlock(m)), cols: cols}
	w.deep = max(1, min(k, max(1, waveDepth/w.step)*w.step))
	w.high = min(roundUp(m, w.rows), max(1, waveSize/w.deep/w.rows)*w.rows)
	w.wide = min(roundUp(n, w.cols), max(1, waveSize/w.deep/w.cols)*w.cols)
	const line = 64 // elements
	reserve[T](scratch, roundUp(p.used, line)+w.high*w.deep+simd.ColsLen[T](w.deep, w.wide))
	return w
}

func (w *waves[T]) bind(load func() (c, a, b []T)) func() error {
	m, k, n := w.a.rows, w.a.cols, w.b.cols
	packLeft, packRight, multiply := w.packLeft, w.packRight, w.multiply
	again := w.deep < k || w.wide < n // packed columns are overwritten
	return func() error {
		c, a, b := load()
		memory := lookUp[T](w.scratch)[roundUp(w.used, 64):]
		left, right := matrix(&w.a, a, 0), matrix(&w.b, b, 0)
		w.c, w.packed = c, memory[:w.high*w.deep]
		for w.row = 0; w.row < m; w.row += w.high {
			for l := 0; l == 0 || l < k; l += w.deep {
				deep := min(w.deep, k-l)
				w.first, w.last = l == 0, l+deep == k
				w.left = left.Block(w.row, l, min(w.high, m-w.row), deep)
				w.device.pool.run(ceilDiv(w.left.Rows, w.rows), 1, packLeft)
				for w.col = 0; w.col < n; w.col += w.wide {
					wide := min(w.wide, n-w.col)
					if again || w.row == 0 {
						w.rightRows = right.Block(l, w.col, deep, wide)
						w.right = simd.PackedIn(memory[w.high*w.deep:], deep, wide)
						w.device.pool.run(w.bands(), 1, packRight)
					}
					w.device.pool.run(ceilDiv(w.left.Rows, w.rows)*ceilDiv(wide, w.cols), 1, multiply)
				}
			}
		}
		return nil
	}
}

func (w *waves[T]) packLeft(lo, hi int) {
	packLeft(w.packed, &w.left, lo*w.rows, hi*w.rows, w.rows, w.step)
}

// bands returns the number of parts in which the right-hand operand is packed:
// bands of rows or, where columns are contiguous, of columns.
func (w *waves[T]) bands() int {
	if w.rightRows.ColStride == 1 {
		return ceilDiv(w.rightRows.Rows, bandRows)
	}
	return ceilDiv(w.rightRows.Cols, simd.TileCols[T]())
}

func (w *waves[T]) packRight(lo, hi int) {
	if w.rightRows.ColStride != 1 {
		width := simd.TileCols[T]()
		w.right.Fill(w.rightRows, lo*width, min(hi*width, w.rightRows.Cols))
		return
	}
	for ; lo < hi; lo++ {
		w.right.FillRows(w.rightRows, lo*bandRows, min((lo+1)*bandRows, w.rightRows.Rows), 0, w.rightRows.Cols)
	}
}

// multiply computes pieces of the wave. Those that share columns come one after
// the other.
func (w *waves[T]) multiply(lo, hi int) {
	n, downs := w.b.cols, ceilDiv(w.left.Rows, w.rows)
	for piece := lo; piece < hi; piece++ {
		i, j := piece%downs*w.rows, piece/downs*w.cols
		height, width := min(w.rows, w.left.Rows-i), min(w.cols, w.right.Cols-j)
		out := w.c[(w.row+i)*n+w.col+j:]
		simd.MultiplyLeft(out, n, w.packed[i*w.left.Cols:], height, &w.right, j, j+width, w.step, !w.first)
		if w.last {
			w.complete(out, n, w.row+i, w.col+j, height, width, false)
		}
	}
}
