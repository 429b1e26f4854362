package cpu

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register(moe.Domain, "AdamUpdate", newAdamUpdate) }

func newAdamUpdate(d *Device, _ *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		for i, in := range c.In {
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
	var in [op.AdamInputs][]T
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
		for i, t := range c.In {
			in[i] = tensor.Of[T](t)
		}
		for i, t := range c.Out {
			if t != nil {
				out[i] = tensor.Of[T](t)
			}
		}
		d.pool.run(length, adamGrain, body)
		return nil
	}
}
