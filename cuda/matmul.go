//go:build fmoecuda

package cuda

import (
	"slices"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", bindMatMul, "MatMul")
	register("com.microsoft", bindMatMul, "FusedMatMul")
	register("", bindGemm, "Gemm")
	register(moe.Domain, bindLinear, "Linear")
}

// blasWorkspace is as large as cuBLASLt wants on its largest GPUs.
const blasWorkspace = 32 << 20

// blas plans matrix products, each form once.
type blas struct {
	*driver.BLAS
	workspace []byte
	plans     map[driver.ProductForm]driver.Product
}

func newBLAS(d *Device) (*blas, error) {
	handle, err := driver.OpenBLAS()
	if err != nil {
		return nil, err
	}
	b := &blas{BLAS: handle, plans: map[driver.ProductForm]driver.Product{}}
	b.workspace, err = d.Allocate(blasWorkspace)
	return b, err
}

func (b *blas) close() {
	for _, p := range b.plans {
		p.Free()
	}
	b.Close()
}

// matrix is an operand of products: rows × columns of a dense row-major tensor,
// or columns × rows where it is transposed; its matrices lie stride elements
// apart.
type matrix struct {
	rows, columns, stride int
	transposed            bool
}

func (m matrix) lead() int {
	if m.transposed {
		return m.rows
	}
	return m.columns
}

// number returns the type of elements that cuBLASLt multiplies.
func number(t onnx.DataType) (driver.Number, error) {
	switch t {
	case onnx.Float32:
		return driver.Float32, nil
	case onnx.Float16:
		return driver.Float16, nil
	case onnx.BFloat16:
		return driver.BFloat16, nil
	}
	return 0, device.UnsupportedType(t)
}

// product plans Y = A·B for row-major matrices: cuBLASLt, whose are
// column-major, computes Yᵀ = Bᵀ·Aᵀ.
func (d *Device) product(t, typeY onnx.DataType, a, b matrix, batch int) (func(alpha float32, a, b uintptr, beta float32, y uintptr) error, error) {
	n, err := number(t)
	if err != nil {
		return nil, err
	}
	ny, err := number(typeY)
	if err != nil {
		return nil, err
	}
	if a.rows == 0 || a.columns == 0 || b.columns == 0 || batch == 0 {
		return nil, errForm
	}
	form := driver.ProductForm{Type: n, TypeC: ny, TransA: b.transposed, TransB: a.transposed, M: b.columns, N: a.rows, K: a.columns,
		LeadA: b.lead(), LeadB: a.lead(), LeadC: b.columns, Batch: batch, StrideA: b.stride, StrideB: a.stride, StrideC: a.rows * b.columns}
	d.mu.Lock()
	defer d.mu.Unlock()
	p, known := d.blas.plans[form]
	if !known {
		if p, err = d.blas.Plan(form, len(d.blas.workspace)); err != nil {
			return nil, errForm
		}
		d.blas.plans[form] = p
	}
	return func(alpha float32, a, b uintptr, beta float32, y uintptr) error {
		return d.blas.Multiply(p, alpha, b, a, beta, y, d.blas.workspace, d.stream)
	}, nil
}

// bindMatMul takes batches that are equal, or that one operand lacks.
func bindMatMul(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, w, y := c.In[0], c.In[1], c.Out[0]
	if _, err := endingOfAll(x, w); err != nil {
		return nil, err
	}
	if x.Rank() < 2 || w.Rank() < 2 {
		return nil, errForm
	}
	if n.Int("transBatchA", 0) != 0 || n.Int("transBatchB", 0) != 0 {
		return nil, errForm
	}
	a := matrix{rows: x.Shape[x.Rank()-2], columns: x.Shape[x.Rank()-1], transposed: n.Int("transA", 0) != 0}
	b := matrix{rows: w.Shape[w.Rank()-2], columns: w.Shape[w.Rank()-1], transposed: n.Int("transB", 0) != 0}
	for _, m := range []*matrix{&a, &b} {
		if m.transposed {
			m.rows, m.columns = m.columns, m.rows
		}
	}
	left, right := x.Shape[:x.Rank()-2], w.Shape[:w.Rank()-2]
	batch := 1
	switch {
	case tensor.Count(right) == 1 && len(right) <= len(left) && !(a.transposed && tensor.Count(left) > 1): // all rows of x at once
		a.rows *= tensor.Count(left)
	case slices.Equal(left, right):
		batch, a.stride, b.stride = tensor.Count(left), a.rows*a.columns, b.rows*b.columns
	case tensor.Count(left) == 1 && len(left) <= len(right):
		batch, b.stride = tensor.Count(right), b.rows*b.columns
	default:
		return nil, errForm
	}
	multiply, err := d.product(x.Type, x.Type, a, b, batch)
	if err != nil {
		return nil, err
	}
	alpha := n.Float("alpha", 1)
	return func() error { return multiply(alpha, address(x), address(w), 0, address(y)) }, nil
}

// bindGemm begins with the third operand in the output's place.
func bindGemm(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, w, bias, y := c.In[0], c.In[1], at(c.In, 2), c.Out[0]
	if _, err := endingOfAll(x, w, bias); err != nil {
		return nil, err
	}
	a := matrix{rows: x.Shape[0], columns: x.Shape[1], transposed: n.Int("transA", 0) != 0}
	b := matrix{rows: w.Shape[0], columns: w.Shape[1], transposed: n.Int("transB", 0) != 0}
	for _, m := range []*matrix{&a, &b} {
		if m.transposed {
			m.rows, m.columns = m.columns, m.rows
		}
	}
	alpha, beta := n.Float("alpha", 1), n.Float("beta", 1)
	multiply, err := d.product(x.Type, x.Type, a, b, 1)
	if err != nil {
		return nil, err
	}
	start := func() error { return nil }
	if bias == nil {
		beta = 0
	} else if beta != 0 {
		from, err := broadcastStrides(bias.Shape, y.Shape)
		if err != nil {
			return nil, err
		}
		if start, err = bindMove(d, bias, y, y.Shape, from, denseStrides(y.Shape), 0, 0); err != nil {
			return nil, err
		}
	}
	return inOrder(start, func() error { return multiply(alpha, address(x), address(w), beta, address(y)) }), nil
}

// bindLinear takes residuals of the output's shape, or that repeat from its
// end.
func bindLinear(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, w, bias, residual, y := c.In[op.LinearX], c.In[op.LinearWeight], at(c.In, op.LinearBias), at(c.In, op.LinearResidual), c.Out[0]
	end, err := endingOfAll(x, w, bias, residual)
	if err != nil {
		return nil, err
	}
	b := matrix{rows: w.Shape[0], columns: w.Shape[1], transposed: n.Int("transB", 0) != 0}
	if b.transposed {
		b.rows, b.columns = b.columns, b.rows
	}
	a := matrix{rows: tensor.Count(x.Shape[:x.Rank()-1]), columns: b.rows}
	if y.Len() != a.rows*b.columns {
		return nil, errForm
	}
	if residual != nil {
		shape := residual.Shape
		for len(shape) > 0 && shape[0] == 1 {
			shape = shape[1:]
		}
		if len(shape) > y.Rank() || !slices.Equal(shape, y.Shape[y.Rank()-len(shape):]) {
			return nil, errForm
		}
	}
	multiply, err := d.product(x.Type, x.Type, a, b, 1)
	if err != nil {
		return nil, err
	}
	activation, err := op.LinearActivation(n)
	if err != nil {
		return nil, err
	}
	finish, err := newLaunch[finishParameters](d, "finish"+end, blockThreads, blocks(y.Len()))
	if err != nil {
		return nil, err
	}
	if finish.p.activation, err = activationNumber(activation); err != nil {
		return nil, err
	}
	finish.p.n, finish.p.columns, finish.p.length = int64(y.Len()), int32(b.columns), 1
	if residual != nil {
		finish.p.length = int64(residual.Len())
	}
	alpha := n.Float("alpha", 1)
	plain := bias == nil && residual == nil && activation == moe.Identity
	return func() error {
		if err := multiply(alpha, address(x), address(w), 0, address(y)); err != nil || plain {
			return err
		}
		finish.p.y, finish.p.bias, finish.p.residual = address(y), address(bias), address(residual)
		return finish.run()
	}, nil
}
