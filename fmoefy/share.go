package fmoefy

import (
	"bytes"
	"fmt"
	"hash/fnv"

	"github.com/fmoe-go/fmoe/onnx"
)

// sharingKey identifies the experts of a block. Blocks with the same weights
// have the same experts, as they were one layer before: the passes of an
// ALBERT through its layer, and the branches of a decoder with and without a
// cache. With SeparateShared the blocks of one graph have experts of their
// own, so that training can make them different; those of other graphs share
// theirs still, in the order in which they come.
func (r *rewriter) sharingKey(b *Block) string {
	key := fmt.Sprint(b.Kind, b.Activation, b.ElementType)
	for _, x := range b.withCounterparts() {
		key += r.weightsKey(x)
	}
	b.weightKey = key
	if !r.options.SeparateShared {
		return key
	}
	occurrence := 0
	for _, other := range r.replaced {
		if other.block.scope == b.scope && other.block.weightKey == key {
			occurrence++
		}
	}
	return fmt.Sprintf("%s|%d", key, occurrence)
}

// weightsKey identifies the weights and biases of a block.
func (r *rewriter) weightsKey(b *Block) string {
	key := ""
	for i, l := range b.matrices() {
		key += "|" + r.identity(l.weight)
		if bias := b.biases()[i]; bias != nil {
			key += "|" + r.identity(bias)
		}
	}
	return key
}

// identity returns what is equal for constants of the same content: of one
// tensor, seen in the same way, or of equal ones, such as the branches of an
// If may hold, or an exporter makes of a weight wherever it is used.
func (r *rewriter) identity(c *constant) string {
	t := r.first[c.tensor]
	if t == nil {
		t = r.firstEqual(c.tensor)
		r.first[c.tensor] = t
	}
	return fmt.Sprintf("%p", t) + c.view()
}

// firstEqual returns the first of the tensors equal to t. Few are read as a
// whole: those of which a sample is equal to another's.
func (r *rewriter) firstEqual(t *onnx.Tensor) *onnx.Tensor {
	if r.dequantizer.made(t) {
		return t // equal codes and scales made the same tensor
	}
	data, err := t.Bytes()
	if err != nil {
		return t
	}
	hash := fnv.New64a()
	for at, step := 0, max(64, len(data)/64); at < len(data); at += step {
		hash.Write(data[at:min(at+64, len(data))])
	}
	key := fmt.Sprint(t.DataType, t.Dims, hash.Sum64())
	for _, other := range r.samples[key] {
		if same, err := other.Bytes(); err == nil && bytes.Equal(same, data) {
			return other
		}
	}
	r.samples[key] = append(r.samples[key], t)
	return t
}
