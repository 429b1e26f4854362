package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "QuantizeLinear", newQuantize)
	registerAnyType("", "DequantizeLinear", newQuantize)
	registerAnyType("", "DynamicQuantizeLinear", newDynamicQuantize)
}

// newQuantize makes the kernel of QuantizeLinear and DequantizeLinear, which
// compute in float32.
func newQuantize(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		var zero *tensor.Tensor
		var zeroShape []int
		if len(c.In) > 2 && c.In[2] != nil {
			zero, zeroShape = c.In[2], c.In[2].Shape
		}
		granularity, err := op.NewGranularity(n, c.In[0].Shape, c.In[1].Shape, zeroShape)
		if err != nil {
			return nil, err
		}
		scales, err := newFloatValues(c.In[1])
		if err != nil {
			return nil, err
		}
		zeros, err := newFloatValues(zero)
		if err != nil {
			return nil, err
		}
		step, err := newQuantizeStep(n, c)
		if err != nil {
			return nil, err
		}
		loop, err := d.throughFloats(c.In[0], c.Out[0], n.Int("saturate", 1) != 0, func(x []float32, lo int) {
			for done := 0; done < len(x); {
				index, run := granularity.At(lo + done)
				run = min(run, len(x)-done)
				z := float32(0)
				if zero != nil {
					z = zeros.values[index]
				}
				step(x[done:done+run], scales.values[index], z)
				done += run
			}
		})
		if err != nil {
			return nil, err
		}
		return func() error {
			scales.load()
			zeros.load()
			return loop()
		}, nil
	}), nil
}

// newQuantizeStep returns what a QuantizeLinear or DequantizeLinear node does
// to elements of one scale and zero point.
func newQuantizeStep(n *op.Node, c *device.Call) (func(x []float32, scale, zero float32), error) {
	if n.OpType == "DequantizeLinear" {
		return func(x []float32, scale, zero float32) {
			for i := range x {
				x[i] = (x[i] - zero) * scale
			}
		}, nil
	}
	precision := onnx.DataType(n.Int("precision", int64(c.In[1].Type)))
	if precision == onnx.Undefined {
		precision = c.In[1].Type
	}
	var round func(float32) float32 // to the precision of the quotient; nil for float32
	switch precision {
	case onnx.Float32, onnx.Float8E8M0, onnx.Int32:
	case onnx.Float16:
		round = func(x float32) float32 { return tensor.Float16ToFloat32(tensor.Float32ToFloat16(x)) }
	case onnx.BFloat16:
		round = func(x float32) float32 { return tensor.BFloat16ToFloat32(tensor.Float32ToBFloat16(x)) }
	default:
		return nil, device.UnsupportedType(precision)
	}
	integers := !c.Out[0].Type.IsFloat()
	least, greatest := integerRange(c.Out[0].Type)
	return func(x []float32, scale, zero float32) {
		for i := range x {
			x[i] /= scale
		}
		if round != nil {
			for i := range x {
				x[i] = round(x[i])
			}
		}
		if integers {
			toIntegers(x, zero, least, greatest)
			return
		}
		for i := range x {
			x[i] += zero
		}
	}, nil
}

// toIntegers rounds to nearest, ties to even, adds zero and keeps to a range.
func toIntegers(x []float32, zero, least, greatest float32) {
	for i, v := range x {
		x[i] = max(least, min(greatest, float32(math.RoundToEven(float64(v)))+zero))
	}
}

// integerRange returns the numbers that an integer type of at most 16 bits
// holds.
func integerRange(t onnx.DataType) (least, greatest float32) {
	switch t {
	case onnx.Int16, onnx.Int8, onnx.Int4, onnx.Int2:
		half := float32(int(1) << (t.Bits() - 1))
		return -half, half - 1
	}
	return 0, float32(int(1)<<t.Bits() - 1)
}

// floatValues is a small tensor that is read as float32 values at each run.
type floatValues struct {
	tensor *tensor.Tensor
	read   func(dst []float32, t *tensor.Tensor, lo int)
	values []float32
}

// newFloatValues prepares to read a tensor; one that is nil has no values.
func newFloatValues(t *tensor.Tensor) (*floatValues, error) {
	f := &floatValues{tensor: t}
	if t == nil {
		return f, nil
	}
	if f.read = newRead(t.Type); f.read == nil {
		return nil, device.UnsupportedType(t.Type)
	}
	f.values = make([]float32, t.Len())
	return f, nil
}

func (f *floatValues) load() {
	if f.tensor != nil {
		f.read(f.values, f.tensor, 0)
	}
}

// newRead returns how to read elements of a type from number lo on as float32
// values, nil where that is not possible.
func newRead(t onnx.DataType) func(dst []float32, t *tensor.Tensor, lo int) {
	if tensor.Narrow(t) {
		return tensor.ReadNarrow
	}
	switch t {
	case onnx.Float32:
		return readEach[float32]
	case onnx.Int8:
		return readEach[int8]
	case onnx.Uint8:
		return readEach[uint8]
	case onnx.Int16:
		return readEach[int16]
	case onnx.Uint16:
		return readEach[uint16]
	case onnx.Int32:
		return readEach[int32]
	}
	return nil
}

func readEach[T number](dst []float32, t *tensor.Tensor, lo int) {
	for i, v := range tensor.Of[T](t)[lo : lo+len(dst)] {
		dst[i] = float32(v)
	}
}

// throughFloats returns a loop that reads in as float32 values, changes a
// piece at a time, whose first element has number lo, and writes them to out.
func (d *Device) throughFloats(in, out *tensor.Tensor, saturate bool, change func(x []float32, lo int)) (func() error, error) {
	read, put := newRead(in.Type), newStore[float32](out.Type, tensor.Rounding{Saturate: saturate})
	if read == nil {
		return nil, device.UnsupportedType(in.Type)
	}
	if put == nil {
		return nil, device.UnsupportedType(out.Type)
	}
	buffers := newBuffers[float32](d)
	return d.overChunks(out, func(lo, hi int) {
		buffer := buffers.take()
		x := buffer[:hi-lo]
		read(x, in, lo)
		change(x, lo)
		put(out, lo, x)
		buffers.give(buffer)
	}), nil
}

// newDynamicQuantize makes the kernel of DynamicQuantizeLinear.
func newDynamicQuantize(d *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		if t := c.In[0].Type; t != onnx.Float32 {
			return nil, device.UnsupportedType(t)
		}
		// Outputs that nobody wants are computed all the same.
		var outputs [3]*tensor.Tensor
		for i, t := range []onnx.DataType{onnx.Uint8, onnx.Float32, onnx.Uint8} {
			if i < len(c.Out) && c.Out[i] != nil {
				outputs[i] = c.Out[i]
			} else if i > 0 {
				outputs[i] = tensor.New(t)
			}
		}
		var scale, zero float32
		loop := func() error { return nil }
		if outputs[0] != nil {
			var err error
			loop, err = d.throughFloats(c.In[0], outputs[0], true, func(x []float32, _ int) {
				for i := range x {
					x[i] /= scale
				}
				toIntegers(x, zero, 0, 255)
			})
			if err != nil {
				return nil, err
			}
		}
		return func() error {
			least, greatest := float32(0), float32(0)
			for _, v := range tensor.Of[float32](c.In[0]) {
				least, greatest = min(least, v), max(greatest, v)
			}
			if scale = (greatest - least) / 255; scale == 0 {
				scale = 1 // every element is 0
			}
			zero = float32(math.RoundToEven(float64(max(0, min(255, -least/scale)))))
			tensor.Of[float32](outputs[1])[0] = scale
			tensor.Of[uint8](outputs[2])[0] = uint8(zero)
			return loop()
		}, nil
	}), nil
}
