package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// LinearAttention, ONNX 27: query, key, value, past_state?, decay?,
		// beta?.
		Operator{Name: "LinearAttention", Since: []int{27}, Inputs: Between(3, 6), Outputs: Between(1, 2),
			Attributes: []string{"chunk_size", "kv_num_heads", "q_num_heads", "scale", "update_rule"}, Infer: inferLinearAttention,
			Gradient: linearAttentionGradient},
		// CausalConvWithState, ONNX 27: input [batch, channels, length],
		// weight [channels, 1, k], bias?, past_state? [batch, channels, k−1].
		Operator{Name: "CausalConvWithState", Since: []int{27}, Inputs: Between(2, 4), Outputs: Between(1, 2),
			Attributes: []string{"activation"}, Infer: inferCausalConv, Gradient: causalConvGradient},

		// LinearAttentionGradient, which gradients are made of, has the inputs
		// of LinearAttention and those from LinearGradientInput on. It gives
		// the gradients of all of LinearAttention's, that of beta for each head
		// of keys: [batch, sequence, heads].
		Operator{Domain: moe.Domain, Name: "LinearAttentionGradient", Since: []int{1}, Inputs: Between(3, 8), Outputs: Between(1, 6),
			Attributes: []string{"kv_num_heads", "q_num_heads", "scale", "update_rule"}, Infer: inferLinearAttentionGradient},
		// CausalConvWithStateGradient, likewise, gives the gradients of the
		// inputs of CausalConvWithState.
		Operator{Domain: moe.Domain, Name: "CausalConvWithStateGradient", Since: []int{1}, Inputs: Between(2, 6), Outputs: Between(1, 4),
			Attributes: []string{"activation"}, Infer: inferCausalConvGradient},
	)
}

// The first input of LinearAttentionGradient and CausalConvWithStateGradient
// that is the gradient of an output, of which that of the present state
// follows. Either may be absent, being zero.
const (
	LinearGradientInput     = 6
	CausalConvGradientInput = 4
)

// LinearAttentionDims returns the dimensions of a LinearAttention node, as far
// as they are known.
func LinearAttentionDims(c *Inference) (*AttentionShape, error) {
	heads, err := c.Node.headCount("q_num_heads")
	if err != nil {
		return nil, err
	}
	shared, err := c.Node.headCount("kv_num_heads")
	if err != nil {
		return nil, err
	}
	if heads%shared != 0 {
		return nil, fmt.Errorf("%d query heads do not share %d key heads evenly", heads, shared)
	}
	s := &AttentionShape{Batch: c.Fresh(), Heads: heads, KVHeads: shared, Queries: c.Fresh(), HeadSize: c.Fresh(), ValueSize: c.Fresh()}
	for i, v := range []struct{ heads, size *Dim }{{&s.Heads, &s.HeadSize}, {&s.KVHeads, &s.HeadSize}, {&s.KVHeads, &s.ValueSize}} {
		if err := c.wantRank(i, 3); err != nil {
			return nil, err
		}
		if err := headsOf(c.Shape(i), int64(*v.heads), &s.Batch, v.heads, &s.Queries, v.size); err != nil {
			return nil, fmt.Errorf("input %d: %w", i, err)
		}
	}
	s.Keys = s.Queries
	return s, nil
}

// LinearAttentionRule reports whether a node's states decay, and whether what is
// added to them is the difference from what they hold.
func LinearAttentionRule(n *Node) (gated, delta bool) {
	rule := n.String("update_rule", "gated_delta")
	return rule == "gated" || rule == "gated_delta", rule == "delta" || rule == "gated_delta"
}

// linearAttention checks the inputs of LinearAttention, and returns the types
// of its outputs.
func (c *Inference) linearAttention() (s *AttentionShape, t, state onnx.DataType, err error) {
	fail := func(err error) (*AttentionShape, onnx.DataType, onnx.DataType, error) { return nil, 0, 0, err }
	if t, err = c.typeAmong(floatTypes, 0, 1, 2, 4, 5); err != nil {
		return fail(err)
	}
	if state, err = c.typeAmong(floatTypes, 3); err != nil {
		return fail(err)
	}
	if !c.Has(3) {
		state = t
	}
	if err := c.Node.wantMode("update_rule", "gated_delta", "linear", "gated", "delta"); err != nil {
		return fail(err)
	}
	gated, delta := LinearAttentionRule(c.Node)
	for i, needed := range map[int]bool{4: gated, 5: delta} {
		if needed && !c.Has(i) {
			return fail(c.wantInputs(i))
		}
	}
	if s, err = LinearAttentionDims(c); err != nil {
		return fail(err)
	}
	if err := c.wantShape(3, s.states()...); err != nil {
		return fail(err)
	}
	if err := c.wantLast(4, s, s.KVHeads, c.Mul(s.KVHeads, s.HeadSize)); err != nil {
		return fail(err)
	}
	if err := c.wantLast(5, s, s.KVHeads, 1); err != nil {
		return fail(err)
	}
	return s, t, state, nil
}

// states returns the shape of the states of LinearAttention.
func (s *AttentionShape) states() []Dim { return []Dim{s.Batch, s.KVHeads, s.HeadSize, s.ValueSize} }

func inferLinearAttention(c *Inference) error {
	s, t, state, err := c.linearAttention()
	if err != nil {
		return err
	}
	c.Set(0, t, []Dim{s.Batch, s.Queries, c.Mul(s.Heads, s.ValueSize)})
	c.Set(1, state, s.states())
	return nil
}

func inferLinearAttentionGradient(c *Inference) error {
	s, t, state, err := c.linearAttention()
	if err != nil {
		return err
	}
	if _, err := c.sameType(0, LinearGradientInput); err != nil {
		return err
	}
	if g := c.Type(LinearGradientInput + 1); g != onnx.Undefined && state != onnx.Undefined && g != state {
		return fmt.Errorf("the gradient of a state of type %s is of type %s", state, g)
	}
	if err := c.wantShape(LinearGradientInput, s.Batch, s.Queries, c.Mul(s.Heads, s.ValueSize)); err != nil {
		return err
	}
	if err := c.wantShape(LinearGradientInput+1, s.states()...); err != nil {
		return err
	}
	for i, heads := range []Dim{s.Heads, s.KVHeads} {
		c.Set(i, t, []Dim{s.Batch, s.Queries, c.Mul(heads, s.HeadSize)})
	}
	c.Set(2, t, []Dim{s.Batch, s.Queries, c.Mul(s.KVHeads, s.ValueSize)})
	c.Set(3, state, s.states())
	of := []Dim{s.Batch, s.Queries, s.KVHeads}
	if c.Has(4) {
		c.Set(4, t, c.Shape(4))
	} else {
		c.Set(4, t, of)
	}
	c.Set(5, t, of)
	return nil
}

func linearAttentionGradient(b *Backward) {
	n := &onnx.Node{Domain: moe.Domain, OpType: "LinearAttentionGradient"}
	for _, name := range []string{"kv_num_heads", "q_num_heads", "scale", "update_rule"} {
		if a := b.Node.Attribute(name); a != nil {
			n.Attributes = append(n.Attributes, a)
		}
	}
	in := make([]Value, LinearGradientInput, LinearGradientInput+2)
	for i := range in {
		in[i] = b.Input(i)
	}
	d := b.AddMany(n, LinearGradientInput, append(in, b.Gradient(0), b.Gradient(1))...)
	for i := range d {
		if b.Wants(i) {
			b.Set(i, d[i])
		}
	}
	if b.Wants(5) { // one beta may be that of all heads
		b.Set(5, b.SumTo(d[5], b.Input(5)))
	}
}

// wantLast fails unless an input is known to be able to have the shape [batch,
// sequence, one of two].
func (c *Inference) wantLast(i int, s *AttentionShape, one, other Dim) error {
	err := c.wantShape(i, s.Batch, s.Queries, one)
	if err != nil && c.wantShape(i, s.Batch, s.Queries, other) == nil {
		return nil
	}
	return err
}

// causalConv checks the inputs of CausalConvWithState, and returns the type and
// the shapes of its input, weight and states.
func (c *Inference) causalConv() (t onnx.DataType, shapes [3][]Dim, err error) {
	if t, err = c.typeAmong(floatTypes, 0, 1, 2, 3); err != nil {
		return t, shapes, err
	}
	if err := c.Node.wantMode("activation", "none", "silu", "swish"); err != nil {
		return t, shapes, err
	}
	batch, channels, length, one, kernel := c.Fresh(), c.Fresh(), c.Fresh(), Dim(1), c.Fresh()
	if err := unifyAll("input", c.Shape(0), &batch, &channels, &length); err != nil {
		return t, shapes, err
	}
	if err := unifyAll("weight", c.Shape(1), &channels, &one, &kernel); err != nil {
		return t, shapes, err
	}
	if kernel == 0 {
		return t, shapes, fmt.Errorf("weight has shape %s, needs a kernel", FormatDims(c.Shape(1)))
	}
	if err := c.wantShape(2, channels); err != nil {
		return t, shapes, err
	}
	shapes = [3][]Dim{{batch, channels, length}, {channels, 1, kernel}, {batch, channels, c.Fresh()}}
	if kernel.Known() {
		shapes[2][2] = kernel - 1
	}
	return t, shapes, c.wantShape(3, shapes[2]...)
}

func inferCausalConv(c *Inference) error {
	t, shapes, err := c.causalConv()
	if err != nil {
		return err
	}
	c.Set(0, t, shapes[0])
	c.Set(1, t, shapes[2])
	return nil
}

func inferCausalConvGradient(c *Inference) error {
	t, shapes, err := c.causalConv()
	if err != nil {
		return err
	}
	if _, err := c.sameType(0, CausalConvGradientInput, CausalConvGradientInput+1); err != nil {
		return err
	}
	if err := c.wantShape(CausalConvGradientInput, shapes[0]...); err != nil {
		return err
	}
	if err := c.wantShape(CausalConvGradientInput+1, shapes[2]...); err != nil {
		return err
	}
	c.Set(0, t, shapes[0])
	c.Set(1, t, shapes[1])
	c.Set(2, t, shapes[1][:1])
	c.Set(3, t, shapes[2])
	return nil
}

func causalConvGradient(b *Backward) {
	n := &onnx.Node{Domain: moe.Domain, OpType: "CausalConvWithStateGradient"}
	if a := b.Node.Attribute("activation"); a != nil {
		n.Attributes = append(n.Attributes, a)
	}
	d := b.AddMany(n, CausalConvGradientInput, b.Input(0), b.Input(1), b.Input(2), b.Input(3), b.Gradient(0), b.Gradient(1))
	for i := range d {
		if b.Wants(i) {
			b.Set(i, d[i])
		}
	}
}
