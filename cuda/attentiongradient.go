//go:build fmoecuda

package cuda

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register(moe.Domain, bindAttentionGradient, "AttentionGradient") }

// attentionGradientParameters are laid out as in attentiongradient.cu.
type attentionGradientParameters struct {
	q, k, v, dy, dq, dk, dv        viewParameters
	mask, dscores, logSum, mean    uintptr
	maskBatch, maskHead, maskQuery int64
	boolean, maskKeys              int32
	heads, kvHeads, queries, keys  int32
	size, valueSize                int32
	causal, left                   int32
	scale, softcap                 float32
}

// bindAttentionGradient leaves to the CPU lengths of sequences and keys without
// values.
func bindAttentionGradient(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	q, k, v, mask, dy := c.In[0], c.In[1], c.In[2], at(c.In, 3), c.In[op.AttentionGradientInput]
	end, err := endingOfAll(q, k, v, dy)
	if err != nil {
		return nil, err
	}
	if at(c.In, 6) != nil || at(c.In, op.AttentionSinkInput) != nil || at(c.Out, 4) != nil || at(c.Out, 3) != nil && mask == nil {
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
	if s.HeadSize > attentionSize || s.ValueSize > attentionSize || s.KVHeads == 0 || s.Keys == 0 || s.Queries == 0 || s.Batch == 0 || s.HeadSize == 0 || s.ValueSize == 0 ||
		n.Int("right_window_size", -1) > 0 {
		return nil, errForm
	}
	h, kv, queries, keys := int(s.Heads), int(s.KVHeads), int(s.Queries), int(s.Keys)
	p := attentionGradientParameters{
		q: heads(q, h, queries, int(s.HeadSize)), k: heads(k, kv, keys, int(s.HeadSize)), v: heads(v, kv, keys, int(s.ValueSize)),
		dy: heads(dy, h, queries, int(s.ValueSize)), dq: heads(q, h, queries, int(s.HeadSize)),
		dk: heads(k, kv, keys, int(s.HeadSize)), dv: heads(v, kv, keys, int(s.ValueSize)),
		heads: int32(h), kvHeads: int32(kv), queries: int32(queries), keys: int32(keys), size: int32(s.HeadSize), valueSize: int32(s.ValueSize),
		left: int32(n.Int("left_window_size", -1)), softcap: n.Float("softcap", 0),
		scale: n.Float("scale", float32(1/math.Sqrt(float64(s.HeadSize)))),
	}
	p.causal = truth(n.Int("is_causal", 0) != 0 || n.Int("right_window_size", -1) == 0)
	if mask != nil {
		switch {
		case mask.Type == onnx.Bool:
			p.boolean = 1
		case mask.Type != q.Type:
			return nil, errForm
		}
		width := mask.Shape[mask.Rank()-1]
		if width == 1 && keys != 1 {
			return nil, errForm
		}
		strides, err := broadcastStrides(mask.Shape, []int{int(s.Batch), h, queries, width})
		if err != nil {
			return nil, err
		}
		p.maskBatch, p.maskHead, p.maskQuery, p.maskKeys = int64(strides[0]), int64(strides[1]), int64(strides[2]), int32(width)
	}
	byQuery, err := newLaunch[attentionGradientParameters](d, "attention_back_query"+end, attentionThreads, queries, h, int(s.Batch))
	if err != nil {
		return nil, err
	}
	byKey, err := newLaunch[attentionGradientParameters](d, "attention_back_key"+end, attentionThreads, keys, kv, int(s.Batch))
	if err != nil {
		return nil, err
	}
	var m layout
	rows := int(s.Batch) * h * queries
	logSum, mean := m.take(4*rows), m.take(4*rows)
	c.Scratch.Reserve(m.size)
	*byQuery.p = p
	return func() error {
		scratch := address(&tensor.Tensor{Data: c.Scratch.Bytes()})
		p := byQuery.p
		p.q.at, p.k.at, p.v.at, p.dy.at, p.mask = address(q), address(k), address(v), address(dy), address(mask)
		p.dq.at, p.dk.at, p.dv.at, p.dscores = address(at(c.Out, 0)), address(at(c.Out, 1)), address(at(c.Out, 2)), address(at(c.Out, 3))
		p.logSum, p.mean = logSum.in(scratch), mean.in(scratch)
		*byKey.p = *p
		if err := byQuery.run(); err != nil {
			return err
		}
		if p.dk.at == 0 && p.dv.at == 0 {
			return nil
		}
		return byKey.run()
	}, nil
}
