package cpu

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register("com.microsoft", "MatMulNBits", newMatMulNBits) }

// matMulNBits is the kernel of MatMulNBits: a product with B as it is stored,
// or in float32 where it is not constant or [packedMatrix.compress] has no form
// for it.
type matMulNBits struct {
	device  *Device
	weight  op.PackedWeight
	b       *tensor.Tensor // B's shape, where it is constant
	product *matMul
}

func newMatMulNBits(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	weight, err := op.NewPackedWeight(n)
	if err != nil {
		return nil, err
	}
	transposed := &op.Node{Node: &onnx.Node{OpType: "FusedMatMul", Attributes: []*onnx.Attribute{onnx.IntAttribute("transB", 1)}}}
	k := &matMulNBits{device: d, weight: weight, product: &matMul{device: d, node: transposed}}
	for i := 1; i < min(len(constants), 5); i++ {
		if n.Input(i) != "" && constants[i] == nil {
			return k, nil
		}
	}
	k.b = &tensor.Tensor{Type: onnx.Float32, Shape: []int{weight.Rows, weight.Columns}}
	m, err := k.matrix(constants)
	if err != nil {
		return nil, err
	}
	if list := m.compress(d, 0, 1, weight.Rows, weight.Columns); list != nil {
		k.product.packed = list
		return k, nil
	}
	load, b, err := k.open(constants)
	if err != nil {
		return nil, err
	}
	load()
	k.product.packed = packConstant(d, b, op.MatMulOrder(transposed, 1, 2))
	return k, nil
}

// matrix describes how B is stored.
func (k *matMulNBits) matrix(in []*tensor.Tensor) (*packedMatrix, error) {
	w := k.weight
	m := &packedMatrix{data: in[1], scales: in[2], zeros: at(in, 3), groups: at(in, 4), bits: w.Bits,
		rows: w.Rows, rowBytes: w.Blocks * w.Block * w.Bits / 8, block: w.Block, blocks: w.Blocks}
	return m, m.check()
}

// open allocates B in float32; load fills it.
func (k *matMulNBits) open(in []*tensor.Tensor) (load func(), b *tensor.Tensor, err error) {
	w := k.weight
	m, err := k.matrix(in)
	if err != nil {
		return nil, nil, err
	}
	if _, err := tensor.CheckedCount(onnx.Float32, []int{w.Rows, w.Columns}); err != nil {
		return nil, nil, err
	}
	b = tensor.New(onnx.Float32, w.Rows, w.Columns)
	return m.reader(k.device, tensor.Of[float32](b), w.Columns), b, nil
}

// Held implements [device.Holder].
func (k *matMulNBits) Held(i int) int {
	if i != 1 {
		return 0 // the scales and zero points are small
	}
	return packedSize(k.product.packed)
}

func (k *matMulNBits) Bind(c *device.Call) (func() error, error) {
	if t := c.In[0].Type; t != onnx.Float32 {
		return nil, device.UnsupportedType(t)
	}
	load, b := func() {}, k.b
	if b == nil {
		var err error
		if load, b, err = k.open(c.In); err != nil {
			return nil, err
		}
	}
	run, err := k.product.Bind(&device.Call{In: []*tensor.Tensor{c.In[0], b}, Out: c.Out, Scratch: c.Scratch})
	if err != nil {
		return nil, err
	}
	bias, columns := at(c.In, 5), k.weight.Rows
	return func() error {
		load()
		if err := run(); err != nil || bias == nil {
			return err
		}
		for y := tensor.Of[float32](c.Out[0]); len(y) > 0; y = y[columns:] {
			addTo(y[:columns], tensor.Of[float32](bias))
		}
		return nil
	}, nil
}
