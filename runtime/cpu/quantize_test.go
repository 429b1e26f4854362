package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// randomBytes makes a tensor of 8-bit integers.
func randomBytes[T int8 | uint8](seed uint64, shape ...int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(seed, 9))
	x := make([]T, tensor.Count(shape))
	for i := range x {
		x[i] = T(r.Uint32())
	}
	t := tensor.FromSlice(x)
	t.Shape = shape
	return t
}

// TestMatMulInteger compares with sums of products, for zero points of every
// form.
func TestMatMulInteger(t *testing.T) {
	const batch, m, k, n = 2, 5, 70, 9
	a, b := randomBytes[uint8](1, batch, m, k), randomBytes[int8](2, k, n)
	for _, c := range []struct {
		name         string
		aZero, bZero *tensor.Tensor
	}{
		{"none", nil, nil},
		{"scalars", tensor.Scalar[uint8](7), tensor.Scalar[int8](-3)},
		{"vectors", randomBytes[uint8](3, m), randomBytes[int8](4, n)},
		{"matrices", randomBytes[uint8](5, batch, m, 1), randomBytes[int8](6, 1, n)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := compute(t, 2, false, nodeOf("MatMulInteger"), 10, a, b, c.aZero, c.bZero)[0]
			zeroOf := func(t *tensor.Tensor, i int) int32 {
				switch {
				case t == nil:
					return 0
				case t.Type == onnx.Int8:
					return int32(tensor.Of[int8](t)[i%t.Len()])
				}
				return int32(tensor.Of[uint8](t)[i%t.Len()])
			}
			for at, x := range tensor.Of[int32](got) {
				row, column := at/n, at%n
				want := int32(0)
				for i := range k {
					want += (int32(tensor.Of[uint8](a)[row*k+i]) - zeroOf(c.aZero, row)) *
						(int32(tensor.Of[int8](b)[i*n+column]) - zeroOf(c.bZero, column))
				}
				if x != want {
					t.Fatalf("element %d is %d, want %d", at, x, want)
				}
			}
		})
	}
	vectors := compute(t, 1, false, nodeOf("MatMulInteger"), 10, randomBytes[uint8](1, k), randomBytes[uint8](1, k))[0]
	if vectors.Rank() != 0 {
		t.Errorf("the product of vectors is %v", vectors)
	}
}

// TestQLinearMatMulByColumn compares one product with a scale for each row and
// column with products that have scalar ones.
func TestQLinearMatMulByColumn(t *testing.T) {
	const m, k, n = 3, 40, 4
	a, b := randomBytes[int8](1, m, k), randomBytes[int8](2, k, n)
	aScale, bScale := tensor.FromSlice([]float32{0.01, 0.02, 0.05}), tensor.FromSlice([]float32{0.1, 0.2, 0.3, 0.4})
	aZero, bZero := tensor.FromSlice([]int8{1, -2, 3}), tensor.FromSlice([]int8{0, 5, -5, 9})
	yScale, yZero := tensor.Scalar[float32](3), tensor.Scalar[int8](4)
	all := compute(t, 2, false, nodeOf("QLinearMatMul"), 21, a, aScale, aZero, b, bScale, bZero, yScale, yZero)[0]
	for i := range m {
		for j := range n {
			row := tensor.FromSlice(tensor.Of[int8](a)[i*k:][:k], 1, k)
			column := tensor.New(onnx.Int8, k, 1)
			for l := range k {
				tensor.Of[int8](column)[l] = tensor.Of[int8](b)[l*n+j]
			}
			one := compute(t, 1, false, nodeOf("QLinearMatMul"), 21,
				row, tensor.Scalar(tensor.Of[float32](aScale)[i]), tensor.Scalar(tensor.Of[int8](aZero)[i]),
				column, tensor.Scalar(tensor.Of[float32](bScale)[j]), tensor.Scalar(tensor.Of[int8](bZero)[j]), yScale, yZero)[0]
			if got, want := tensor.Of[int8](all)[i*n+j], tensor.Of[int8](one)[0]; got != want {
				t.Errorf("element (%d, %d) is %d, alone it is %d", i, j, got, want)
			}
		}
	}
}

// TestQuantizePrecision divides with the precision that the node or the type
// of its scale asks for.
func TestQuantizePrecision(t *testing.T) {
	x := tensor.FromSlice([]float32{2049.6}) // 2050 in float32, 2048 in bfloat16
	half := tensor.New(onnx.BFloat16)
	tensor.ConvertFloat(half, tensor.Scalar[float32](1))
	zero := tensor.Scalar[int16](0)
	for _, c := range []struct {
		name  string
		node  *onnx.Node
		scale *tensor.Tensor
		want  int16
	}{
		{"float32", nodeOf("QuantizeLinear"), tensor.Scalar[float32](1), 2050},
		{"of the scale", nodeOf("QuantizeLinear"), half, 2048},
		{"of the attribute", nodeOf("QuantizeLinear", onnx.IntAttribute("precision", int64(onnx.Float32))), half, 2050},
	} {
		if got := tensor.Of[int16](compute(t, 1, false, c.node, 25, x, c.scale, zero)[0])[0]; got != c.want {
			t.Errorf("precision %s gives %d, want %d", c.name, got, c.want)
		}
	}
}

// TestQuantizeRoundTrip quantizes to every integer type, by blocks, and back:
// no element moves by more than half a step, but for the rounding of float32.
func TestQuantizeRoundTrip(t *testing.T) {
	const rows, columns, block = 4, 3000, 32
	x := random[float32](1, rows, columns)
	scale := tensor.New(onnx.Float32, rows, (columns+block-1)/block)
	for _, to := range []onnx.DataType{onnx.Int2, onnx.Uint2, onnx.Int4, onnx.Uint4, onnx.Int8, onnx.Uint8, onnx.Int16, onnx.Uint16} {
		least, greatest := integerRange(to)
		for i := range tensor.Of[float32](scale) {
			tensor.Of[float32](scale)[i] = 5 * (1 + float32(i%3)) / (greatest - least)
		}
		zero := tensor.New(to, scale.Shape...)
		middle := make([]float32, zero.Len())
		fill(middle, float32(math.Ceil(float64(least+greatest)/2)))
		newStore[float32](to, tensor.Rounding{})(zero, 0, middle)
		attributes := []*onnx.Attribute{onnx.IntAttribute("block_size", block)}
		quantized := compute(t, 2, false, nodeOf("QuantizeLinear", attributes...), 25, x, scale, zero)[0]
		back := compute(t, 2, false, nodeOf("DequantizeLinear", attributes...), 25, quantized, scale, zero)[0]
		for i, got := range tensor.Of[float32](back) {
			step := tensor.Of[float32](scale)[i/columns*scale.Shape[1]+i%columns/block]
			want := min(max(tensor.Of[float32](x)[i], (least-middle[0])*step), (greatest-middle[0])*step)
			if math.Abs(float64(got-want)) > float64(step)*0.505 {
				t.Fatalf("%s: element %d is %v, want %v within half of %v", to, i, got, want, step)
			}
		}
	}
}
