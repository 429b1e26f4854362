package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "LinearAttention", floatKernel(bindLinearAttention[float32], bindLinearAttention[float64], 0, 3))
	register("", "CausalConvWithState", floatKernel(bindCausalConv[float32], bindCausalConv[float64], 0))
}

// bindLinearAttention runs the recurrence token by token, in parallel over
// batches and heads of keys. A head's state is a matrix of keys by values.
func bindLinearAttention[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	s, err := op.LinearAttentionDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	batch, heads, shared, length := int(s.Batch), int(s.Heads), int(s.KVHeads), int(s.Queries)
	size, width := int(s.HeadSize), int(s.ValueSize)
	rule := n.String("update_rule", "gated_delta")
	gated, delta := rule == "gated" || rule == "gated_delta", rule == "delta" || rule == "gated_delta"
	scale := float64(n.Float("scale", 0))
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(size))
	}
	q, k := viewHeads(c.In[0], heads, length, size), viewHeads(c.In[1], shared, length, size)
	v, y := viewHeads(c.In[2], shared, length, width), viewHeads(wanted(c, 0, c.In[0].Type, batch, length, heads*width), heads, length, width)
	present := wanted(c, 1, c.In[0].Type, batch, shared, size, width)
	space := newWorkspace[T](d, c.Scratch, 0, width)
	body := func(lo, hi int) {
		number, change := space.take()
		defer space.give(number)
		change = change[:width]
		for i := lo; i < hi; i++ {
			b, h := i/shared, i%shared
			state := tensor.Of[T](present)[i*size*width:][:size*width]
			if past := at(c.In, 3); past != nil {
				copy(state, tensor.Of[T](past)[i*size*width:])
			} else {
				clear(state)
			}
			row := func(j int) []T { return state[j*width:][:width] }
			for t := range length {
				key := from[T](k, b, h, t)[:size]
				if gated {
					decay, start, step := gateOf[T](c.In[4], b*length+t, shared, h, size)
					for j := range size {
						scaleInto(row(j), row(j), math.Exp(float64(decay[start+j*step])), 0)
					}
				}
				copy(change, from[T](v, b, h, t))
				if delta {
					for j, x := range key {
						simd.Axpy(-x, row(j), change)
					}
					beta, start, _ := gateOf[T](c.In[5], b*length+t, shared, h, 1)
					scaleInto(change, change, float64(beta[start]), 0)
				}
				for j, x := range key {
					simd.Axpy(x, change, row(j))
				}
				for g := range heads / shared {
					head := h*(heads/shared) + g
					out := from[T](y, b, head, t)[:width]
					clear(out)
					for j, x := range from[T](q, b, head, t)[:size] {
						simd.Axpy(x*T(scale), row(j), out)
					}
				}
			}
		}
	}
	return func() error {
		space.open()
		d.pool.run(batch*shared, max(1, pieceWork/max(1, length*size*width)), body)
		return nil
	}, nil
}

// gateOf returns where a gate's entries for the key elements of a head lie, for
// a token: element j at start + j·step of the list. The gate has an entry for
// each element of each head, for each head, or one for all.
func gateOf[T simd.Float](t *tensor.Tensor, token, heads, head, size int) (list []T, start, step int) {
	width := t.Shape[2]
	list = tensor.Of[T](t)[token*width:][:width]
	switch width {
	case heads:
		return list, head, 0
	case heads * size:
		return list, head * size, 1
	}
	return list, 0, 0
}

// bindCausalConv convolves each channel with what came before it.
func bindCausalConv[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	batch, channels, length := c.In[0].Shape[0], c.In[0].Shape[1], c.In[0].Shape[2]
	taps := c.In[1].Shape[2]
	out := wanted(c, 0, c.In[0].Type, c.In[0].Shape...)
	state := at(c.Out, 1)
	activate := n.String("activation", "none") != "none"
	space := newWorkspace[T](d, c.Scratch, 0, taps-1+length)
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		all := work[:taps-1+length] // the state, then the input
		for i := lo; i < hi; i++ {
			clear(all[:taps-1])
			if past := at(c.In, 3); past != nil {
				copy(all[:taps-1], tensor.Of[T](past)[i*(taps-1):])
			}
			copy(all[taps-1:], tensor.Of[T](c.In[0])[i*length:])
			y := tensor.Of[T](out)[i*length:][:length]
			start := T(0)
			if bias := at(c.In, 2); bias != nil {
				start = tensor.Of[T](bias)[i%channels]
			}
			for j := range y {
				y[j] = start
			}
			for j, w := range tensor.Of[T](c.In[1])[i%channels*taps:][:taps] {
				simd.Axpy(w, all[j:j+length], y)
			}
			if activate {
				for j, v := range y {
					y[j] = T(float64(v) / (1 + math.Exp(-float64(v))))
				}
			}
			if state != nil {
				copy(tensor.Of[T](state)[i*(taps-1):][:taps-1], all[length:])
			}
		}
	}
	return func() error {
		space.open()
		d.pool.run(batch*channels, max(1, 4096/max(taps*length, 1)), body)
		return nil
	}, nil
}
