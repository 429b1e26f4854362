package fmoefy

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

var errQuantized = errors.New("its weights are quantised; let them be dequantised (--dequantize), or start from the model before quantisation")

// dequantizer turns quantised weights into floating-point numbers, which they
// stand for exactly; a nil one refuses to. What two nodes make of the same
// tensors is one tensor.
type dequantizer struct {
	done map[string]*onnx.Tensor
}

// tensor returns the tensor that d describes, named after its codes.
func (q *dequantizer) tensor(key string, dims []int64, d *dequantization) *onnx.Tensor {
	if t := q.done[key]; t != nil {
		return t
	}
	t := &onnx.Tensor{Name: d.codes.Name, DataType: d.kind, Dims: dims}
	t.SetSource(d)
	q.done[key] = t
	return t
}

// made reports whether t is a tensor of dequantised weights.
func (q *dequantizer) made(t *onnx.Tensor) bool {
	if q != nil {
		for _, other := range q.done {
			if other == t {
				return true
			}
		}
	}
	return false
}

// dequantize resolves the output of a DequantizeLinear node whose inputs are
// constants.
func (s *scope) dequantize(n *onnx.Node, depth int) (*constant, error) {
	var in [3]*constant
	for i := range min(len(n.Inputs), len(in)) {
		if n.Inputs[i] == "" {
			continue
		}
		c, err := s.resolve(n.Inputs[i], depth-1)
		if err != nil {
			return nil, err
		}
		if !c.untouched() {
			return nil, fmt.Errorf("%s takes a tensor that is transposed, cast or reshaped, which is not supported", nodeName(n))
		}
		in[i] = c
	}
	if s.dequantizer == nil {
		return nil, errQuantized
	}
	opset, _ := s.model.OpsetVersion(n.Domain)
	resolved, err := op.Resolve(n, opset)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nodeName(n), err)
	}
	if in[0] == nil || in[1] == nil {
		return nil, fmt.Errorf("%s lacks an input", nodeName(n))
	}
	var shapes [3][]int
	key := fmt.Sprint(n.Int("axis", 1), n.Int("block_size", 0), n.Int("output_dtype", 0))
	for i, c := range in {
		if c != nil {
			shapes[i] = make([]int, len(c.dims))
			for axis, d := range c.dims {
				shapes[i][axis] = int(d)
			}
			key += "|" + c.key()
		}
	}
	granularity, err := op.NewGranularity(resolved, shapes[0], shapes[1], shapes[2])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nodeName(n), err)
	}
	d := &dequantization{codes: in[0].tensor, scale: in[1].tensor, kind: in[1].elementType(), count: in[0].elements(),
		at: func(i int) (scale, zero, run int) {
			index, run := granularity.At(i)
			return index, index, run
		}}
	if t := onnx.DataType(n.Int("output_dtype", 0)); t != onnx.Undefined {
		d.kind = t
	}
	if in[2] != nil {
		d.zero = in[2].tensor
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", nodeName(n), err)
	}
	return newConstant(s.dequantizer.tensor(key, in[0].dims, d)), nil
}

// untouched reports whether c is its tensor as it is stored.
func (c *constant) untouched() bool {
	n, err := c.tensor.ElementCount()
	return err == nil && len(c.casts) == 0 && c.contiguous() && c.offset == 0 && c.scale == 1 && n == c.elements()
}

// dequantization is the source of a tensor (codes − zero) · scale.
type dequantization struct {
	codes, scale *onnx.Tensor
	zero         *onnx.Tensor // nil where offset stands for it
	offset       float64
	kind         onnx.DataType // of the result
	count        int64

	// at returns the elements of scale and zero that belong to element i, and
	// how many elements from there on have the same.
	at func(i int) (scale, zero, run int)
}

func (d *dequantization) check() error {
	for _, t := range []onnx.DataType{d.scale.DataType, d.kind} {
		if !computable(t) {
			return fmt.Errorf("a result of %s with a scale of %s is not supported in front of weights", d.kind, d.scale.DataType)
		}
	}
	for _, t := range []*onnx.Tensor{d.codes, d.zero} {
		if t != nil && !readable(t.DataType) {
			return fmt.Errorf("weights quantised to %s are not supported", t.DataType)
		}
	}
	return nil
}

func (d *dequantization) Size() int64 { return d.count * int64(d.kind.Bits()/8) }

// WriteTo implements [onnx.Source].
func (d *dequantization) WriteTo(w io.Writer) (int64, error) {
	codes, err := tensor.FromONNX(d.codes)
	if err != nil {
		return 0, err
	}
	scales, err := allNumbers(d.scale)
	if err != nil {
		return 0, err
	}
	var zeros []float64
	if d.zero != nil {
		if zeros, err = allNumbers(d.zero); err != nil {
			return 0, err
		}
	}
	values := make([]float64, chunk)
	written := int64(0)
	for start := 0; start < int(d.count); start += chunk {
		values = values[:min(chunk, int(d.count)-start)]
		readNumbers(values, codes, start)
		for i := 0; i < len(values); {
			scale, zero, run := d.at(start + i)
			run = min(run, len(values)-i)
			offset := d.offset
			if zeros != nil {
				offset = zeros[zero]
			}
			for j := i; j < i+run; j++ {
				values[j] = (values[j] - offset) * scales[scale]
			}
			i += run
		}
		n, err := w.Write(narrow(d.kind, values))
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// readable reports whether readNumbers reads elements of type t.
func readable(t onnx.DataType) bool {
	switch t {
	case onnx.Int8, onnx.Uint8, onnx.Int16, onnx.Uint16, onnx.Int32, onnx.Float32, onnx.Float64:
		return true
	}
	return tensor.Narrow(t)
}

// readNumbers sets dst to the elements of t from number lo on.
func readNumbers(dst []float64, t *tensor.Tensor, lo int) {
	switch t.Type {
	case onnx.Int8:
		widenTo(dst, tensor.Of[int8](t)[lo:])
	case onnx.Uint8:
		widenTo(dst, tensor.Of[uint8](t)[lo:])
	case onnx.Int16:
		widenTo(dst, tensor.Of[int16](t)[lo:])
	case onnx.Uint16:
		widenTo(dst, tensor.Of[uint16](t)[lo:])
	case onnx.Int32:
		widenTo(dst, tensor.Of[int32](t)[lo:])
	case onnx.Float32:
		widenTo(dst, tensor.Of[float32](t)[lo:])
	case onnx.Float64:
		widenTo(dst, tensor.Of[float64](t)[lo:])
	default:
		single := make([]float32, len(dst))
		tensor.ReadNarrow(single, t, lo)
		widenTo(dst, single)
	}
}

func widenTo[T int8 | uint8 | int16 | uint16 | int32 | float32 | float64](dst []float64, src []T) {
	for i := range dst {
		dst[i] = float64(src[i])
	}
}

func allNumbers(t *onnx.Tensor) ([]float64, error) {
	x, err := tensor.FromONNX(t)
	if err != nil {
		return nil, err
	}
	values := make([]float64, x.Len())
	readNumbers(values, x, 0)
	return values, nil
}

// dequantizeProduct reads a product by a quantised matrix. Only MatMulNBits
// keeps its data in floating point, so that it is a linear layer.
//
// Its weight B is [N, blocks, block_size · bits / 8] bytes that hold N rows of
// K numbers, low bits first; a block has a scale and a zero point.
func (s *scope) dequantizeProduct(l *linear) error {
	n := l.node
	if s.dequantizer == nil {
		return errQuantized
	}
	if n.OpType != "MatMulNBits" || n.Domain != contrib {
		return fmt.Errorf("its weights are quantised in %s, which cannot be dequantised: start from the model before quantisation", nodeName(n))
	}
	rows, columns, block, bits := n.Int("N", 0), n.Int("K", 0), n.Int("block_size", 0), n.Int("bits", 4)
	kind := map[int64]onnx.DataType{2: onnx.Uint2, 4: onnx.Uint4, 8: onnx.Uint8}[bits]
	if rows < 1 || columns < 1 || rows > math.MaxInt32 || columns > math.MaxInt32 || block < 8 || block > math.MaxInt32 || block%8 != 0 || kind == onnx.Undefined {
		return fmt.Errorf("%s has N %d, K %d, block_size %d and %d bits, which is not supported", nodeName(n), rows, columns, block, bits)
	}
	if n.Input(4) != "" {
		return fmt.Errorf("%s orders its columns by g_idx, which is not supported", nodeName(n))
	}
	blocks := (columns + block - 1) / block
	perByte := 8 / bits
	zeroRow := (blocks + perByte - 1) / perByte * perByte // rows of zero points are padded to whole bytes

	var in [4]*constant
	for _, want := range []struct {
		slot     int
		name     string
		elements int64
	}{{1, "B", rows * blocks * block / perByte}, {2, "scales", rows * blocks}, {3, "zero_points", rows * zeroRow / perByte}} {
		if want.slot == 3 && n.Input(3) == "" {
			continue
		}
		c, err := s.constant(n.Input(want.slot))
		if err != nil {
			return err
		}
		if want.slot == 3 && c.elementType() != onnx.Uint8 {
			zeroRow, want.elements = blocks, rows*blocks
		}
		if !c.untouched() || c.elements() != want.elements {
			return fmt.Errorf("%s has %s of shape %v, must have %d elements", nodeName(n), want.name, c.dims, want.elements)
		}
		in[want.slot] = c
	}
	d := &dequantization{scale: in[2].tensor, offset: float64(int64(1) << (bits - 1)), kind: in[2].elementType(), count: rows * blocks * block}
	packed := func(c *constant, dims ...int64) (*onnx.Tensor, error) {
		if c.elementType() != onnx.Uint8 {
			return nil, fmt.Errorf("%s has weights of type %s, must be uint8", nodeName(n), c.elementType())
		}
		data, err := c.tensor.Bytes()
		return onnx.NewTensor(c.tensor.Name, kind, dims, data), err
	}
	var err error
	if d.codes, err = packed(in[1], rows, blocks*block); err != nil {
		return err
	}
	key := fmt.Sprint(n.OpType, rows, columns, block, bits, in[1].key(), in[2].key())
	if zero := in[3]; zero != nil {
		key += zero.key()
		d.zero = zero.tensor
		if zero.elementType() == onnx.Uint8 {
			if d.zero, err = packed(zero, rows, zeroRow); err != nil {
				return err
			}
		}
	}
	d.at = func(i int) (scale, zero, run int) {
		number := i / int(block)
		return number, number/int(blocks)*int(zeroRow) + number%int(blocks), int(block) - i%int(block)
	}
	if err := d.check(); err != nil {
		return fmt.Errorf("%s: %w", nodeName(n), err)
	}
	l.weight = newConstant(s.dequantizer.tensor(key, []int64{rows, blocks * block}, d))
	l.weight.dims[1] = columns
	if n.Input(5) != "" {
		l.readBias(s, n.Input(5), 1)
	}
	return l.problem
}
