package cpu

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "MatMulInteger", newMatMulInteger)
	registerAnyType("", "QLinearMatMul", newQLinearMatMul)
}

func newMatMulInteger(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		in := append(c.In[:len(c.In):len(c.In)], nil, nil)
		p, err := newIntegerProduct(d, n, c, [2]*tensor.Tensor{in[0], in[1]}, [2]*tensor.Tensor{in[2], in[3]}, 0)
		if err != nil {
			return nil, err
		}
		return func() error { return p.run(tensor.Of[int32](c.Out[0])) }, nil
	}), nil
}

func newQLinearMatMul(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		out := c.Out[0]
		p, err := newIntegerProduct(d, n, c, [2]*tensor.Tensor{c.In[0], c.In[3]}, [2]*tensor.Tensor{c.In[2], c.In[5]}, out.Len())
		if err != nil {
			return nil, err
		}
		requantize, err := newRequantize(d, c, p)
		if err != nil {
			return nil, err
		}
		return func() error {
			if err := p.run(p.memory(2)); err != nil {
				return err
			}
			return requantize()
		}, nil
	}), nil
}

// newRequantize returns what turns the int32 product in p's memory into
// QLinearMatMul's output.
func newRequantize(d *Device, c *device.Call, p *integerProduct) (func() error, error) {
	out := c.Out[0]
	var parameters [4]*floatValues // scales of A, B and the output; its zero point
	for i, input := range []int{1, 4, 6, 7} {
		var err error
		if parameters[i], err = newFloatValues(c.In[input]); err != nil {
			return nil, err
		}
	}
	shapes := [2][]int{}
	for operand := range 2 {
		var err error
		if shapes[operand], err = op.RowWise(operand, c.In[3*operand].Shape, c.In[3*operand+1].Shape); err != nil {
			return nil, err
		}
	}
	walk, err := newBroadcast(out.Shape, shapes[0], shapes[1])
	if err != nil {
		return nil, err
	}
	put := newStore[float32](out.Type, tensor.Rounding{})
	rows, columns := newOperands[float32](d, walk, 0), newOperands[float32](d, walk, 1)
	least, greatest := integerRange(out.Type)
	buffers := newBuffers[float32](d)
	loop := d.overChunks(out, func(lo, hi int) {
		buffer, row, column := buffers.take(), rows.take(parameters[0].values), columns.take(parameters[1].values)
		x, left, right := buffer[:hi-lo], row.at(lo, hi-lo), column.at(lo, hi-lo)
		scale := parameters[2].values[0]
		for i, sum := range p.memory(2)[lo:hi] {
			x[i] = float32(sum) * (left[i] * right[i] / scale)
		}
		toIntegers(x, parameters[3].values[0], least, greatest)
		put(out, lo, x)
		buffers.give(buffer)
		rows.give(row)
		columns.give(column)
	})
	return func() error {
		for _, p := range parameters {
			p.load()
		}
		return loop()
	}, nil
}

// integerProduct multiplies matrices of 8-bit integers, less their zero
// points, in int32.
type integerProduct struct {
	scratch *device.Scratch
	lengths [3]int // of the operands and the result in scratch memory
	widen   [2]func(out []int32)
	out     []int32
	product func() error
}

// newIntegerProduct reserves scratch memory for the widened operands and for
// a result of the given number of elements.
func newIntegerProduct(d *Device, n *op.Node, c *device.Call, operands, zeros [2]*tensor.Tensor, result int) (*integerProduct, error) {
	p := &integerProduct{scratch: c.Scratch, lengths: [3]int{operands[0].Len(), operands[1].Len(), result}}
	for i, t := range operands {
		var err error
		switch t.Type {
		case onnx.Uint8:
			p.widen[i], err = newWiden[uint8](d, i, t, zeros[i])
		case onnx.Int8:
			p.widen[i], err = newWiden[int8](d, i, t, zeros[i])
		default:
			err = device.UnsupportedType(t.Type)
		}
		if err != nil {
			return nil, err
		}
	}
	used := p.lengths[0] + p.lengths[1] + result
	reserve[int32](c.Scratch, used)
	m := newMatrixProduct[int32](n, operands[0].Shape, operands[1].Shape, c.Out[0].Shape)
	m.used = used
	p.product = m.bind(d, c.Scratch, func() (out, a, b []int32) { return p.out, p.memory(0), p.memory(1) })
	return p, nil
}

// memory returns the scratch memory of an operand, 0 or 1, or the result, 2.
func (p *integerProduct) memory(i int) []int32 {
	at := 0
	for _, length := range p.lengths[:i] {
		at += length
	}
	return lookUp[int32](p.scratch)[at : at+p.lengths[i]]
}

func (p *integerProduct) run(out []int32) error {
	for i, widen := range p.widen {
		widen(p.memory(i))
	}
	p.out = out
	return p.product()
}

// newWiden returns a loop that subtracts an operand's zero point, nil for 0,
// from its elements.
func newWiden[T int8 | uint8](d *Device, number int, t, zero *tensor.Tensor) (func(out []int32), error) {
	none := []T{0}
	shape := []int{}
	if zero != nil {
		var err error
		if shape, err = op.RowWise(number, t.Shape, zero.Shape); err != nil {
			return nil, err
		}
	}
	walk, err := newBroadcast(t.Shape, shape)
	if err != nil {
		return nil, err
	}
	zeros := newOperands[T](d, walk, 0)
	var out []int32
	body := func(lo, hi int) {
		values := none
		if zero != nil {
			values = tensor.Of[T](zero)
		}
		z, x := zeros.take(values), tensor.Of[T](t)
		for lo < hi {
			n := walk.piece(lo, hi)
			for i, v := range z.at(lo, n) {
				out[lo+i] = int32(x[lo+i]) - int32(v)
			}
			lo += n
		}
		zeros.give(z)
	}
	return func(memory []int32) {
		out = memory
		d.pool.run(len(out), elementwiseGrain, body)
	}, nil
}
