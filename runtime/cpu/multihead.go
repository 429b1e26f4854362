package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("com.microsoft", "MultiHeadAttention", floatKernel(bindMultiHeadAttention[float32], bindMultiHeadAttention[float64], 0))
	register("com.microsoft", "GroupQueryAttention", floatKernel(bindGroupQueryAttention[float32], bindGroupQueryAttention[float64], 0))
	register("com.microsoft", "Attention", newProjectedAttention)
}

// setScale takes the scale of one of ONNX Runtime's attentions, where 0 means
// the usual one.
func (a *attend[T]) setScale(n *op.Node) {
	if scale := n.Float("scale", 0); scale != 0 {
		a.scale = float64(scale)
	}
}

// withBias views vectors with a bias added: that of head h and element j lies at
// start + h·size + j. It returns the function that adds.
func withBias[T simd.Float](d *Device, v headView, batch, heads, length, size int, bias *tensor.Tensor, start int) (headView, func()) {
	if bias == nil {
		return v, func() {}
	}
	to := viewHeads(tensor.New(bias.Type, batch, heads, length, size), heads, length, size)
	body := func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b, h := i/heads, i%heads
			add := tensor.Of[T](bias)[start+h*size:][:size]
			for j := range length {
				y := from[T](to, b, h, j)[:size]
				copy(y, from[T](v, b, h, j))
				addTo(y, add)
			}
		}
	}
	lines := batch * heads
	if size == 0 {
		lines = 0
	}
	return to, func() { d.pool.run(lines, max(1, 4096/max(length*size, 1)), body) }
}

// paddingBias returns the function that applies ONNX Runtime's padding masks:
// it adds filter to the scores of keys that are masked. The mask has for each
// batch the number of keys, behind which the first key may follow, or for each
// key, perhaps of each query, whether it counts.
func paddingBias[T simd.Float](mask *tensor.Tensor, batch, queries, keys int, filter T) func(b, h, i, first int, scores []T) {
	if mask.Rank() == 1 {
		ranges := mask.Shape[0] == 2*batch
		return func(b, _, _, first int, scores []T) {
			lengths := tensor.Of[int32](mask)
			begin, end := 0, int(lengths[b])
			if ranges {
				begin = int(lengths[batch+b])
			}
			for j := range scores {
				if key := first + j; key < begin || key >= end {
					scores[j] += filter
				}
			}
		}
	}
	return func(b, _, i, first int, scores []T) {
		line := b
		if mask.Rank() == 3 {
			line = b*queries + i
		}
		marks := tensor.Of[int32](mask)[line*keys+first:]
		for j := range scores {
			if marks[j] == 0 {
				scores[j] += filter
			}
		}
	}
}

// setMasks takes a padding mask and a bias of the scores, both optional.
func (a *attend[T]) setMasks(n *op.Node, mask, bias *tensor.Tensor) {
	var list []func(b, h, i, first int, scores []T)
	if mask != nil {
		list = append(list, paddingBias(mask, a.batch, a.queries, a.keys, T(n.Float("mask_filter_value", -10000))))
	}
	if bias != nil {
		list = append(list, maskBias[T](bias, false))
	}
	if len(list) > 0 {
		a.bias = func(b, h, i, first int, scores []T) {
			for _, f := range list {
				f(b, h, i, first, scores)
			}
		}
	}
}

// setCausal lets a query see keys up to its own place behind the past ones, or
// all keys.
func (a *attend[T]) setCausal(n *op.Node, past int) {
	right := -1
	if n.Int("unidirectional", 0) != 0 {
		right = 0
	}
	a.visible = func(_, i int) (from, to int) { return window(past+i, -1, right, a.keys) }
}

func bindMultiHeadAttention[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape, err := op.MultiHeadDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	a := newAttend[T](shape)
	a.setScale(n)
	a.setMasks(n, at(c.In, 4), at(c.In, 5))
	a.setCausal(n, int(shape.Past))
	length := int(shape.Keys)

	// packed views part i of those that lie beside each other for each head.
	packed := func(t *tensor.Tensor, i int) headView {
		parts, size := t.Shape[3], t.Shape[4]
		vector := a.heads * parts * size
		return headView{tensor: t, start: i * size, batch: t.Shape[1] * vector, head: parts * size, vector: vector}
	}
	var key, value headView
	switch k := at(c.In, 1); {
	case k == nil:
		a.q, key, value = packed(c.In[0], 0), packed(c.In[0], 1), packed(c.In[0], 2)
	case k.Rank() == 5:
		a.q, key, value = viewHeads(c.In[0], a.heads, a.queries, a.headSize), packed(k, 0), packed(k, 1)
	default:
		a.q = viewHeads(c.In[0], a.heads, a.queries, a.headSize)
		key, value = viewHeads(k, a.heads, length, a.headSize), viewHeads(c.In[2], a.heads, length, a.valueSize)
	}
	bias, hidden := at(c.In, 3), a.heads*a.headSize
	q, addQ := withBias[T](d, a.q, a.batch, a.heads, a.queries, a.headSize, bias, 0)
	a.q = q
	if k := at(c.In, 1); k != nil && k.Rank() == 4 {
		bias = nil // keys and values that are heads already have theirs
	}
	key, addK := withBias[T](d, key, a.batch, a.heads, length, a.headSize, bias, hidden)
	value, addV := withBias[T](d, value, a.batch, a.heads, length, a.valueSize, bias, 2*hidden)
	past := int(shape.Past)
	keys := newCache[T](d, shape, a.headSize, key,
		viewHeads(at(c.In, 6), a.heads, past, a.headSize), viewHeads(at(c.Out, 1), a.heads, a.keys, a.headSize), 0)
	values := newCache[T](d, shape, a.valueSize, value,
		viewHeads(at(c.In, 7), a.heads, past, a.valueSize), viewHeads(at(c.Out, 2), a.heads, a.keys, a.valueSize), 0)
	a.k, a.v = keys.attended, values.attended
	a.y = viewHeads(c.Out[0], a.heads, a.queries, a.valueSize)
	attend := a.bind(d, c.Scratch)
	return func() error {
		addQ()
		addK()
		addV()
		keys.fill()
		values.fill()
		return attend()
	}, nil
}

func bindGroupQueryAttention[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape, err := op.GroupQueryDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	a := newAttend[T](&shape.AttentionShape)
	a.keys = int(shape.Total)
	a.setScale(n)
	a.setMasks(n, nil, at(c.In, 10))
	a.softcap = float64(n.Float("softcap", 0))
	if sink := at(c.In, 11); sink != nil {
		a.sink = func(h int) float64 { return float64(tensor.Of[T](sink)[h]) }
	} else if n.Int("smooth_softmax", 0) != 0 {
		a.sink = func(int) float64 { return 0 }
	}

	// used is the number of keys of a batch, past that of earlier calls.
	prompt := a.queries == a.keys
	used := func(b int) int { return int(tensor.Of[int32](c.In[5])[b]) + 1 }
	past := func(b int) int {
		if prompt {
			return 0
		}
		return used(b) - a.queries
	}
	left, right := int(n.Int("local_window_size", -1)), 0
	if left == 0 {
		left = -1
	}
	causal := n.Int("causal", 1) != 0
	a.visible = func(b, i int) (from, to int) {
		if !causal {
			return 0, used(b)
		}
		return window(past(b)+i, max(left-1, -1), right, a.keys)
	}

	queries, key, value := groupQueryViews(c, shape, a)
	a.q = queries
	rotate := func() error { return nil }
	if n.Int("do_rotary", 0) != 0 {
		a.q, key, rotate = rotateGroupQuery[T](d, c, n, a, key, past)
	}
	capacity := int(shape.Capacity)
	keys, fillKeys := groupQueryCache[T](d, c, 1, 3, a, key, past, capacity)
	values, fillValues := groupQueryCache[T](d, c, 2, 4, a, value, past, capacity)
	a.k, a.v = keys, values
	a.y = viewHeads(c.Out[0], a.heads, a.queries, a.headSize)
	attend := a.bind(d, c.Scratch)
	return func() error {
		for b := range a.batch {
			if used(b) > a.keys || used(b) < 1 || past(b) < 0 || past(b) > int(shape.Past) {
				return fmt.Errorf("seqlens_k is %d in batch %d, which does not fit a total of %d keys, %d new and at most %d past ones",
					used(b)-1, b, a.keys, a.queries, int(shape.Past))
			}
		}
		if err := rotate(); err != nil {
			return err
		}
		fillKeys()
		fillValues()
		return attend()
	}, nil
}

// groupQueryViews views queries, keys and values, which may all lie in
// input 0.
func groupQueryViews[T simd.Float](c *device.Call, s *op.GroupQueryShape, a *attend[T]) (q, k, v headView) {
	if !s.Packed {
		return viewHeads(c.In[0], a.heads, a.queries, a.headSize),
			viewHeads(c.In[1], a.kvHeads, a.queries, a.headSize), viewHeads(c.In[2], a.kvHeads, a.queries, a.headSize)
	}
	q = viewHeads(c.In[0], a.heads+2*a.kvHeads, a.queries, a.headSize)
	k, v = q, q
	k.start = a.heads * a.headSize
	v.start = (a.heads + a.kvHeads) * a.headSize
	return q, k, v
}

// rotateGroupQuery gives queries and new keys rotary embeddings.
func rotateGroupQuery[T simd.Float](d *Device, c *device.Call, n *op.Node, a *attend[T], key headView, past func(b int) int) (headView, headView, func() error) {
	ids := at(c.In, 9)
	turn := func(x headView, heads int) (headView, func() error) {
		y := viewHeads(tensor.New(c.In[0].Type, a.batch, heads, a.queries, a.headSize), heads, a.queries, a.headSize)
		r := &rotary[T]{batch: a.batch, heads: heads, sequence: a.queries, size: a.headSize, half: c.In[7].Shape[1],
			interleaved: n.Int("rotary_interleaved", 0) != 0, x: x, y: y, cos: c.In[7], sin: c.In[8],
			position: func(b, i int) int64 {
				if ids != nil {
					return tensor.Of[int64](ids)[b*a.queries+i]
				}
				return int64(past(b) + i)
			}}
		return y, r.bind(d)
	}
	q, turnQ := turn(a.q, a.heads)
	k, turnK := turn(key, a.kvHeads)
	return q, k, func() error {
		if err := turnQ(); err != nil {
			return err
		}
		return turnK()
	}
}

// groupQueryCache arranges the present keys or values, an output: the buffer
// of the past, an input, into which the new ones are written behind those in
// use.
func groupQueryCache[T simd.Float](d *Device, c *device.Call, output, input int, a *attend[T], added headView, past func(b int) int, capacity int) (headView, func()) {
	present := at(c.Out, output)
	if present == nil {
		present = tensor.New(c.In[0].Type, a.batch, a.kvHeads, capacity, a.headSize)
	}
	to := viewHeads(present, a.kvHeads, capacity, a.headSize)
	size, old := a.headSize, c.In[input]
	body := func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b, h := i/a.kvHeads, i%a.kvHeads
			line := from[T](to, b, h, 0)[:capacity*size]
			kept := 0
			if old != nil {
				length := old.Shape[2] * size
				kept = copy(line, tensor.Of[T](old)[i*length:][:length])
			}
			clear(line[kept:])
			for j := range a.queries {
				copy(line[(past(b)+j)*size:], from[T](added, b, h, j)[:size])
			}
		}
	}
	lines := a.batch * a.kvHeads
	if capacity*size == 0 {
		lines = 0
	}
	grain := max(1, 1<<14/max(capacity*size, 1))
	return to, func() { d.pool.run(lines, grain, body) }
}

// projectedAttention is the kernel of ONNX Runtime's Attention.
type projectedAttention struct {
	device *Device
	node   *op.Node
	packed any // []*simd.Packed[T] where the weights are constant
}

func newProjectedAttention(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	k := &projectedAttention{device: d, node: n}
	if weights := constants[1]; weights != nil && weights.Rank() == 2 {
		k.packed = packConstant(d, weights, []int{0, 1})
	}
	return k, nil
}

// Held implements [device.Holder].
func (k *projectedAttention) Held(i int) int {
	if i != 1 {
		return 0
	}
	return packedSize(k.packed)
}

func (k *projectedAttention) Bind(c *device.Call) (func() error, error) {
	switch t := c.In[0].Type; t {
	case onnx.Float32:
		return bindProjectedAttention[float32](k, c)
	case onnx.Float64:
		return bindProjectedAttention[float64](k, c)
	default:
		return nil, device.UnsupportedType(t)
	}
}

func bindProjectedAttention[T simd.Float](k *projectedAttention, c *device.Call) (func() error, error) {
	d, n := k.device, k.node
	shape, err := op.ProjectedDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	a := newAttend[T](shape)
	a.setScale(n)
	a.setMasks(n, at(c.In, 3), at(c.In, 5))
	a.setCausal(n, int(shape.Past))

	width := c.In[1].Shape[1]
	projected := tensor.New(c.In[0].Type, a.batch*a.queries, width)
	p := &product[T]{a: newStack([]int{a.batch * a.queries, c.In[1].Shape[0]}, []int{0, 1}, []int{}),
		b: newStack(c.In[1].Shape, []int{0, 1}, []int{})}
	p.packed, _ = k.packed.([]*simd.Packed[T])
	if bias := at(c.In, 2); bias != nil {
		p.finish = func(piece []T, stride, _, col, rows, cols int) {
			for i := range rows {
				addTo(piece[i*stride:][:cols], tensor.Of[T](bias)[col:])
			}
		}
	}
	project := p.bind(d, c.Scratch, func() (out, left, right []T) {
		return tensor.Of[T](projected), tensor.Of[T](c.In[0]), tensor.Of[T](c.In[1])
	})
	part := func(start, size int) headView {
		return headView{tensor: projected, start: start, batch: a.queries * width, head: size, vector: width}
	}
	hidden := a.heads * a.headSize
	a.q = part(0, a.headSize)
	key, value := part(hidden, a.headSize), part(2*hidden, a.valueSize)
	// Keys and values of the past share a tensor, and so do those to come.
	pair := func(t *tensor.Tensor, i, length int) headView {
		v := viewHeads(t, a.heads, length, a.headSize)
		v.start = i * a.batch * v.batch
		return v
	}
	keys := newCache[T](d, shape, a.headSize, key, pair(at(c.In, 4), 0, int(shape.Past)), pair(at(c.Out, 1), 0, a.keys), 0)
	values := newCache[T](d, shape, a.valueSize, value, pair(at(c.In, 4), 1, int(shape.Past)), pair(at(c.Out, 1), 1, a.keys), 0)
	a.k, a.v = keys.attended, values.attended
	a.y = viewHeads(c.Out[0], a.heads, a.queries, a.valueSize)
	attend := a.bind(d, c.Scratch)
	return func() error {
		if err := project(); err != nil {
			return err
		}
		keys.fill()
		values.fill()
		return attend()
	}, nil
}
