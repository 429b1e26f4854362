//go:build !purego

package simd

// dotRowAVX2 is dotRow where it can be; it reports whether it could.
func dotRowAVX2[T Number](c, row []T, b Matrix[T]) bool {
	if !avx2 || !is[float32, T]() || len(row)%8 != 0 || len(c) == 0 {
		return false
	}
	_ = b.Data[(len(c)-1)*b.ColStride:][:len(row)]
	at := pointer[float32](row)
	whole := len(c) &^ 3
	if whole > 0 {
		float32DotFour(whole/4, len(row), at, pointer[float32](b.Data), b.ColStride, pointer[float32](c))
	}
	for j := whole; j < len(c); j++ {
		var same [4]float32
		float32DotFour(1, len(row), at, pointer[float32](b.Data[j*b.ColStride:]), 0, &same[0])
		float32s(c)[j] = same[0]
	}
	return true
}

// addRowAVX2 is addRow where it can be; it reports whether it could.
func addRowAVX2[T Number](c, row []T, b Matrix[T]) bool {
	if !avx2 || !is[float32, T]() || len(c)%8 != 0 || len(row) == 0 {
		return false
	}
	_ = b.Data[(len(row)-1)*b.RowStride:][:len(c)]
	float32AddRows(len(row), len(c), pointer[float32](row), pointer[float32](b.Data), b.RowStride, pointer[float32](c))
	return true
}

// columnsAVX2 packs a whole panel of columns that are contiguous and lie
// stride apart, where it can; it reports whether it could.
func columnsAVX2[T Number](panel, columns []T, depth, stride int) bool {
	const width = float32Cols
	if !avx2 || !is[float32, T]() || depth%8 != 0 || depth == 0 {
		return false
	}
	_, _ = panel[:width*depth], columns[(width-1)*stride:][:depth]
	float32Columns(pointer[float32](panel), pointer[float32](columns), stride, depth)
	return true
}

// keepAVX2 is Keep for as many elements as it can, whose number it returns.
func keepAVX2(x []float32, mask []bool) int {
	n := len(x) &^ 7
	if !avx2 || n == 0 {
		return 0
	}
	float32Keep(n, &x[0], &mask[0])
	return n
}
