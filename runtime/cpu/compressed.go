package cpu

import (
	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// compress packs the matrices of a stack, columns wide, transposed as
// right-hand operands that keep their integers. It takes rows first,
// first+step … of each, count in all, and returns nil for what has no
// elements, or what is not stored as such operands are: integers of 2 bits, or
// columns that say which block is theirs.
func (m *packedMatrix) compress(d *Device, first, step, count, columns int) []*simd.Compressed {
	format, ok := map[int]simd.Format{8: simd.Int8, 4: simd.Int4}[m.bits]
	if !ok || m.groups != nil || count == 0 || columns == 0 {
		return nil
	}
	scales := tensor.Of[float32](m.scales)
	block := m.block
	if m.blocks == 1 {
		block = 0
	}
	list := simd.NewCompressedList(len(scales)/(m.rows*m.blocks), format, columns, count, block, m.zeros != nil)
	eachColumn(d, list, m.data.Data, func(matrix, col int) {
		row := matrix*m.rows + first + col*step
		integers := make([]byte, columns)
		for l := range integers {
			integers[l] = unpack(m.data.Data[row*m.rowBytes:], m.bits, l)
		}
		var zeros []float32
		if m.zeros != nil {
			zeros = make([]float32, m.blocks)
			for b := range zeros {
				zeros[b] = m.zero(row, b)
			}
		}
		list[matrix].SetIntegers(col, integers, scales[row*m.blocks:][:m.blocks], zeros, m.block)
	})
	return list
}

// compressHalf packs the different matrices of a constant right-hand operand
// of float16 or bfloat16, which has elements, as they are.
func compressHalf(d *Device, s stack, t *tensor.Tensor) []*simd.Compressed {
	format := simd.Float16
	if t.Type == onnx.BFloat16 {
		format = simd.BFloat16
	}
	list := simd.NewCompressedList(len(s.at), format, s.rows, s.cols, 0, false)
	elements := tensor.Of[uint16](t)
	eachColumn(d, list, t.Data, func(matrix, col int) {
		list[matrix].SetHalf(col, elements[s.at[matrix]+col*s.colStride:], s.rowStride)
	})
	return list
}

// eachColumn calls set for every column of some operands of one size, and
// releases the part of source of which each was made.
func eachColumn(d *Device, list []*simd.Compressed, source []byte, set func(matrix, col int)) {
	for i, b := range list {
		d.pool.run(b.Cols, max(1, elementwiseGrain/b.Rows), func(lo, hi int) {
			for col := lo; col < hi; col++ {
				set(i, col)
			}
		})
		part := len(source) / len(list)
		d.release(source[i*part:][:part])
	}
}
