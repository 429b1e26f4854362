package op

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// Attention, ONNX 23, 24 (adds nonpad_kv_seqlen) and 25 (adds
		// windows).
		Operator{Name: "Attention", Since: []int{23, 24, 25}, Inputs: Between(3, 7), Outputs: Between(1, 4),
			Attributes: []string{"is_causal", "kv_num_heads", "left_window_size", "q_num_heads", "qk_matmul_output_mode",
				"right_window_size", "scale", "softcap", "softmax_precision"}, Caches: []int{1, 2, 4, 5}, Appends: map[int]int{4: 1, 5: 2}, Infer: inferAttention,
			Gradient: attentionGradient},

		// AttentionGradient, which gradients are made of, has the inputs of
		// Attention, version 25, without caches, and in input 7 the gradient of
		// its output 0. Input 8 may hold, for each head, the score of one more
		// key without a value. It gives the gradients of query, key and value,
		// for each element of a mask that is added, of the scores that it is
		// added to: [batch, heads, queries, mask's keys], and of the scores of
		// that key: [batch, heads, queries].
		Operator{Domain: moe.Domain, Name: "AttentionGradient", Since: []int{1}, Inputs: Between(3, AttentionSinkInput+1), Outputs: Between(1, 5),
			Attributes: attentionForm, Infer: inferAttentionGradient},
	)
}

// The inputs of AttentionGradient that Attention does not have: the gradient of
// its output, and the scores of a key without a value.
const (
	AttentionGradientInput = 7
	AttentionSinkInput     = 8
)

// attentionForm lists the attributes that say what Attention's output 0 is.
var attentionForm = []string{"is_causal", "kv_num_heads", "left_window_size", "q_num_heads", "right_window_size", "scale", "softcap"}

// AttentionShape has the dimensions of an attention.
type AttentionShape struct {
	Batch, Heads, KVHeads Dim
	Queries               Dim
	Keys                  Dim // without those of the past
	Past                  Dim // keys and values from earlier calls
	HeadSize, ValueSize   Dim // of queries and keys, and of values
}

// Total returns the number of keys with those of the past.
func (s *AttentionShape) Total(c *Inference) Dim { return c.Add(s.Past, s.Keys) }

// headsOf reads a query, key or value: [batch, heads, sequence, size], or
// [batch, sequence, heads·size] where the number of heads is given. Unknown
// shapes leave everything as it was.
func headsOf(shape []Dim, given int64, batch, heads, sequence, size *Dim) error {
	dims := make([]Dim, 4)
	switch {
	case shape == nil:
		return nil
	case len(shape) == 4 && given > 0 && shape[1].Known() && int64(shape[1]) != given:
		return fmt.Errorf("shape %s has other than %d heads", FormatDims(shape), given)
	case len(shape) == 4:
		copy(dims, shape)
	case len(shape) == 3 && given <= 0:
		return fmt.Errorf("shape %s needs the number of heads as an attribute", FormatDims(shape))
	case len(shape) == 3 && shape[2].Known() && int64(shape[2])%given != 0:
		return fmt.Errorf("shape %s does not divide into %d heads", FormatDims(shape), given)
	case len(shape) == 3 && shape[2].Known():
		dims = []Dim{shape[0], Dim(given), shape[1], shape[2] / Dim(given)}
	case len(shape) == 3:
		dims = []Dim{shape[0], Dim(given), shape[1], *size}
	default:
		return fmt.Errorf("shape %s needs rank 3 or 4", FormatDims(shape))
	}
	for i, to := range []*Dim{batch, heads, sequence, size} {
		d, err := Unify(*to, dims[i])
		if err != nil {
			return fmt.Errorf("shape %s: %w", FormatDims(shape), err)
		}
		*to = d
	}
	return nil
}

// AttentionDims returns the dimensions of an ONNX Attention node. Those that
// are not known are symbols.
func AttentionDims(c *Inference) (*AttentionShape, error) {
	s := &AttentionShape{Batch: c.Fresh(), Heads: c.Fresh(), KVHeads: c.Fresh(), Queries: c.Fresh(), Keys: c.Fresh(),
		HeadSize: c.Fresh(), ValueSize: c.Fresh()}
	q, kv := c.Node.Int("q_num_heads", 0), c.Node.Int("kv_num_heads", 0)
	if err := headsOf(c.Shape(0), q, &s.Batch, &s.Heads, &s.Queries, &s.HeadSize); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	if err := headsOf(c.Shape(1), kv, &s.Batch, &s.KVHeads, &s.Keys, &s.HeadSize); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if err := headsOf(c.Shape(2), kv, &s.Batch, &s.KVHeads, &s.Keys, &s.ValueSize); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	if c.Has(4) {
		s.Past = c.Fresh()
	}
	for i, size := range map[int]*Dim{4: &s.HeadSize, 5: &s.ValueSize} {
		if err := c.wantRank(i, 4); err != nil {
			return nil, err
		}
		if err := headsOf(c.Shape(i), 0, &s.Batch, &s.KVHeads, &s.Past, size); err != nil {
			return nil, fmt.Errorf("past: %w", err)
		}
	}
	if s.Heads.Known() && s.KVHeads.Known() && (s.KVHeads == 0 || s.Heads%s.KVHeads != 0) {
		return nil, fmt.Errorf("%d query heads do not share %d key heads evenly", s.Heads, s.KVHeads)
	}
	return s, nil
}

func inferAttention(c *Inference) error {
	n := c.Node
	t, err := c.typeAmong(floatTypes, 0, 1, 4)
	if err != nil {
		return err
	}
	valueType, err := c.typeAmong(floatTypes, 2, 5)
	if err != nil {
		return err
	}
	if m := c.Type(3); m != onnx.Undefined && m != onnx.Bool && t != onnx.Undefined && m != t {
		return fmt.Errorf("attn_mask has elements of type %s, needs bool or %s", m, t)
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, 6); err != nil {
		return err
	}
	if c.Has(4) != c.Has(5) {
		return fmt.Errorf("needs past_key and past_value together")
	}
	if c.Has(6) && (c.Has(4) || n.Since < 24) {
		return fmt.Errorf("nonpad_kv_seqlen needs version 24 and no past_key")
	}
	for _, side := range []string{"left_window_size", "right_window_size"} {
		if n.Attribute(side) != nil && n.Since < 25 {
			return fmt.Errorf("attribute %s does not exist in version %d", side, n.Since)
		}
	}
	if mode := n.Int("qk_matmul_output_mode", 0); mode < 0 || mode > 3 {
		return fmt.Errorf("qk_matmul_output_mode is %d, needs 0 to 3", mode)
	}
	if err := n.wantAttentionForm(); err != nil {
		return err
	}
	switch p := onnx.DataType(n.Int("softmax_precision", int64(onnx.Float32))); p {
	case onnx.Undefined, onnx.Float32, onnx.Float64, onnx.Float16, onnx.BFloat16:
	default:
		return fmt.Errorf("softmax_precision %s is not a floating-point type that is supported", p)
	}
	s, err := AttentionDims(c)
	if err != nil {
		return err
	}
	if err := c.wantShape(6, s.Batch); err != nil {
		return err
	}
	total := s.Total(c)
	if mask := c.Shape(3); mask != nil {
		if len(mask) == 0 || len(mask) > 4 {
			return fmt.Errorf("attn_mask has shape %s, needs rank 1 to 4", FormatDims(mask))
		}
		keys := mask[len(mask)-1]
		if keys.Known() && total.Known() && keys > total {
			return fmt.Errorf("attn_mask has shape %s for %d keys", FormatDims(mask), total)
		}
		if n.Since < 24 && keys != 1 && keys.Known() && total.Known() && keys != total {
			return fmt.Errorf("attn_mask has shape %s, does not broadcast to %d keys", FormatDims(mask), total)
		}
		if err := c.wantBroadcast(3, []Dim{s.Batch, s.Heads, s.Queries, keys}); err != nil {
			return err
		}
	}
	switch shape := c.Shape(0); len(shape) {
	case 3:
		c.Set(0, t, []Dim{s.Batch, s.Queries, c.Mul(s.Heads, s.ValueSize)})
	case 4:
		c.Set(0, t, []Dim{s.Batch, s.Heads, s.Queries, s.ValueSize})
	default:
		c.Set(0, t, nil)
	}
	c.Set(1, t, []Dim{s.Batch, s.KVHeads, total, s.HeadSize})
	c.Set(2, valueType, []Dim{s.Batch, s.KVHeads, total, s.ValueSize})
	c.Set(3, t, []Dim{s.Batch, s.Heads, s.Queries, total})
	return nil
}

// wantAttentionForm checks windows and softcap.
func (n *Node) wantAttentionForm() error {
	for _, side := range []string{"left_window_size", "right_window_size"} {
		if size := n.Int(side, -1); size < -1 {
			return fmt.Errorf("%s is %d, needs at least -1", side, size)
		}
	}
	if softcap := n.Float("softcap", 0); !(softcap >= 0) {
		return fmt.Errorf("softcap is %v, needs a number that is not negative", softcap)
	}
	return nil
}

func inferAttentionGradient(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2, AttentionGradientInput, AttentionSinkInput)
	if err != nil {
		return err
	}
	if m := c.Type(3); m != onnx.Undefined && m != onnx.Bool && t != onnx.Undefined && m != t {
		return fmt.Errorf("attn_mask has elements of type %s, needs bool or %s", m, t)
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, 6); err != nil {
		return err
	}
	if err := c.wantInputs(AttentionGradientInput); err != nil {
		return err
	}
	if c.Has(4) || c.Has(5) {
		return errors.New("caches of keys and values have no gradient")
	}
	if err := c.Node.wantAttentionForm(); err != nil {
		return err
	}
	s, err := AttentionDims(c)
	if err != nil {
		return err
	}
	if err := c.wantShape(6, s.Batch); err != nil {
		return err
	}
	if err := c.wantShape(AttentionSinkInput, s.Heads); err != nil {
		return err
	}
	switch len(c.Shape(0)) {
	case 3:
		err = c.wantShape(AttentionGradientInput, s.Batch, s.Queries, c.Mul(s.Heads, s.ValueSize))
	case 4:
		err = c.wantShape(AttentionGradientInput, s.Batch, s.Heads, s.Queries, s.ValueSize)
	}
	if err != nil {
		return err
	}
	width := c.Fresh()
	if mask := c.Shape(3); mask != nil {
		if len(mask) == 0 || len(mask) > 4 {
			return fmt.Errorf("attn_mask has shape %s, needs rank 1 to 4", FormatDims(mask))
		}
		if width = mask[len(mask)-1]; width.Known() && s.Keys.Known() && width > s.Keys {
			return fmt.Errorf("attn_mask has shape %s for %d keys", FormatDims(mask), s.Keys)
		}
		if err := c.wantBroadcast(3, []Dim{s.Batch, s.Heads, s.Queries, width}); err != nil {
			return err
		}
	}
	for i := range 3 {
		c.Set(i, t, c.Shape(i))
	}
	c.Set(3, t, []Dim{s.Batch, s.Heads, s.Queries, width})
	c.Set(4, t, []Dim{s.Batch, s.Heads, s.Queries})
	return nil
}

func attentionGradient(b *Backward) {
	for i := 1; i < 4; i++ {
		if b.Gradient(i) != NoValue {
			b.Fail(fmt.Errorf("present keys and values and scores have %w; let the loss depend on output 0 alone", ErrNoGradient))
		}
	}
	if b.Input(4) != NoValue {
		b.Fail(fmt.Errorf("caches of keys and values have %w; train a model without them", ErrNoGradient))
	}
	mask := b.Input(3)
	if mask != NoValue && b.Node.Since < 24 { // one key may stand for all
		if shape := b.Fact(mask).Shape; len(shape) == 0 || shape[len(shape)-1] == 1 || !shape[len(shape)-1].Known() {
			mask = b.Op("Expand", mask, b.Length(b.Input(1), -2))
		}
	}
	n := &onnx.Node{}
	for _, name := range attentionForm {
		if a := b.Node.Attribute(name); a != nil {
			n.Attributes = append(n.Attributes, a)
		}
	}
	d := b.attend(n, attended{b.Input(0), b.Input(1), b.Input(2)}, mask, b.Input(6), b.Gradient(0), NoValue)
	for i := range 3 {
		b.Set(i, d[i])
	}
	if b.Wants(3) {
		b.Set(3, b.SumTo(d[3], b.Input(3)))
	}
}

// attended are the query, key and value of an attention.
type attended [3]Value

// attend adds an AttentionGradient with the attributes of n, and returns its
// outputs.
func (b *Backward) attend(n *onnx.Node, in attended, mask, lengths, g, sink Value) []Value {
	n.Domain, n.OpType = moe.Domain, "AttentionGradient"
	return b.AddMany(n, 5, in[0], in[1], in[2], mask, NoValue, NoValue, lengths, g, sink)
}
