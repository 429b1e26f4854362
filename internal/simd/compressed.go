package simd

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/memory"
)

// Format is how the elements of a [Compressed] operand are stored.
type Format int

// The formats.
const (
	Int8     Format = iota // integers of 8 bits, of a scale and a zero
	Int4                   // integers of 4 bits, of a scale and a zero
	Float16                // IEEE 754 binary16
	BFloat16               // the upper half of a float32
)

// bits returns the size of an element.
func (f Format) bits() int { return [...]int{8, 4, 16, 16}[f] }

func (f Format) integers() bool { return f == Int8 || f == Int4 }

// step returns how many rows of a panel are stored together.
func (f Format) step() int {
	if f == Int4 {
		return 8
	}
	return 1
}

// Compressed is a right-hand operand whose elements take fewer bits than
// products compute in, since a product with few rows takes as long as reading
// the operand does. An integer q stands for (q − zero)·scale; blocks of rows of
// a column share both.
//
// As in [Packed], panels of as many columns as a tile has follow one another,
// each row by row; of 4-bit integers eight rows at a time, those of a column
// in a little-endian word, the first one lowest.
type Compressed struct {
	format     Format
	Rows, Cols int
	data       []byte

	block, blocks int       // rows of a block, blocks of a column
	scales        []float32 // panel by panel, block by block
	zeros         []float32 // like scales, or for one panel's columns where they are half of the integers' range
	zeroStride    int       // from block to block of zeros
}

// Size returns the bytes that the operand takes.
func (b *Compressed) Size() int { return len(b.data) + 4*(len(b.scales)+len(b.zeros)) }

// maxBlock is the largest block; columns of larger ones repeat their scales.
// A [DepthStep] is a multiple of it and of every smaller power of two, so that
// pieces of the depth consist of blocks.
const maxBlock = 128

// NewCompressed makes room for an operand of rows × cols, to be filled by
// SetIntegers or SetHalf. block is a power of two from 8, how many rows of a
// column share a scale, or 0 for all of them; halves have none. Without zeros
// those of integers are half of their range, 128 or 8.
func NewCompressed(format Format, rows, cols, block int, zeros bool) *Compressed {
	return NewCompressedList(1, format, rows, cols, block, zeros)[0]
}

// NewCompressedList makes room for several operands, one behind the other in
// memory.
func NewCompressedList(n int, format Format, rows, cols, block int, zeros bool) []*Compressed {
	b := &Compressed{format: format, Rows: rows, Cols: cols}
	width := TileCols[float32]()
	columns := roundUp(cols, width)
	if format.integers() {
		if block == 0 || block > maxBlock {
			block = maxBlock
		}
		b.block, b.blocks = block, (rows+block-1)/block
		if zeros {
			b.zeroStride = width
		} else {
			b.zeros = make([]float32, width)
			for i := range b.zeros {
				b.zeros[i] = b.stored(float32(int(1) << (format.bits() - 1)))
			}
		}
	}
	size, scales := columns*b.depth()*format.bits()/8, columns*b.blocks
	data, allScales, allZeros := memory.Aligned(n*size), alignedFloats(n*scales), []float32{}
	if zeros {
		allZeros = alignedFloats(n * scales)
	}
	list := make([]*Compressed, n)
	for i := range list {
		c := *b
		c.data, c.scales = data[i*size:][:size], allScales[i*scales:][:scales]
		if zeros {
			c.zeros = allZeros[i*scales:][:scales]
		}
		list[i] = &c
	}
	return list
}

func alignedFloats(n int) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(memory.Aligned(4*n)))), n)
}

// depth returns the rows that a panel has room for.
func (b *Compressed) depth() int { return roundUp(b.Rows, b.format.step()) }

// panel returns the bytes of a panel.
func (b *Compressed) panel() int { return TileCols[float32]() * b.depth() * b.format.bits() / 8 }

// stored returns what stands in memory for an integer: those of 8 bits are
// stored with a sign.
func (b *Compressed) stored(q float32) float32 {
	if b.format == Int8 {
		return q - 128
	}
	return q
}

// SetIntegers fills a column with integers from 0 on, of which those of a
// block of the given size share a scale and a zero; zeros may be nil. Different
// columns may be filled at the same time.
func (b *Compressed) SetIntegers(col int, integers []byte, scales, zeros []float32, block int) {
	width := TileCols[float32]()
	panel, lane := col/width, col%width
	data := b.data[panel*b.panel():]
	if b.format == Int8 {
		for l, q := range integers {
			data[l*width+lane] = q ^ 0x80
		}
	} else {
		for l, q := range integers {
			data[(l/8*width+lane)*4+l%8/2] |= q << (l % 2 * 4)
		}
	}
	for i := range b.blocks {
		from, at := min(i*b.block/block, len(scales)-1), (panel*b.blocks+i)*width+lane
		b.scales[at] = scales[from]
		if b.zeroStride > 0 {
			b.zeros[at] = b.stored(zeros[from])
		}
	}
}

// SetHalf fills a column with 16-bit floats that lie stride apart.
func (b *Compressed) SetHalf(col int, elements []uint16, stride int) {
	width := TileCols[float32]()
	data := b.data[col/width*b.panel():]
	for l := range b.Rows {
		binary.LittleEndian.PutUint16(data[(l*width+col%width)*2:], elements[l*stride])
	}
}

// WorkLenCompressed returns the number of elements of working memory that
// MultiplyCompressed needs for a left-hand operand of m × k.
func WorkLenCompressed[T Number](m, k int) int {
	expanded := workLenRows[T](m, k) + roundUp(min(DepthStep(k), k), Int4.step())*TileCols[T]()
	return max(expanded, 2*min(m, few)*roundUp(k, Int4.step()))
}

// MultiplyCompressed computes the columns from … to−1 of a·b; c begins with
// element (0, from). from must be a multiple of TileCols. work has at least
// WorkLenCompressed elements. all is the number of rows of the whole product,
// of which a may be a piece. More than a few have the bits that
// [MultiplyPacked] gives for the elements that b stands for. Fewer are
// multiplied with integers, and the scale with their sum, which is as exact.
func MultiplyCompressed[T Number](c []T, stride int, a Matrix[T], all int, b *Compressed, from, to int, work []T) {
	switch {
	case a.Rows == 0 || to <= from:
	case a.Cols == 0:
		zero(c, stride, a.Rows, to-from)
	case all <= few && multiplyCompressedRows(c, stride, a, b, from, to, work):
	default:
		multiplyExpanded(c, stride, a, b, from, to, work)
	}
}

// multiplyExpanded is MultiplyCompressed for many rows: it expands a piece of
// a panel at a time, which stays in the first cache while rows pass by.
func multiplyExpanded[T Number](c []T, stride int, a Matrix[T], b *Compressed, from, to int, work []T) {
	width := TileCols[T]()
	at := workLenRows[T](a.Rows, a.Cols)
	rows, panel, step, height := work[:at], work[at:], DepthStep(a.Cols), RowBlock(a.Rows)
	for i := 0; i < a.Rows; i += height {
		ni := min(height, a.Rows-i)
		for l := 0; l < a.Cols; l += step {
			nl := min(step, a.Cols-l)
			packRows(rows, a.Block(i, l, ni, nl))
			for j := from; j < to; j += width {
				expand(b, j/width, l, roundUp(nl, b.format.step()), panel)
				block(c[i*stride+j-from:], stride, rows, panel, nl, ni, min(width, to-j), nl, l > 0)
			}
		}
	}
}

// expand writes the elements of the rows first … first+depth−1 of a panel;
// both are multiples of the format's step.
func expand[T Number](b *Compressed, panel, first, depth int, out []T) {
	if !expandAVX2(b, panel, first, depth, out) {
		expandPortable(b, panel, first, depth, out)
	}
}

func expandPortable[T Number](b *Compressed, panel, first, depth int, out []T) {
	width := TileCols[float32]()
	data := b.data[panel*b.panel():]
	for l := range depth {
		row := out[l*width:][:width]
		for lane := range row {
			row[lane] = T(b.element(data, panel, first+l, lane, width))
		}
	}
}

// element returns an element of a panel, which begins with data.
func (b *Compressed) element(data []byte, panel, l, lane, width int) float32 {
	at := l*width + lane
	var q float32
	switch b.format {
	case Float16:
		return widenFloat16(binary.LittleEndian.Uint16(data[2*at:]))
	case BFloat16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[2*at:])) << 16)
	case Int8:
		q = float32(int8(data[at]))
	case Int4:
		word := binary.LittleEndian.Uint32(data[(l/8*width+lane)*4:])
		q = float32(word >> (l % 8 * 4) & 15)
	}
	i := panel*b.blocks + l/b.block
	return (q - b.zeros[i*b.zeroStride+lane]) * b.scales[i*width+lane]
}
