package cpu

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Cast", newCast)
	registerAnyType("", "CastLike", newCast)
}

func newCast(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	rounding, err := op.CastRounding(n)
	if err != nil {
		return nil, err
	}
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		from, to := c.In[0].Type, c.Out[0].Type
		switch {
		case from == to:
			return func() error {
				copy(c.Out[0].Data, c.In[0].Data)
				copy(c.Out[0].Strings, c.In[0].Strings)
				return nil
			}, nil
		case from == onnx.String:
			return bindParse(c, rounding)
		case to == onnx.String:
			return bindFormat(c)
		case tensor.Narrow(from):
			return bindCastNarrow(d, c, rounding)
		}
		switch from {
		case onnx.Float32:
			return bindCast[float32](d, c, rounding)
		case onnx.Float64:
			return bindCast[float64](d, c, rounding)
		case onnx.Int8:
			return bindCast[int8](d, c, rounding)
		case onnx.Int16:
			return bindCast[int16](d, c, rounding)
		case onnx.Int32:
			return bindCast[int32](d, c, rounding)
		case onnx.Int64:
			return bindCast[int64](d, c, rounding)
		case onnx.Uint8, onnx.Bool:
			return bindCast[uint8](d, c, rounding)
		case onnx.Uint16:
			return bindCast[uint16](d, c, rounding)
		case onnx.Uint32:
			return bindCast[uint32](d, c, rounding)
		case onnx.Uint64:
			return bindCast[uint64](d, c, rounding)
		}
		return nil, device.UnsupportedType(from)
	}), nil
}

// A store writes numbers to a tensor, from element lo on, a multiple of 8.
type store[S number] func(t *tensor.Tensor, lo int, x []S)

// newStore returns how to write numbers of type S to elements of type to, nil
// where that is not possible.
func newStore[S number](to onnx.DataType, rounding tensor.Rounding) store[S] {
	switch {
	case tensor.Narrow(to):
		return func(t *tensor.Tensor, lo int, x []S) { tensor.WriteNarrow(t, lo, x, rounding) }
	case to == onnx.Bool:
		return storeEach(func(x S) bool { return x != 0 })
	}
	switch to {
	case onnx.Float32:
		return storeEach(func(x S) float32 { return float32(x) })
	case onnx.Float64:
		return storeEach(func(x S) float64 { return float64(x) })
	case onnx.Int8:
		return storeEach(func(x S) int8 { return int8(int64(x)) })
	case onnx.Int16:
		return storeEach(func(x S) int16 { return int16(int64(x)) })
	case onnx.Int32:
		return storeEach(func(x S) int32 { return int32(int64(x)) })
	case onnx.Int64:
		return storeEach(func(x S) int64 { return int64(x) })
	case onnx.Uint8:
		return storeEach(func(x S) uint8 { return uint8(int64(x)) })
	case onnx.Uint16:
		return storeEach(func(x S) uint16 { return uint16(int64(x)) })
	case onnx.Uint32:
		return storeEach(func(x S) uint32 { return uint32(int64(x)) })
	case onnx.Uint64:
		return storeEach(func(x S) uint64 {
			if x < 0 {
				return uint64(int64(x))
			}
			return uint64(x)
		})
	}
	return nil
}

func storeEach[S number, D tensor.Element](f func(S) D) store[S] {
	loop := each(f)
	return func(t *tensor.Tensor, lo int, x []S) { loop(tensor.Of[D](t)[lo:lo+len(x)], x) }
}

// bindCast converts from a type that Go has.
func bindCast[S number](d *Device, c *device.Call, rounding tensor.Rounding) (func() error, error) {
	put := newStore[S](c.Out[0].Type, rounding)
	if put == nil {
		return nil, device.UnsupportedType(c.Out[0].Type)
	}
	return d.overChunks(c.Out[0], func(lo, hi int) {
		put(c.Out[0], lo, tensor.Of[S](c.In[0])[lo:hi])
	}), nil
}

// bindCastNarrow converts from a narrow type by way of float32, which holds
// its values.
func bindCastNarrow(d *Device, c *device.Call, rounding tensor.Rounding) (func() error, error) {
	put := newStore[float32](c.Out[0].Type, rounding)
	if put == nil {
		return nil, device.UnsupportedType(c.Out[0].Type)
	}
	buffers := newBuffers[float32](d)
	return d.overChunks(c.Out[0], func(lo, hi int) {
		buffer := buffers.take()
		x := buffer[:hi-lo]
		tensor.ReadNarrow(x, c.In[0], lo)
		put(c.Out[0], lo, x)
		buffers.give(buffer)
	}), nil
}

// overChunks is overElements for a body that gets pieces which begin at
// multiples of elementwiseChunk.
func (d *Device) overChunks(t *tensor.Tensor, body func(lo, hi int)) func() error {
	chunks := func(first, last int) {
		n := t.Len()
		for i := first; i < last; i++ {
			body(i*elementwiseChunk, min((i+1)*elementwiseChunk, n))
		}
	}
	return func() error {
		d.pool.run((t.Len()+elementwiseChunk-1)/elementwiseChunk, elementwiseGrain/elementwiseChunk, chunks)
		return nil
	}
}

// bindParse reads numbers from strings: "3.14", "1e-5", "INF", "-inf", "NaN".
func bindParse(c *device.Call, rounding tensor.Rounding) (func() error, error) {
	to := c.Out[0].Type
	if to.IsFloat() || to == onnx.Bool {
		return parseEach(c, newStore[float64](to, rounding), parseFloat), nil
	}
	put := newStore[int64](to, rounding)
	if put == nil {
		return nil, device.UnsupportedType(to)
	}
	return parseEach(c, put, parseInt), nil
}

func parseEach[T number](c *device.Call, put store[T], parse func(string) (T, error)) func() error {
	var group [8]T // see store
	return func() error {
		in := c.In[0].Strings
		for lo := 0; lo < len(in); lo += len(group) {
			piece := in[lo:min(lo+len(group), len(in))]
			for i, s := range piece {
				var err error
				if group[i], err = parse(strings.TrimSpace(s)); err != nil {
					return fmt.Errorf("element %d: %q is not a number that fits %s", lo+i, s, c.Out[0].Type)
				}
			}
			put(c.Out[0], lo, group[:len(piece)])
		}
		return nil
	}
}

// parseFloat accepts numbers beyond the range of float64 as infinite.
func parseFloat(s string) (float64, error) {
	x, err := strconv.ParseFloat(s, 64)
	if errors.Is(err, strconv.ErrRange) {
		return x, nil
	}
	return x, err
}

// parseInt accepts fractions, which it cuts off, and 64-bit numbers with and
// without a sign.
func parseInt(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return int64(n), nil
	}
	x, err := strconv.ParseFloat(s, 64)
	if err == nil && !(math.Abs(x) < 1<<63) {
		err = strconv.ErrRange
	}
	return int64(x), err
}

// bindFormat writes numbers in plain notation, with as many digits as tell
// them from their neighbours.
func bindFormat(c *device.Call) (func() error, error) {
	if from := c.In[0].Type; from == onnx.Complex64 || from == onnx.Complex128 {
		return nil, device.UnsupportedType(from)
	}
	return func() error {
		in, out := c.In[0], c.Out[0].Strings
		switch {
		case in.Type == onnx.Uint64:
			for i, x := range tensor.Of[uint64](in) {
				out[i] = strconv.FormatUint(x, 10)
			}
		case in.Type == onnx.Float64:
			for i, x := range tensor.Of[float64](in) {
				out[i] = formatFloat(x, 64)
			}
		case in.Type == onnx.Float32:
			for i, x := range tensor.Of[float32](in) {
				out[i] = formatFloat(float64(x), 32)
			}
		case tensor.Narrow(in.Type):
			x := make([]float32, len(out))
			tensor.ReadNarrow(x, in, 0)
			for i := range x {
				out[i] = formatFloat(float64(x[i]), 32)
			}
		default:
			ints, err := in.Ints()
			if err != nil {
				return err
			}
			for i, x := range ints {
				out[i] = strconv.FormatInt(x, 10)
			}
		}
		return nil
	}, nil
}

func formatFloat(x float64, bits int) string {
	switch {
	case math.IsInf(x, 1):
		return "INF"
	case math.IsInf(x, -1):
		return "-INF"
	}
	return strconv.FormatFloat(x, 'f', -1, bits)
}
