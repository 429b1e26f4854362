//go:build !amd64 || purego

package simd

func dotRowAVX2[T Number](c, row []T, b Matrix[T]) bool { return false }

func addRowAVX2[T Number](c, row []T, b Matrix[T]) bool { return false }

func columnsAVX2[T Number](panel, columns []T, depth, stride int) bool { return false }

func keepAVX2(x []float32, mask []bool) int { return 0 }

func float32AddMask(x, mask []float32) {}
