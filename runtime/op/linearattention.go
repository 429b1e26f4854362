package op

import "fmt"

func init() {
	Register(
		// LinearAttention, ONNX 27: query, key, value, past_state?, decay?,
		// beta?.
		Operator{Name: "LinearAttention", Since: []int{27}, Inputs: Between(3, 6), Outputs: Between(1, 2),
			Attributes: []string{"chunk_size", "kv_num_heads", "q_num_heads", "scale", "update_rule"}, Infer: inferLinearAttention},
		// CausalConvWithState, ONNX 27: input [batch, channels, length],
		// weight [channels, 1, k], bias?, past_state? [batch, channels, k−1].
		Operator{Name: "CausalConvWithState", Since: []int{27}, Inputs: Between(2, 4), Outputs: Between(1, 2),
			Attributes: []string{"activation"}, Infer: inferCausalConv},
	)
}

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

func inferLinearAttention(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 4, 5)
	if err != nil {
		return err
	}
	state, err := c.typeAmong(floatTypes, 3)
	if err != nil {
		return err
	}
	if !c.Has(3) {
		state = t
	}
	if err := c.Node.wantMode("update_rule", "gated_delta", "linear", "gated", "delta"); err != nil {
		return err
	}
	switch c.Node.String("update_rule", "gated_delta") {
	case "gated_delta":
		err = c.wantInputs(4, 5)
	case "gated":
		err = c.wantInputs(4)
	case "delta":
		err = c.wantInputs(5)
	}
	if err != nil {
		return err
	}
	s, err := LinearAttentionDims(c)
	if err != nil {
		return err
	}
	states := []Dim{s.Batch, s.KVHeads, s.HeadSize, s.ValueSize}
	if err := c.wantShape(3, states...); err != nil {
		return err
	}
	if err := c.wantLast(4, s, s.KVHeads, c.Mul(s.KVHeads, s.HeadSize)); err != nil {
		return err
	}
	if err := c.wantLast(5, s, s.KVHeads, 1); err != nil {
		return err
	}
	c.Set(0, t, []Dim{s.Batch, s.Queries, c.Mul(s.Heads, s.ValueSize)})
	c.Set(1, state, states)
	return nil
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

func inferCausalConv(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 3)
	if err != nil {
		return err
	}
	if err := c.Node.wantMode("activation", "none", "silu", "swish"); err != nil {
		return err
	}
	batch, channels, length, one, kernel := c.Fresh(), c.Fresh(), c.Fresh(), Dim(1), c.Fresh()
	if err := unifyAll("input", c.Shape(0), &batch, &channels, &length); err != nil {
		return err
	}
	if err := unifyAll("weight", c.Shape(1), &channels, &one, &kernel); err != nil {
		return err
	}
	if kernel == 0 {
		return fmt.Errorf("weight has shape %s, needs a kernel", FormatDims(c.Shape(1)))
	}
	if err := c.wantShape(2, channels); err != nil {
		return err
	}
	state := []Dim{batch, channels, c.Fresh()}
	if kernel.Known() {
		state[2] = kernel - 1
	}
	if err := c.wantShape(3, state...); err != nil {
		return err
	}
	c.Set(0, t, []Dim{batch, channels, length})
	c.Set(1, t, state)
	return nil
}
