//go:build fmoecuda

package cuda

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register("", bindAttention, "Attention") }

// The parameters of kernels, laid out as in attention.cu.
type viewParameters struct {
	at                  uintptr
	batch, head, vector int64
}

type attentionParameters struct {
	q, k, v, y                     viewParameters
	mask                           uintptr
	maskBatch, maskHead, maskQuery int64
	boolean, maskKeys              int32
	heads, kvHeads, queries, keys  int32
	size, valueSize                int32
	past, causal, left             int32
	scale, softcap                 float32
}

// heads views a tensor [batch, heads, length, size] or [batch, length,
// heads·size].
func heads(t *tensor.Tensor, count, length, size int) viewParameters {
	if t.Rank() == 3 {
		return viewParameters{batch: int64(count * length * size), head: int64(size), vector: int64(count * size)}
	}
	return viewParameters{batch: int64(count * length * size), head: int64(length * size), vector: int64(size)}
}

const (
	attentionThreads = 128
	attentionSize    = 256 // of vectors at most
)

// bindAttention leaves to the CPU caches, scores as an output and lengths of
// sequences.
func bindAttention(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	q, k, v, mask, y := c.In[0], c.In[1], c.In[2], at(c.In, 3), c.Out[0]
	end, err := endingOfAll(q, k, v)
	if err != nil {
		return nil, err
	}
	if at(c.In, 4) != nil || at(c.In, 6) != nil || !wantsOnly(c, 1) {
		return nil, errForm
	}
	facts := make([]op.Fact, len(c.In))
	for i, t := range c.In {
		if t != nil {
			facts[i] = op.Fact{Type: t.Type, Shape: op.Dims(t.Shape...)}
		}
	}
	s, err := op.AttentionDims(&op.Inference{Node: n, Inputs: facts, Symbols: &op.Symbols{}})
	if err != nil {
		return nil, err
	}
	if s.HeadSize > attentionSize || s.ValueSize > attentionSize || s.KVHeads == 0 || s.Keys == 0 || n.Int("right_window_size", -1) > 0 {
		return nil, errForm
	}
	l, err := newLaunch[attentionParameters](d, "attention"+end, attentionThreads, int(s.Queries), int(s.Heads), int(s.Batch))
	if err != nil {
		return nil, err
	}
	*l.p = attentionParameters{
		q: heads(q, int(s.Heads), int(s.Queries), int(s.HeadSize)), k: heads(k, int(s.KVHeads), int(s.Keys), int(s.HeadSize)),
		v: heads(v, int(s.KVHeads), int(s.Keys), int(s.ValueSize)), y: heads(y, int(s.Heads), int(s.Queries), int(s.ValueSize)),
		heads: int32(s.Heads), kvHeads: int32(s.KVHeads), queries: int32(s.Queries), keys: int32(s.Keys),
		size: int32(s.HeadSize), valueSize: int32(s.ValueSize),
		left: int32(n.Int("left_window_size", -1)), softcap: n.Float("softcap", 0),
		scale: n.Float("scale", float32(1/math.Sqrt(float64(s.HeadSize)))),
	}
	if n.Int("is_causal", 0) != 0 || n.Int("right_window_size", -1) == 0 {
		l.p.causal = 1
	}
	if mask != nil {
		switch {
		case mask.Type == onnx.Bool:
			l.p.boolean = 1
		case mask.Type != q.Type:
			return nil, errForm
		}
		keys := mask.Shape[mask.Rank()-1]
		if keys == 1 && s.Keys != 1 {
			return nil, errForm
		}
		strides, err := broadcastStrides(mask.Shape, []int{int(s.Batch), int(s.Heads), int(s.Queries), keys})
		if err != nil {
			return nil, err
		}
		l.p.maskBatch, l.p.maskHead, l.p.maskQuery, l.p.maskKeys = int64(strides[0]), int64(strides[1]), int64(strides[2]), int32(keys)
	}
	return func() error {
		l.p.q.at, l.p.k.at, l.p.v.at, l.p.y.at, l.p.mask = address(q), address(k), address(v), address(y), address(mask)
		return l.run()
	}, nil
}
