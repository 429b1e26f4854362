//go:build !amd64 || purego

package simd

func tileSize[T Number]() (rows, cols int) { return portableRows, portableCols }

func tileAVX2[T Number](rows, depth int, a, b, c []T, stride int, add bool) bool { return false }

func axpyAVX2[T Number](alpha T, x, y []T) int { return 0 }

func dotAVX2[T Number](x, y []T) (T, int) { return 0, 0 }

func expAVX2(x []float32) bool { return false }
