//go:build !amd64 || purego

package simd

// Without assembly everything is portable.
const avx2, avx512, f16c = false, false, false

func tileSize[T Number]() (rows, cols int) { return portableRows, portableCols }

func tilesAVX2[T Number](rows, depth int, a, b, c []T, stride int, add bool) bool { return false }

func blockAVX512[T Number](c []T, stride int, rows, cols []T, panelDepth, m, n, depth int, add bool) int {
	return 0
}

func multiplyInPlaceAVX512[T Number](c []T, stride int, a Matrix[T], b *Packed[T], from, to int, bias []T) int {
	return 0
}

func multiplyRowAVX2[T Number](c, row []T, b *Packed[T], from, to int) bool { return false }

func packRunsAVX2[T Number](dst, src []T, width, n, runs, depth, stride int) int { return 0 }

func interleaveRowsAVX2[T Number](dst []T, rows *[maxRows][]T, depth int) int { return 0 }

func axpyAVX2[T Number](alpha T, x, y []T) bool { return false }

func dotAVX2[T Number](x, y []T) (T, bool) { return 0, false }

func sumAVX2[T Number](x []T) (T, bool) { return 0, false }

// The kernels are called only where the constants above are true. They stand
// here for the compiler to see, which then drops the calls.

func pause()                                                               {}
func float32Add(out, a, b []float32)                                       {}
func float32Sub(out, a, b []float32)                                       {}
func float32Mul(out, a, b []float32)                                       {}
func float32Div(out, a, b []float32)                                       {}
func float32Scale(x []float32, factor float32)                             {}
func float32Exp(x []float32)                                               {}
func float32Sigmoid(x []float32)                                           {}
func float32Tanh(x []float32)                                              {}
func float32Erf(x []float32)                                               {}
func float32ReLU(x []float32)                                              {}
func float32ReLUSquared(x []float32)                                       {}
func float32GELU(x []float32)                                              {}
func float32GELUTanh(x []float32)                                          {}
func float32Mish(x []float32)                                              {}
func float32Swish(x []float32, alpha float32)                              {}
func float32SwiGLU(out, gate, linear []float32, alpha float32)             {}
func float32ReLUGradient(out, gradient, y []float32)                       {}
func float32GELUGradient(out, gradient, x []float32)                       {}
func float32GELUTanhGradient(out, gradient, x []float32)                   {}
func float32SwishGradient(out, gradient, x []float32, alpha float32)       {}
func float32GELUSlope(value, slope, x []float32)                           {}
func float32SwishSlope(value, slope, x []float32, alpha float32)           {}
func float32Max(x []float32) float32                                       { return 0 }
func float32WideSum(x []float32) float64                                   { return 0 }
func float32Deviation(x []float32, mean float64) float64                   { return 0 }
func float32ExpSum(out, x []float32, shift float32) float64                { return 0 }
func float32Normalize(out, x, scale, bias []float32, mean, factor float32) {}
func float16ToFloat32(dst []float32, src []uint16)                         {}
func float32ToFloat16(dst []uint16, src []float32)                         {}
func bfloat16ToFloat32(dst []float32, src []uint16)                        {}
func float32ToBFloat16(dst []uint16, src []float32)                        {}
func float32Peak(rounds int)                                               {}
func float32Peak512(rounds int)                                            {}
