package cpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerWeight("", "MatMul", 1, newMatMul)
	registerWeight("com.microsoft", "FusedMatMul", 1, newMatMul)
	registerWeight("", "Gemm", 1, newGemm)
	registerWeight("com.microsoft", "FusedGemm", 1, newGemm)
}

// matMul is the kernel of MatMul and FusedMatMul.
type matMul struct {
	rightOperand
	device *Device
	node   *op.Node
}

func newMatMul(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	k := &matMul{device: d, node: n}
	if b := constants[1]; b != nil && b.Rank() >= 2 {
		k.packed = packConstant(d, b, op.MatMulOrder(n, 1, b.Rank()))
	}
	return k, nil
}

// packConstant packs the matrices of a constant operand for products of its
// element type, or of float32 where that is float16 or bfloat16; see [pack]
// and [compressHalf].
func packConstant(d *Device, t *tensor.Tensor, order []int) any {
	if t.Len() == 0 {
		return nil
	}
	s := newStack(t.Shape, order, nil)
	switch t.Type {
	case onnx.Float32:
		return pack(d, s, tensor.Of[float32](t))
	case onnx.Float64:
		return pack(d, s, tensor.Of[float64](t))
	case onnx.Float16, onnx.BFloat16:
		return compressHalf(d, s, t)
	}
	return nil
}

// packedSize returns the bytes of packed operands.
func packedSize(packed any) int {
	size := 0
	switch list := packed.(type) {
	case []*simd.Compressed:
		for _, p := range list {
			size += p.Size()
		}
	case []*simd.Packed[float32]:
		for _, p := range list {
			size += p.Size()
		}
	case []*simd.Packed[float64]:
		for _, p := range list {
			size += p.Size()
		}
	}
	return size
}

// rightOperand is a product's input 1, by packConstant where it is constant.
type rightOperand struct{ packed any }

// Held implements [device.Holder].
func (r *rightOperand) Held(i int) int {
	if i != 1 {
		return 0
	}
	return packedSize(r.packed)
}

func (k *matMul) Bind(c *device.Call) (func() error, error) {
	switch t := c.In[0].Type; t {
	case onnx.Float32:
		return bindMatMul[float32](k, c), nil
	case onnx.Float64:
		return bindMatMul[float64](k, c), nil
	case onnx.Int32:
		return bindMatMul[int32](k, c), nil
	case onnx.Int64:
		return bindMatMul[int64](k, c), nil
	case onnx.Uint32:
		return bindMatMul[uint32](k, c), nil
	case onnx.Uint64:
		return bindMatMul[uint64](k, c), nil
	default:
		return nil, device.UnsupportedType(t)
	}
}

func bindMatMul[T simd.Number](k *matMul, c *device.Call) func() error {
	p := newMatrixProduct[T](k.node, c.In[0].Shape, c.In[1].Shape, c.Out[0].Shape)
	p.use(k.packed)
	if alpha := k.node.Float("alpha", 1); alpha != 1 {
		p.finish = func(piece []T, stride, _, _, rows, cols int) {
			for i := range rows {
				scale(piece[i*stride:][:cols], alpha)
			}
		}
	}
	return p.bind(k.device, c.Scratch, func() (out, left, right []T) {
		return tensor.Of[T](c.Out[0]), tensor.Of[T](c.In[0]), tensor.Of[T](c.In[1])
	})
}

// newMatrixProduct plans numpy's matmul of operands of shapes a and b to a
// result of shape out.
func newMatrixProduct[T simd.Number](n *op.Node, a, b, out []int) *product[T] {
	batch := slices.Clone(out)
	// Vectors are matrices with a dimension that the result lacks, and are
	// not transposed.
	left, right := []int{0, 1}, []int{0, 1}
	if len(b) == 1 {
		b = []int{b[0], 1}
	} else {
		batch = batch[:len(batch)-1]
		right = op.MatMulOrder(n, 1, len(b))
	}
	if len(a) == 1 {
		a = []int{1, a[0]}
	} else {
		batch = batch[:len(batch)-1]
		left = op.MatMulOrder(n, 0, len(a))
	}
	return &product[T]{a: newStack(a, left, batch), b: newStack(b, right, batch)}
}

// scale multiplies by a factor that need not be an integer when T is.
func scale[T simd.Number](x []T, factor float32) {
	for i, v := range x {
		x[i] = T(float64(v) * float64(factor))
	}
}

// gemm is the kernel of Gemm and FusedGemm.
type gemm struct {
	rightOperand
	device     *Device
	node       *op.Node
	activation func(x float64) float64 // nil for none
}

func newGemm(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	k := &gemm{device: d, node: n}
	if name := n.String("activation", ""); name != "" {
		make, known := gemmActivations[name]
		if !known {
			return nil, fmt.Errorf("activation %q of FusedGemm is %w", name, device.ErrUnsupported)
		}
		k.activation = make(float64(n.Float("activation_alpha", defaultAlpha[name])), float64(n.Float("activation_beta", 0.5)))
	}
	if b := constants[1]; b != nil {
		k.packed = packConstant(d, b, gemmOrder(n, "transB"))
	}
	return k, nil
}

// gemmOrder returns which axes of an operand are rows and columns.
func gemmOrder(n *op.Node, attribute string) []int {
	if n.Int(attribute, 0) != 0 {
		return []int{1, 0}
	}
	return []int{0, 1}
}

func (k *gemm) Bind(c *device.Call) (func() error, error) {
	switch t := c.In[0].Type; t {
	case onnx.Float32:
		return bindGemm[float32](k, c), nil
	case onnx.Float64:
		return bindGemm[float64](k, c), nil
	case onnx.Int32:
		return bindGemm[int32](k, c), nil
	case onnx.Int64:
		return bindGemm[int64](k, c), nil
	case onnx.Uint32:
		return bindGemm[uint32](k, c), nil
	case onnx.Uint64:
		return bindGemm[uint64](k, c), nil
	default:
		return nil, device.UnsupportedType(t)
	}
}

func bindGemm[T simd.Number](k *gemm, c *device.Call) func() error {
	p := &product[T]{
		a: newStack(c.In[0].Shape, gemmOrder(k.node, "transA"), nil),
		b: newStack(c.In[1].Shape, gemmOrder(k.node, "transB"), nil),
	}
	p.use(k.packed)
	alpha, beta := k.node.Float("alpha", 1), k.node.Float("beta", 1)
	var bias *tensor.Tensor
	var rowStride, colStride int
	if len(c.In) > 2 && c.In[2] != nil && beta != 0 {
		bias = c.In[2]
		rowStride, colStride = biasStrides(bias.Shape)
	}
	p.finish = func(piece []T, stride, row, col, rows, cols int) {
		for i := range rows {
			line := piece[i*stride:][:cols]
			if alpha != 1 {
				scale(line, alpha)
			}
			if bias != nil {
				addBias(line, tensor.Of[T](bias)[(row+i)*rowStride+col*colStride:], colStride, beta)
			}
			if k.activation != nil {
				for j, x := range line {
					line[j] = T(k.activation(float64(x)))
				}
			}
		}
	}
	return p.bind(k.device, c.Scratch, func() (out, left, right []T) {
		return tensor.Of[T](c.Out[0]), tensor.Of[T](c.In[0]), tensor.Of[T](c.In[1])
	})
}

// biasStrides returns how far apart the rows and columns of Gemm's C lie, 0
// along dimensions that are broadcast.
func biasStrides(shape []int) (row, col int) {
	if len(shape) > 0 && shape[len(shape)-1] != 1 {
		col = 1
	}
	if len(shape) == 2 && shape[0] != 1 {
		row = shape[1]
	}
	return row, col
}

func addBias[T simd.Number](line, bias []T, stride int, beta float32) {
	switch {
	case beta == 1 && stride == 1:
		simd.Axpy(1, bias[:len(line)], line) // exact: a factor of 1 rounds nothing
	case beta == 1:
		for j := range line {
			line[j] += bias[j*stride]
		}
	default:
		for j := range line {
			line[j] += T(float64(bias[j*stride]) * float64(beta))
		}
	}
}

// gemmActivations are the activations that ONNX Runtime fuses into FusedGemm,
// made from alpha and beta.
var gemmActivations = map[string]func(alpha, beta float64) func(float64) float64{
	"Relu": func(_, _ float64) func(float64) float64 {
		return func(x float64) float64 { return max(x, 0) }
	},
	"LeakyRelu": func(alpha, _ float64) func(float64) float64 {
		return func(x float64) float64 {
			if x < 0 {
				return alpha * x
			}
			return x
		}
	},
	"Sigmoid": func(_, _ float64) func(float64) float64 {
		return func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	},
	"Tanh": func(_, _ float64) func(float64) float64 { return math.Tanh },
	"HardSigmoid": func(alpha, beta float64) func(float64) float64 {
		return func(x float64) float64 { return min(max(alpha*x+beta, 0), 1) }
	},
}

var defaultAlpha = map[string]float32{"LeakyRelu": 0.01, "HardSigmoid": 0.2}
