package moe

import (
	"fmt"
	"math"
)

// Quantization is how experts' weights are stored as integers: each row, out
// of out × in, in blocks of Block elements that share a scale. An element is
// (integer − 2^(Bits−1)) · scale. The integers lie one after the other, the
// lowest bits of a byte first, and the last block of a row is filled up with
// elements of 0: the layout of com.microsoft::MatMulNBits without zero points.
type Quantization struct {
	Bits  int // of an integer: 4 or 8
	Block int // a power of two from 16
}

// DefaultBlock is the block size where none is given.
const DefaultBlock = 32

// maxBlock is far above the blocks that make sense, and so small that
// nothing overflows.
const maxBlock = 1 << 20

// Check reports values that are not allowed.
func (q Quantization) Check() error {
	switch {
	case q.Bits == 0:
		return fmt.Errorf("attribute block_size needs expert_bits, 4 or 8")
	case q.Bits != 4 && q.Bits != 8:
		return fmt.Errorf("attribute expert_bits is %d; it can be 4 or 8, or 0 for floating point", q.Bits)
	case q.Block < 16 || q.Block > maxBlock || q.Block&(q.Block-1) != 0:
		return fmt.Errorf("attribute block_size is %d; it can be a power of two from 16 to %d", q.Block, maxBlock)
	}
	return nil
}

// Blocks returns the number of blocks of a row of n elements.
func (q Quantization) Blocks(n int) int { return (n + q.Block - 1) / q.Block }

// BlockBytes returns the number of bytes that hold the integers of a block.
func (q Quantization) BlockBytes() int { return q.Block * q.Bits / 8 }

// Quantize stores a row. packed has Blocks · BlockBytes elements, scales
// Blocks.
func (q Quantization) Quantize(row []float32, packed []byte, scales []float32) {
	q.Scales(row, scales)
	for b, scale := range scales {
		q.round(row[b*q.Block:min((b+1)*q.Block, len(row))], scale, packed[b*q.BlockBytes():][:q.BlockBytes()])
	}
}

// Scales finds the scales of a row's blocks: each makes its block's largest
// element the integer that is farthest from 0, of which there is only a
// negative one.
func (q Quantization) Scales(row, scales []float32) {
	for b := range scales {
		low, high := float32(0), float32(0)
		for _, x := range row[b*q.Block : min((b+1)*q.Block, len(row))] {
			low, high = min(low, x), max(high, x)
		}
		largest := high
		if -low > high {
			largest = low
		}
		scales[b] = -largest / float32(q.zero())
	}
}

// zero is the integer that stands for 0.
func (q Quantization) zero() int { return 1 << (q.Bits - 1) }

// round stores the integers of a block.
func (q Quantization) round(block []float32, scale float32, packed []byte) {
	zero, factor := float64(q.zero()), 1/float64(scale)
	if scale == 0 {
		factor = 0
	}
	integer := func(i int) byte {
		if i >= len(block) {
			return byte(zero)
		}
		return byte(max(0, min(math.RoundToEven(float64(block[i])*factor)+zero, 2*zero-1)))
	}
	for i := range packed {
		if q.Bits == 8 {
			packed[i] = integer(i)
		} else {
			packed[i] = integer(2*i) | integer(2*i+1)<<4
		}
	}
}

// Dequantize reads a row that Quantize stored.
func (q Quantization) Dequantize(row []float32, packed []byte, scales []float32) {
	zero := q.zero()
	for i := range row {
		x := int(packed[i*q.Bits/8])
		if q.Bits == 4 {
			x = x >> (i % 2 * 4) & 15
		}
		row[i] = float32(x-zero) * scales[i/q.Block]
	}
}
