//go:build fmoecuda

package cuda

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", unary(nil), "Relu", "HardSwish", "Softplus", "Softsign", "Mish", "Floor", "Ceil", "Round", "Sqrt", "Reciprocal", "Exp", "Log", "Erf",
		"Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh", "Sigmoid", "Abs", "Neg", "Sign")
	for name, defaults := range map[string][2]float32{
		"LeakyRelu": {0.01}, "ThresholdedRelu": {1}, "Elu": {1}, "HardSigmoid": {0.2, 0.5}, "Swish": {1},
	} {
		register("", unary(func(n *op.Node) (a, b float32) { return n.Float("alpha", defaults[0]), n.Float("beta", defaults[1]) }), name)
	}
	register("", unary(func(n *op.Node) (a, b float32) { return n.Float("alpha", 1.6732632), n.Float("gamma", 1.050701) }), "Selu")
	register("", unary(nil), "Gelu")
	register("com.microsoft", unary(nil), "Gelu")
	register("com.microsoft", unary(func(n *op.Node) (a, b float32) { return n.Float("alpha", 1.702), 0 }), "QuickGelu")
	register("", binary, "Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Min", "Max", "Sum", "Mean", "SwiGLU",
		"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
	register(moe.Domain, binary, "ReluGradient", "SwishGradient", "GeluGradient")
	register("", logical, "Not", "And", "Or", "Xor")
	register("", bindWhere, "Where")
	register("", bindCast, "Cast")
}

// The parameters of kernels, laid out as in elementwise.cu.
type unaryParameters struct {
	x, y uintptr
	n    int64
	a, b float32
}

// unary binds an operator of one operand with two attributes.
func unary(attributes func(n *op.Node) (a, b float32)) binder {
	return func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		name := n.OpType
		switch {
		case name == "Gelu" && n.String("approximate", "none") == "tanh":
			name = "GeluTanh"
		case name == "QuickGelu":
			name = "Swish"
		}
		end, err := ending(c.In[0].Type)
		if err != nil {
			return nil, err
		}
		l, err := newUnary(d, name+end, c.Out[0].Len())
		if err != nil {
			return nil, err
		}
		if attributes != nil {
			l.p.a, l.p.b = attributes(n)
		}
		return func() error {
			l.p.x, l.p.y = address(c.In[0]), address(c.Out[0])
			return l.run()
		}, nil
	}
}

func newUnary(d *Device, name string, n int) (*launch[unaryParameters], error) {
	l, err := newLaunch[unaryParameters](d, name, blockThreads, blocks(n))
	if err == nil {
		l.p.n = int64(n)
	}
	return l, err
}

const maxRank = 6

type broadcastParameters struct {
	x       [3]uintptr
	y       uintptr
	n       int64
	rank    int32
	dims    [maxRank]int32
	strides [3][maxRank]int32
	a       float32
}

// newBroadcast makes the launch of a kernel whose operands broadcast to the
// output.
func newBroadcast(d *Device, name string, out *tensor.Tensor, in ...*tensor.Tensor) (*launch[broadcastParameters], error) {
	n := out.Len()
	l, err := newLaunch[broadcastParameters](d, name, blockThreads, blocks(n))
	if err != nil {
		return nil, err
	}
	if n > 1<<31-1 {
		return nil, errForm
	}
	l.p.n = int64(n)
	strides := make([][]int, len(in))
	for i, t := range in {
		if strides[i], err = broadcastStrides(t.Shape, out.Shape); err != nil {
			return nil, err
		}
	}
	dims, strides := collapse(out.Shape, strides)
	if len(dims) > maxRank {
		return nil, errForm
	}
	l.p.rank = int32(len(dims))
	for i, n := range dims {
		l.p.dims[i] = int32(n)
		for j := range strides {
			l.p.strides[j][i] = int32(strides[j][i])
		}
	}
	return l, nil
}

// broadcastStrides returns the strides of a dense operand along the output's
// dimensions, 0 where it repeats.
func broadcastStrides(shape, out []int) ([]int, error) {
	strides := make([]int, len(out))
	if len(shape) > len(out) {
		return nil, errForm
	}
	stride := 1
	for i := len(shape) - 1; i >= 0; i-- {
		j := i + len(out) - len(shape)
		switch {
		case shape[i] == out[j] && shape[i] != 1:
			strides[j] = stride
		case shape[i] != 1:
			return nil, errForm
		}
		stride *= shape[i]
	}
	return strides, nil
}

// collapse joins dimensions that lie behind one another in all operands.
func collapse(dims []int, strides [][]int) ([]int, [][]int) {
	var joined []int
	out := make([][]int, len(strides))
	for i, n := range dims {
		if n == 1 {
			continue
		}
		last := len(joined) - 1
		fits := last >= 0
		for j := range strides {
			fits = fits && out[j][last] == strides[j][i]*n
		}
		if fits {
			joined[last] *= n
			for j := range strides {
				out[j][last] = strides[j][i]
			}
			continue
		}
		joined = append(joined, n)
		for j := range strides {
			out[j] = append(out[j], strides[j][i])
		}
	}
	return joined, out
}

// binary binds an operator of two operands.
func binary(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	if len(c.In) != 2 {
		return nil, errForm
	}
	end, err := endingOfAll(c.In...)
	if err != nil {
		return nil, err
	}
	name := n.OpType
	switch {
	case name == "Sum":
		name = "Add"
	case name == "GeluGradient" && n.String("approximate", "none") != "none":
		return nil, errForm
	}
	l, err := newBroadcast(d, name+end, c.Out[0], c.In...)
	if err != nil {
		return nil, err
	}
	l.p.a = n.Float("alpha", 1)
	return func() error {
		l.p.x, l.p.y = [3]uintptr{address(c.In[0]), address(c.In[1])}, address(c.Out[0])
		return l.run()
	}, nil
}

// logical binds an operator of truth values.
func logical(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	l, err := newBroadcast(d, n.OpType+"_b8", c.Out[0], c.In...)
	if err != nil {
		return nil, err
	}
	return func() error {
		l.p.x, l.p.y = [3]uintptr{address(c.In[0]), address(at(c.In, 1))}, address(c.Out[0])
		return l.run()
	}, nil
}

func bindWhere(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
	width, err := widthOf(c.Out[0].Type)
	if err != nil {
		return nil, err
	}
	l, err := newBroadcast(d, "Where"+width, c.Out[0], c.In...)
	if err != nil {
		return nil, err
	}
	return func() error {
		l.p.x, l.p.y = [3]uintptr{address(c.In[0]), address(c.In[1]), address(c.In[2])}, address(c.Out[0])
		return l.run()
	}, nil
}

// widthOf returns the ending of the names of kernels that move elements.
func widthOf(t onnx.DataType) (string, error) {
	if t == onnx.String {
		return "", device.UnsupportedType(t)
	}
	switch t.Bits() {
	case 8:
		return "_1", nil
	case 16:
		return "_2", nil
	case 32:
		return "_4", nil
	case 64:
		return "_8", nil
	}
	return "", device.UnsupportedType(t)
}

// bindCast leaves to the CPU what needs care: from numbers to int64, of which
// not all have a double of their own, and rare types.
func bindCast(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	types := map[onnx.DataType]string{onnx.Float32: "_f32", onnx.Float16: "_f16", onnx.BFloat16: "_bf16", onnx.Int32: "_i32", onnx.Int64: "_i64", onnx.Bool: "_b8"}
	from, to := types[c.In[0].Type], types[c.Out[0].Type]
	if from == "" || to == "" {
		return nil, errForm
	}
	l, err := newUnary(d, "Cast"+from+to, c.Out[0].Len())
	if err != nil {
		return nil, err
	}
	return func() error {
		l.p.x, l.p.y = address(c.In[0]), address(c.Out[0])
		return l.run()
	}, nil
}

type finishParameters struct {
	y, bias, residual   uintptr
	n, length           int64
	columns, activation int32
}

// activationNumber returns the place of an activation in the kernels' list.
func activationNumber(a moe.Activation) (int32, error) {
	i := slices.Index(moe.Activations, a)
	if i < 0 || i > 10 {
		return 0, errForm
	}
	return int32(i), nil
}
