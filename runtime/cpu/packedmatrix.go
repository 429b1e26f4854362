package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// packedMatrix is a stack of matrices of 2, 4 or 8-bit integers as ONNX
// Runtime packs them, several to a byte, the lowest bits first. An element is
// (integer − zero point) · scale; blocks of columns of a row share both.
type packedMatrix struct {
	data, scales, zeros *tensor.Tensor // zeros may be nil: 2^(bits−1)
	bits                int
	rows                int            // of one matrix
	rowBytes            int            // in data
	block, blocks       int            // columns of a block, blocks of a row
	groups              *tensor.Tensor // [columns] int32, the block of each column where they are not in order, or nil

	// zerosByRow: a byte of zeros holds those of several rows, else of several
	// blocks of a row.
	zerosByRow bool
}

// check reports element types that cannot be read.
func (m *packedMatrix) check() error {
	if m.data.Type != onnx.Uint8 {
		return device.UnsupportedType(m.data.Type)
	}
	if m.scales.Type != onnx.Float32 {
		return fmt.Errorf("scales: %w", device.UnsupportedType(m.scales.Type))
	}
	if m.zeros != nil && m.zeros.Type != onnx.Uint8 && m.zeros.Type != onnx.Float32 {
		return fmt.Errorf("zero points: %w", device.UnsupportedType(m.zeros.Type))
	}
	return nil
}

// read writes a row as floats. Rows are counted over the whole stack.
func (m *packedMatrix) read(row int, out []float32) {
	data, scales := m.data.Data[row*m.rowBytes:], tensor.Of[float32](m.scales)[row*m.blocks:][:m.blocks]
	var groups []int32
	if m.groups != nil {
		groups = tensor.Of[int32](m.groups)
	}
	block, zero := -1, float32(0)
	for i := range out {
		b := i / m.block
		if groups != nil {
			b = max(0, min(int(groups[i]), m.blocks-1))
		}
		if b != block {
			block, zero = b, m.zero(row, b)
		}
		out[i] = (float32(unpack(data, m.bits, i)) - zero) * scales[b]
	}
}

// reader returns what writes all rows, columns wide, to out.
func (m *packedMatrix) reader(d *Device, out []float32, columns int) func() {
	if columns == 0 {
		return func() {}
	}
	body := func(lo, hi int) {
		for row := lo; row < hi; row++ {
			m.read(row, out[row*columns:][:columns])
		}
	}
	return func() { d.pool.run(len(out)/columns, max(1, elementwiseGrain/columns), body) }
}

// zero returns the zero point of a block of a row.
func (m *packedMatrix) zero(row, block int) float32 {
	switch {
	case m.zeros == nil:
		return float32(int(1) << (m.bits - 1))
	case m.zeros.Type == onnx.Float32:
		return tensor.Of[float32](m.zeros)[row*m.blocks+block]
	case m.zerosByRow:
		stack := row / m.rows * bytesFor(m.rows, m.bits)
		return float32(unpack(m.zeros.Data[stack:], m.bits, row%m.rows))
	}
	return float32(unpack(m.zeros.Data[row*bytesFor(m.blocks, m.bits):], m.bits, block))
}

func unpack(data []byte, bits, i int) byte {
	perByte := 8 / bits
	return data[i/perByte] >> (i % perByte * bits) & byte(1<<bits-1)
}

// bytesFor returns the bytes that n integers take.
func bytesFor(n, bits int) int { return (n*bits + 7) / 8 }
