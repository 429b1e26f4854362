package fmoefy

import (
	"crypto/sha256"
	"fmt"
)

// sharingKey identifies the experts of a block. Blocks with the same weights
// have the same experts, as they were one layer before: the passes of an
// ALBERT through its layer, and the branches of a decoder with and without a
// cache. With SeparateShared the blocks of one graph have experts of their
// own, so that training can make them different; those of other graphs share
// theirs still, in the order in which they come.
func (r *rewriter) sharingKey(b *Block) string {
	key := fmt.Sprint(b.Kind, b.Activation, b.ElementType)
	for i, l := range b.matrices() {
		key += "|" + r.identity(b.scope, l.weight)
		if bias := b.biases()[i]; bias != nil {
			key += "|" + r.identity(b.scope, bias)
		}
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

// identity returns what is equal for constants of the same content: those of
// one tensor, seen in the same way, and in a subgraph, which may hold a copy of
// what another one holds, those of equal tensors.
func (r *rewriter) identity(s *scope, c *constant) string {
	if s.parent == nil {
		return c.key()
	}
	if r.digests[c.tensor] == "" {
		r.digests[c.tensor] = fmt.Sprintf("%p", c.tensor)
		if s.model.Graph.Initializer(c.tensor.Name) != c.tensor {
			if data, err := c.tensor.Bytes(); err == nil {
				r.digests[c.tensor] = fmt.Sprintf("%s %v %x", c.tensor.DataType, c.tensor.Dims, sha256.Sum256(data))
			}
		}
	}
	return r.digests[c.tensor] + c.view()
}
