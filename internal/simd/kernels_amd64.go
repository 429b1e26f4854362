//go:build !purego

package simd

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

//go:generate go -C asm run . -out ../avx2_amd64.s -stubs ../avx2_amd64.go -pkg simd

var avx2 = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// tileSize returns the rows and columns of the tile that this processor
// computes in one go.
func tileSize[T Number]() (rows, cols int) {
	if avx2 {
		var zero T
		switch any(zero).(type) {
		case float32:
			return 6, 16
		case float64:
			return 6, 8
		}
	}
	return portableRows, portableCols
}

// tileAVX2 is tile where it can be; it reports whether it could.
func tileAVX2[T Number](rows, depth int, a, b, c []T, stride int, add bool) bool {
	height, width := tileSize[T]()
	if height == portableRows {
		return false
	}
	_, _, _ = a[depth*height-1], b[depth*width-1], c[(rows-1)*stride+width-1]
	switch a := any(unsafe.SliceData(a)).(type) {
	case *float32:
		float32Tile(rows, depth, a, pointer[float32](b), pointer[float32](c), stride, add)
	case *float64:
		float64Tile(rows, depth, a, pointer[float64](b), pointer[float64](c), stride, add)
	}
	return true
}

// axpyAVX2 is Axpy for the first elements, and returns how many.
func axpyAVX2[T Number](alpha T, x, y []T) int {
	n := len(x) &^ 7
	if alpha, ok := any(alpha).(float32); ok && avx2 && n > 0 {
		float32Axpy(alpha, pointer[float32](x), pointer[float32](y), n)
		return n
	}
	return 0
}

// dotAVX2 is Dot for the first elements, and returns how many.
func dotAVX2[T Number](x, y []T) (T, int) {
	n := len(x) &^ 7
	if p, ok := any(unsafe.SliceData(x)).(*float32); ok && avx2 && n > 0 {
		return T(float32Dot(p, pointer[float32](y), n)), n
	}
	return 0, 0
}

// expAVX2 is Exp where it can be; it reports whether it could. The last
// elements fill up a register too, so that what becomes of an element does not
// depend on its place.
func expAVX2(x []float32) bool {
	if !avx2 {
		return false
	}
	n := len(x) &^ 7
	if n > 0 {
		float32Exp(&x[0], n)
	}
	if n < len(x) {
		var last [8]float32
		copy(last[:], x[n:])
		float32Exp(&last[0], len(last))
		copy(x[n:], last[:])
	}
	return true
}

func pointer[To, T Number](x []T) *To { return (*To)(unsafe.Pointer(unsafe.SliceData(x))) }
