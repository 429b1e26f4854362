//go:build !amd64 || purego

package simd

func multiplyCompressedRows[T Number](c []T, stride int, a Matrix[T], b *Compressed, from, to int, work []T) bool {
	return false
}

func expandAVX2[T Number](b *Compressed, panel, first, depth int, out []T) bool { return false }
