//go:build !purego

package simd

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

//go:generate go -C asm run . -out ../avx2_amd64.s -stubs ../avx2_amd64.go -pkg simd

var (
	avx2 = cpu.X86.HasAVX2 && cpu.X86.HasFMA

	// Processors before Ice Lake and Zen 4, which lack the second extension,
	// lower their clock for wide registers, or have half the units for them.
	avx512 = avx2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512VBMI2

	f16c = avx2 && cpu.X86.HasF16C // all known processors with AVX2 have it
)

// float32Cols is the width of a tile of float32.
const float32Cols = 16

// tileSize returns the rows and columns of the tile that this processor
// computes in one go.
func tileSize[T Number]() (rows, cols int) {
	if avx2 {
		var zero T
		switch any(zero).(type) {
		case float32:
			return maxRows, float32Cols
		case float64:
			return maxRows, 8
		}
	}
	return portableRows, portableCols
}

// tilesAVX2 is tiles where it can be; it reports whether it could.
func tilesAVX2[T Number](rows, depth int, a, b, c []T, stride int, add bool) bool {
	height, width := tileSize[T]()
	if height == portableRows {
		return false
	}
	_, _, _ = a[roundUp(rows, height)*depth-1], b[depth*width-1], c[(rows-1)*stride+width-1]
	switch a := any(unsafe.SliceData(a)).(type) {
	case *float32:
		float32Tiles(rows, depth, a, pointer[float32](b), pointer[float32](c), stride, add)
	case *float64:
		float64Tiles(rows, depth, a, pointer[float64](b), pointer[float64](c), stride, add)
	}
	return true
}

// blockAVX512 is block for as many columns as it can, whose number it returns.
func blockAVX512[T Number](c []T, stride int, rows, cols []T, panelDepth, m, n, depth int, add bool) int {
	const height, width = maxRows, float32Cols
	if !avx512 || !is[float32, T]() {
		return 0
	}
	j := 0
	for ; n-j >= 2*width; j += 2 * width {
		b := cols[j*panelDepth:]
		_, _, _ = rows[roundUp(m, height)*depth-1], b[(panelDepth+depth)*width-1], c[(m-1)*stride+j+2*width-1]
		float32Tiles512(m, depth, pointer[float32](rows), pointer[float32](b), pointer[float32](c[j:]), panelDepth*width, stride, add)
	}
	return j
}

// multiplyInPlaceAVX512 is MultiplyPacked for as many rows as it can, whose
// number it returns, without packing them.
func multiplyInPlaceAVX512[T Number](c []T, stride int, a Matrix[T], b *Packed[T], from, to int, bias []T) int {
	const height, width = 2 * maxRows, float32Cols
	done := a.Rows / height * height
	if !avx512 || !is[float32, T]() || done == 0 || a.Cols == 0 || a.ColStride != 1 || !spread(a.RowStride) {
		return 0
	}
	step := DepthStep(a.Cols)
	var rows [rowBlock]*float32
	for first := 0; first < done; first += rowBlock {
		n := min(rowBlock, done-first)
		for i := range n {
			rows[i] = pointer[float32](a.row(first + i)[:a.Cols])
		}
		for j := from; j < to; j += 2 * width {
			columns := min(2*width, to-j)
			out := c[first*stride+j-from:]
			_ = out[(n-1)*stride+columns-1]
			for l := 0; l < a.Cols; l += step {
				panels, depth := b.data[j*b.Rows+l*width:], min(step, a.Cols-l)
				_ = panels[(roundUp(columns, width)/width-1)*b.Rows*width+depth*width-1]
				var last *float32 // what is added when the depth is complete
				if bias != nil && l+depth == a.Cols {
					last = pointer[float32](bias[j-from:][:columns])
				}
				float32InPlace512(n, depth, l, &rows[0], pointer[float32](panels), pointer[float32](out), b.Rows*width, stride, columns, last, l > 0)
			}
		}
	}
	return done
}

// spread reports whether the rows of a tile that lie so many elements of
// float32 apart stay in the first cache, which has few places for lines that
// lie a multiple of 4 KiB apart.
func spread(stride int) bool { return stride%1024 != 0 }

// multiplyRowAVX2 computes the columns from … to−1 of the product of one row
// and b where it can; it reports whether it could. The bits are those that
// the row would have in a product of more rows.
func multiplyRowAVX2[T Number](c, row []T, b *Packed[T], from, to int) bool {
	if !avx2 || !is[float32, T]() {
		return false
	}
	const width = float32Cols
	row, c = row[:b.Rows], c[:to-from]
	panels := b.data[from*b.Rows : roundUp(to, width)*b.Rows]
	whole := len(c) / width
	float32Row(b.Rows, DepthStep(b.Rows), whole, pointer[float32](row), pointer[float32](panels), pointer[float32](c))
	if rest := len(c) % width; rest > 0 {
		var last [width]float32
		float32Row(b.Rows, DepthStep(b.Rows), 1, pointer[float32](row), pointer[float32](panels[whole*width*b.Rows:]), &last[0])
		copy(float32s(c)[whole*width:], last[:rest])
	}
	return true
}

// packRunsAVX2 packs as many of n elements of each run as it can, whose number
// it returns; see packRuns.
func packRunsAVX2[T Number](dst, src []T, width, n, runs, depth, stride int) int {
	panels := n / width
	if !avx2 || !is[float32, T]() || panels == 0 || runs == 0 {
		return 0
	}
	const size = 4
	_, _ = dst[(panels-1)*depth*width+runs*width-1], src[(runs-1)*stride+panels*width-1]
	switch to, from := pointer[float32](dst), pointer[float32](src); width {
	case float32Cols:
		float32Runs16(to, from, panels, runs, depth*width*size, stride*size)
	case maxRows:
		float32Runs6(to, from, panels, runs, depth*width*size, stride*size)
	default:
		return 0
	}
	return panels * width
}

// interleaveRowsAVX2 is interleaveRows for as many columns as it can, whose
// number it returns.
func interleaveRowsAVX2[T Number](dst []T, rows *[maxRows][]T, depth int) int {
	depth &^= 7
	if !avx2 || !is[float32, T]() || depth == 0 {
		return 0
	}
	var list [maxRows]*float32
	for i := range list {
		list[i] = pointer[float32](rows[i][:depth])
	}
	float32Interleave(pointer[float32](dst[:maxRows*depth]), &list, depth)
	return depth
}

// axpyAVX2 is Axpy where it can be; it reports whether it could.
func axpyAVX2[T Number](alpha T, x, y []T) bool {
	factor, ok := any(alpha).(float32)
	if ok = ok && avx2; ok {
		float32Axpy(factor, float32s(x), float32s(y))
	}
	return ok
}

// dotAVX2 is Dot where it can be; it reports whether it could.
func dotAVX2[T Number](x, y []T) (T, bool) {
	if !avx2 || !is[float32, T]() {
		return 0, false
	}
	return T(float32Dot(float32s(x), float32s(y))), true
}

// sumAVX2 is Sum where it can be; it reports whether it could.
func sumAVX2[T Number](x []T) (T, bool) {
	if !avx2 || !is[float32, T]() {
		return 0, false
	}
	return T(float32Sum(float32s(x))), true
}

func is[Want, T any]() bool {
	var zero T
	_, ok := any(zero).(Want)
	return ok
}

// float32s is x, whose elements are known to be of that type.
func float32s[T Number](x []T) []float32 { return unsafe.Slice(pointer[float32](x), len(x)) }

func pointer[To, T Number](x []T) *To { return (*To)(unsafe.Pointer(unsafe.SliceData(x))) }
