package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, domain := range []string{"", "com.microsoft"} {
		register(domain, "RotaryEmbedding", floatKernel(bindRotaryEmbedding[float32], bindRotaryEmbedding[float64], 0))
	}
}

func bindRotaryEmbedding[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape, err := op.RotaryDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	cos, sin, ids := op.RotaryInputs(n)
	heads, sequence, size := int(shape.Heads), int(shape.Sequence), int(shape.HeadSize)
	r := &rotary[T]{
		batch: int(shape.Batch), heads: heads, sequence: sequence, size: size, half: int(shape.Half),
		interleaved: n.Int("interleaved", 0) != 0,
		x:           viewHeads(c.In[0], heads, sequence, size), y: viewHeads(c.Out[0], heads, sequence, size),
		cos: c.In[cos], sin: c.In[sin],
	}
	positions := at(c.In, ids)
	r.position = func(b, i int) int64 {
		switch {
		case positions == nil: // the tables have a row for each token
			return int64(b*sequence + i)
		case positions.Rank() == 1:
			return tensor.Of[int64](positions)[0] + int64(i)
		}
		return tensor.Of[int64](positions)[b*sequence+i]
	}
	return r.bind(d), nil
}

// rotary rotates pairs of elements of x by the angles of their positions.
type rotary[T simd.Float] struct {
	batch, heads, sequence, size int
	half                         int // pairs of a head that are rotated
	interleaved                  bool
	x, y                         headView
	cos, sin                     *tensor.Tensor       // [rows, half]
	position                     func(b, i int) int64 // row of the tables for token i
}

func (r *rotary[T]) bind(d *Device) func() error {
	body := func(lo, hi int) {
		cos, sin := tensor.Of[T](r.cos), tensor.Of[T](r.sin)
		for token := lo; token < hi; token++ {
			b, i := token/r.sequence, token%r.sequence
			row := int(r.position(b, i)) * r.half
			for h := range r.heads {
				x, y := from[T](r.x, b, h, i)[:r.size], from[T](r.y, b, h, i)[:r.size]
				rotate(y, x, cos[row:row+r.half], sin[row:row+r.half], r.interleaved)
			}
		}
	}
	tokens := r.batch * r.sequence
	if r.size == 0 {
		tokens = 0
	}
	grain := max(1, 4096/max(r.heads*r.size, 1))
	return func() error {
		rows := int64(0)
		if r.half > 0 {
			rows = int64(r.cos.Len() / r.half)
		}
		for token := range tokens {
			if p := r.position(token/r.sequence, token%r.sequence); r.half > 0 && (p < 0 || p >= rows) {
				return fmt.Errorf("position %d is outside tables of %d rows", p, rows)
			}
		}
		d.pool.run(tokens, grain, body)
		return nil
	}
}

// rotate turns pair i by the angle whose cosine and sine are given. A pair is
// two neighbours where interleaved, else element i of each half. Elements
// beyond the pairs are copied. y may be x.
func rotate[T simd.Float](y, x, cos, sin []T, interleaved bool) {
	half := len(cos)
	first, second, step := 0, half, 1
	if interleaved {
		second, step = 1, 2
	}
	for i := range half {
		a, b := x[first+i*step], x[second+i*step]
		y[first+i*step] = cos[i]*a - sin[i]*b
		y[second+i*step] = sin[i]*a + cos[i]*b
	}
	copy(y[2*half:], x[2*half:])
}
