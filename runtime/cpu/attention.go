package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Attention", floatKernel(bindAttention[float32], bindAttention[float64], 0, 1, 2, 4, 5))
	register(moe.Domain, "AttentionGradient", floatKernel(bindAttentionGradient[float32], bindAttentionGradient[float64], 0, 1, 2, op.AttentionGradientInput, op.AttentionSinkInput))
}

func bindAttention[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape, err := op.AttentionDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	a := newAttend[T](shape)
	a.take(c, n, shape, n.Since < 24)
	a.y = viewHeads(c.Out[0], a.heads, a.queries, a.valueSize)
	past, added := int(shape.Past), int(shape.Keys)
	keys := newCache[T](d, shape, a.headSize, viewHeads(c.In[1], a.kvHeads, added, a.headSize).apart(c.Room(1)),
		viewHeads(at(c.In, 4), a.kvHeads, past, a.headSize), viewHeads(at(c.Out, 1), a.kvHeads, a.keys, a.headSize), c.Room(4))
	values := newCache[T](d, shape, a.valueSize, viewHeads(c.In[2], a.kvHeads, added, a.valueSize).apart(c.Room(2)),
		viewHeads(at(c.In, 5), a.kvHeads, past, a.valueSize), viewHeads(at(c.Out, 2), a.kvHeads, a.keys, a.valueSize), c.Room(5))
	a.k, a.v = keys.attended, values.attended
	a.probe, a.probeStage = at(c.Out, 3), int(n.Int("qk_matmul_output_mode", 0))

	attend := a.bind(d, c.Scratch)
	return func() error {
		keys.fill()
		values.fill()
		return attend()
	}, nil
}

// take takes queries, scale and masks from a node of Attention or its gradient.
func (a *attend[T]) take(c *device.Call, n *op.Node, s *op.AttentionShape, broadcastKeys bool) {
	if scale := n.Attribute("scale"); scale != nil {
		a.scale = float64(scale.Float)
	}
	a.softcap = float64(n.Float("softcap", 0))
	a.q = viewHeads(c.In[0], a.heads, a.queries, a.headSize)
	lengths := at(c.In, 6)
	left, right := int(n.Int("left_window_size", -1)), int(n.Int("right_window_size", -1))
	if n.Int("is_causal", 0) != 0 {
		right = 0
	}
	a.visible = func(b, i int) (from, to int) {
		offset, to := int(s.Past), a.keys
		if lengths != nil {
			length := tensor.Of[int64](lengths)[b]
			to = int(min(max(length, 0), int64(a.keys)))
			offset = to - a.queries
		}
		return window(offset+i, left, right, to)
	}
	if mask := at(c.In, 3); mask != nil {
		a.bias = maskBias[T](mask, broadcastKeys)
	}
}

// window returns the keys among the first length ones that a query at the
// given position sees; a negative bound does not bound.
func window(position, left, right, length int) (from, to int) {
	to = length
	if right >= 0 && right < length { // a larger one could overflow
		to = max(min(to, position+right+1), 0)
	}
	if left >= 0 && left < length+max(position, 0) {
		from = max(position-left, 0)
	}
	return min(from, to), to
}

// inferenceOf states what is known of a call in the form that inference has.
func inferenceOf(n *op.Node, c *device.Call) *op.Inference {
	facts := make([]op.Fact, len(c.In))
	for i, t := range c.In {
		if t != nil {
			facts[i] = op.Fact{Type: t.Type, Shape: op.Dims(t.Shape...)}
		}
	}
	for _, i := range n.Operator.Parameters {
		if t := at(c.In, i); t != nil {
			facts[i].Value = t
		}
	}
	return &op.Inference{Node: n, Inputs: facts, Symbols: &op.Symbols{}}
}

// headView shows a tensor as vectors, one for each batch, head and place in a
// sequence. A vector is contiguous; start and strides count elements.
type headView struct {
	tensor              *tensor.Tensor
	start               int
	batch, head, vector int
}

// viewHeads views a dense tensor [batch, heads, length, size] or, of rank 3,
// [batch, length, heads·size]. Without a tensor it is a view of nothing.
func viewHeads(t *tensor.Tensor, heads, length, size int) headView {
	if t == nil {
		return headView{}
	}
	v := headView{tensor: t, batch: heads * length * size, head: length * size, vector: size}
	if t.Rank() == 3 {
		v.head, v.vector = size, heads*size
	}
	return v
}

// apart lets the heads of a dense view lie room vectors apart, if not 0.
func (v headView) apart(room int) headView {
	if room > 0 {
		v.batch, v.head = v.batch/max(v.head, 1)*room*v.vector, room*v.vector
	}
	return v
}

// from returns the elements from a vector on.
func from[T simd.Float](v headView, batch, head, i int) []T {
	return tensor.Of[T](v.tensor)[v.start+batch*v.batch+head*v.head+i*v.vector:]
}

// cache is a sequence of keys or values: those of the past followed by new
// ones.
type cache[T simd.Float] struct {
	attended headView
	fill     func() // puts past and new ones together
}

// newCache arranges keys or values of the given size. past and present, the
// output for past and new ones together, may be views of nothing. With room,
// they are the same memory.
func newCache[T simd.Float](d *Device, s *op.AttentionShape, size int, added, past, present headView, room int) cache[T] {
	batch, heads, before, length := int(s.Batch), int(s.KVHeads), int(s.Past), int(s.Past+s.Keys)
	if present.tensor == nil && past.tensor != nil {
		present = viewHeads(tensor.New(past.tensor.Type, batch, heads, length, size), heads, length, size)
	}
	if present.tensor == nil || size == 0 || length == 0 {
		return cache[T]{attended: added, fill: func() {}}
	}
	present = present.apart(room)
	body := func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b, h := i/heads, i%heads
			if before > 0 && room == 0 {
				copy(from[T](present, b, h, 0), from[T](past, b, h, 0)[:before*size])
			}
			for j := before; j < length; j++ {
				copy(from[T](present, b, h, j), from[T](added, b, h, j-before)[:size])
			}
		}
	}
	grain := max(1, 1<<14/(length*size))
	return cache[T]{attended: present, fill: func() { d.pool.run(batch*heads, grain, body) }}
}

// maskBias returns the function that applies a mask [batch, heads, queries,
// keys], whose dimensions broadcast and of which leading ones may lack, to
// scores. Keys beyond the mask's end are masked, unless broadcastKeys lets a
// mask of one key stand for all.
func maskBias[T simd.Float](mask *tensor.Tensor, broadcastKeys bool) func(b, h, i, first int, scores []T) {
	var strides [3]int
	width := mask.Shape[mask.Rank()-1]
	for i, stride := mask.Rank()-2, width; i >= 0; i-- {
		if mask.Shape[i] != 1 {
			strides[i+4-mask.Rank()] = stride
		}
		stride *= mask.Shape[i]
	}
	single := broadcastKeys && width == 1
	return func(b, h, i, first int, scores []T) {
		start := b*strides[0] + h*strides[1] + i*strides[2]
		covered := scores[:max(0, min(width-first, len(scores)))]
		first = min(first, width)
		if mask.Type == onnx.Bool {
			line := tensor.Of[bool](mask)[start:][:width]
			if single && line[0] {
				return
			}
			keep(covered, line[first:])
		} else if line := tensor.Of[T](mask)[start:][:width]; single {
			for j := range scores {
				addMask(scores[j:j+1], line)
			}
			return
		} else {
			addMask(covered, line[first:])
		}
		hide(scores[len(covered):])
	}
}

// addMask adds mask to scores. Where mask is −∞, so is the score then, were it
// +∞ before.
func addMask[T simd.Float](scores, mask []T) {
	if x, ok := any(scores).([]float32); ok {
		simd.AddMask(x, any(mask).([]float32)[:len(x)])
		return
	}
	for j := range scores {
		if m := mask[j]; math.IsInf(float64(m), -1) {
			scores[j] = m
		} else {
			scores[j] += m
		}
	}
}

// keep hides the scores for which mask does not hold.
func keep[T simd.Float](scores []T, mask []bool) {
	if x, ok := any(scores).([]float32); ok {
		simd.Keep(x, mask[:len(x)])
		return
	}
	for j := range scores {
		if !mask[j] {
			scores[j] = T(math.Inf(-1))
		}
	}
}
