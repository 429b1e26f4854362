package cpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register(moe.Domain, "AdamUpdate", newAdamUpdate)
	register(moe.Domain, "SumOfSquares", newSumOfSquares)
}

func newAdamUpdate(d *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		for i, in := range c.In {
			if in == nil {
				continue
			}
			if want := c.In[op.AdamWeight].Len(); i <= op.AdamSecond && in.Len() != want || i > op.AdamSecond && in.Len() != 1 {
				return nil, fmt.Errorf("input %d is %s, weight %s", i, in, c.In[op.AdamWeight])
			}
		}
		switch c.In[op.AdamWeight].Type {
		case onnx.Float32:
			return adamUpdate[float32](d, c), nil
		case onnx.Float64:
			return adamUpdate[float64](d, c), nil
		}
		return nil, device.UnsupportedType(c.In[op.AdamWeight].Type)
	}), nil
}

// adamGrain is the number of elements that are worth a thread's while.
const adamGrain = 1 << 13

func adamUpdate[T float32 | float64](d *Device, c *device.Call) func() error {
	var in [op.AdamApply][]T
	var out [3][]T
	body := func(lo, hi int) {
		number := func(i int) T { return in[i][0] }
		scale, decay, keep := number(op.AdamScale), number(op.AdamDecay), number(op.AdamKeep)
		beta1, rest1, beta2, rest2 := number(op.AdamBeta1), number(op.AdamRest1), number(op.AdamBeta2), number(op.AdamRest2)
		rate, root, epsilon := number(op.AdamRate), number(op.AdamRoot), number(op.AdamEpsilon)
		n := hi - lo
		w, g, m, v := in[op.AdamWeight][lo:hi][:n], in[op.AdamGradient][lo:hi][:n], in[op.AdamFirst][lo:hi][:n], in[op.AdamSecond][lo:hi][:n]
		newW, newM, newV := out[0][lo:hi][:n], out[1][lo:hi][:n], out[2][lo:hi][:n]
		for i, x := range w {
			gradient := scale*g[i] + decay*x
			first := beta1*m[i] + rest1*gradient
			second := beta2*v[i] + rest2*gradient*gradient
			newM[i], newV[i] = first, second
			newW[i] = keep*x - rate*first/(root*T(math.Sqrt(float64(second)))+epsilon)
		}
	}
	length := c.In[op.AdamWeight].Len()
	for i, t := range c.Out {
		if t == nil { // nobody wants it
			out[i] = make([]T, length)
		}
	}
	return func() error {
		for i, t := range c.In[:op.AdamApply] {
			in[i] = tensor.Of[T](t)
		}
		for i, t := range c.Out {
			if t != nil {
				out[i] = tensor.Of[T](t)
			}
		}
		if len(c.In) > op.AdamApply && c.In[op.AdamApply] != nil && !tensor.Of[bool](c.In[op.AdamApply])[0] {
			for i, from := range []int{op.AdamWeight, op.AdamFirst, op.AdamSecond} {
				copy(out[i], in[from])
			}
			return nil
		}
		d.pool.run(length, adamGrain, body)
		return nil
	}
}

// The elements whose squares a thread adds at a time, and those of them that
// are added in the inputs' own type.
const (
	squaresGrain = 1 << 18
	squaresPiece = 1 << 10
)

// newSumOfSquares adds in an order that depends on lengths alone.
func newSumOfSquares(d *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		switch c.Out[0].Type {
		case onnx.Float32:
			return sumOfSquares[float32](d, c), nil
		case onnx.Float64:
			return sumOfSquares[float64](d, c), nil
		}
		return nil, device.UnsupportedType(c.Out[0].Type)
	}), nil
}

func sumOfSquares[T float32 | float64](d *Device, c *device.Call) func() error {
	type part struct {
		of, lo, hi int
		sum        float64
	}
	var parts []part
	for i, t := range c.In {
		for lo := 0; t != nil && lo < t.Len(); lo += squaresGrain {
			parts = append(parts, part{of: i, lo: lo, hi: min(lo+squaresGrain, t.Len())})
		}
	}
	sums := make([]float64, len(c.In))
	body := func(lo, hi int) {
		for i := range parts[lo:hi] {
			p := &parts[lo+i]
			p.sum = 0
			for x := range slices.Chunk(tensor.Of[T](c.In[p.of])[p.lo:p.hi], squaresPiece) {
				p.sum += float64(simd.Dot(x, x))
			}
		}
	}
	return func() error {
		d.pool.run(len(parts), 1, body)
		clear(sums)
		for i := range parts {
			sums[parts[i].of] += parts[i].sum
		}
		for i, x := range sums {
			tensor.Of[T](c.Out[0])[i] = T(x)
		}
		return nil
	}
}
