//go:build !purego

package simd

// place is where rows of a panel lie. They begin with a block.
type place struct {
	data                *byte
	block               int
	scales, zeros       *float32
	dataStep, scaleStep int // bytes to the same rows of the next panel
	zeroStep            int
	zeroStride          int // bytes to the zeros of the next block
}

// place finds the rows of a panel from first on.
func (b *Compressed) place(panel, first int) place {
	const width = float32Cols
	p := place{dataStep: b.panel(), block: DepthStep(b.Rows)}
	p.data = &b.data[panel*p.dataStep+first*width*b.format.bits()/8]
	if !b.format.integers() {
		return p
	}
	at := panel*b.blocks + first/b.block
	p.block, p.scales, p.scaleStep = b.block, &b.scales[at*width], 4*width*b.blocks
	p.zeros, p.zeroStride = &b.zeros[at*b.zeroStride], 4*b.zeroStride
	p.zeroStep = p.zeroStride * b.blocks
	return p
}

func compresses[T Number](b *Compressed) bool {
	return avx2 && is[float32, T]() && (b.format != Float16 || f16c)
}

// expandAVX2 is expand where it can be; it reports whether it could.
func expandAVX2[T Number](b *Compressed, panel, first, depth int, out []T) bool {
	if !compresses[T](b) {
		return false
	}
	p, x := b.place(panel, first), &float32s(out[:float32Cols*depth])[0]
	switch b.format {
	case Int8:
		int8Expand(depth, p.block, p.data, p.scales, p.zeros, p.zeroStride, x)
	case Int4:
		int4Expand(depth, p.block, p.data, p.scales, p.zeros, p.zeroStride, x)
	case Float16:
		float16Expand(depth, p.block, p.data, p.scales, p.zeros, p.zeroStride, x)
	case BFloat16:
		bfloat16Expand(depth, p.block, p.data, p.scales, p.zeros, p.zeroStride, x)
	}
	return true
}

// multiplyCompressedRows is MultiplyCompressed of a few rows where it can be;
// it reports whether it could.
func multiplyCompressedRows[T Number](c []T, stride int, a Matrix[T], b *Compressed, from, to int, work []T) bool {
	if !compresses[T](b) {
		return false
	}
	const width = float32Cols
	rows, sums := prepareRows(float32s(work), float32Matrix(a), b)
	zero(c, stride, a.Rows, to-from)
	out := float32s(c)
	for j := 0; j < to-from; {
		p := b.place((from+j)/width, 0)
		var last [few * width]float32
		switch left := to - from - j; {
		case left >= 2*width && a.Rows == 1:
			compressedRows(b.format, 0, b.depth(), rows, sums, p, &out[j], stride)
			j += 2 * width
		case left >= width:
			compressedRows(b.format, a.Rows, b.depth(), rows, sums, p, &out[j], stride)
			j += width
		default:
			compressedRows(b.format, a.Rows, b.depth(), rows, sums, p, &last[0], width)
			for i := range a.Rows {
				copy(out[i*stride+j:][:left], last[i*width:])
			}
			j += width
		}
	}
	return true
}

// prepareRows writes what the kernels take of a few rows: for each row of b
// the elements that it is multiplied by, and for each block of b their sums.
// Where several integers lie in a word, the kernels convert them where they
// lie, so that the elements make up for the place.
func prepareRows(work []float32, a Matrix[float32], b *Compressed) (rows, sums *float32) {
	height := a.Rows
	elements, rest := work[:b.depth()*height], work[b.depth()*height:]
	for i := range height {
		row := a.row(i)
		switch {
		case height == 1 && a.ColStride == 1:
			copy(elements, row[:a.Cols])
		default:
			scatter(elements[i:], row, height, a.Cols, a.ColStride)
		}
	}
	clear(elements[a.Cols*height:])
	if !b.format.integers() {
		return &elements[0], &elements[0]
	}
	rest = rest[:b.blocks*height]
	switch {
	case b.format == Int8 && b.zeroStride == 0: // all zeros are 0
		clear(rest)
	case height == 1:
		for block := range rest {
			rest[block] = float32Sum(elements[block*b.block : min((block+1)*b.block, a.Cols)])
		}
	default:
		clear(rest)
		for l := range a.Cols {
			sums := rest[l/b.block*height:][:height]
			for i, x := range elements[l*height:][:height] {
				sums[i] += x
			}
		}
	}
	if b.format == Int4 {
		for ; len(elements) > 0; elements = elements[8*height:] {
			for l, w := range nibbleWeights {
				for i := range height {
					elements[l*height+i] *= w
				}
			}
		}
	}
	return &work[0], &rest[0]
}

// nibbleWeights undo what the place of a nibble in its word multiplies it by;
// the last one is moved to the first place.
var nibbleWeights = [8]float32{1, 0x1p-4, 0x1p-8, 0x1p-12, 0x1p-16, 0x1p-20, 0x1p-24, 1}

func float32Matrix[T Number](a Matrix[T]) Matrix[float32] {
	return Matrix[float32]{Data: float32s(a.Data), Rows: a.Rows, Cols: a.Cols, RowStride: a.RowStride, ColStride: a.ColStride, Index: a.Index}
}

// compressedRows adds the product of a few rows and a panel, or of one row and
// two panels where rows is 0, to c. a has the depth's elements one after the
// other, for each of them those of all rows, and sums their sums over blocks.
func compressedRows(format Format, rows, depth int, a, sums *float32, p place, c *float32, stride int) {
	stride *= 4
	switch format {
	case Int8:
		int8Rows(rows, depth, p.block, a, sums, p.data, p.dataStep, p.scales, p.scaleStep, p.zeros, p.zeroStep, p.zeroStride, c, stride)
	case Int4:
		int4Rows(rows, depth, p.block, a, sums, p.data, p.dataStep, p.scales, p.scaleStep, p.zeros, p.zeroStep, p.zeroStride, c, stride)
	case Float16:
		float16Rows(rows, depth, p.block, a, sums, p.data, p.dataStep, p.scales, p.scaleStep, p.zeros, p.zeroStep, p.zeroStride, c, stride)
	case BFloat16:
		bfloat16Rows(rows, depth, p.block, a, sums, p.data, p.dataStep, p.scales, p.scaleStep, p.zeros, p.zeroStep, p.zeroStride, c, stride)
	}
}
