//go:build !purego

package simd

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

//go:generate go -C asm run . -out ../avx2_amd64.s -stubs ../avx2_amd64.go -pkg simd

var (
	avx2 = cpu.X86.HasAVX2 && cpu.X86.HasFMA
	f16c = avx2 && cpu.X86.HasF16C // all known processors with AVX2 have it
)

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
