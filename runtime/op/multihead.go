package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// The attention operators of ONNX Runtime (domain com.microsoft, version 1),
// without what only its GPU kernels have: shared and quantized caches, beams.
func init() {
	Register(
		// MultiHeadAttention: query, key?, value?, bias?, key_padding_mask?,
		// attention_bias?, past_key?, past_value?.
		Operator{Domain: "com.microsoft", Name: "MultiHeadAttention", Since: []int{1}, Inputs: Between(1, 8), Outputs: Between(1, 3),
			Attributes: []string{"mask_filter_value", "num_heads", "scale", "unidirectional"}, Infer: inferMultiHeadAttention,
			Gradient: multiHeadAttentionGradient},
		// GroupQueryAttention: query, key?, value?, past_key?, past_value?,
		// seqlens_k, total_sequence_length, cos_cache?, sin_cache?,
		// position_ids?, attention_bias?, head_sink?.
		Operator{Domain: "com.microsoft", Name: "GroupQueryAttention", Since: []int{1}, Inputs: Between(1, 12), Outputs: Between(1, 3),
			Attributes: []string{"causal", "do_rotary", "k_quant_type", "kv_cache_bit_width", "kv_num_heads", "local_window_size", "num_heads",
				"qk_output", "rotary_interleaved", "scale", "sliding_window_cache", "smooth_softmax", "softcap", "v_quant_type"},
			Parameters: []int{6}, Infer: inferGroupQueryAttention, Gradient: groupQueryAttentionGradient},
		// Attention: input, weights, bias?, mask_index?, past?,
		// attention_bias?.
		Operator{Domain: "com.microsoft", Name: "Attention", Since: []int{1}, Inputs: Between(2, 6), Outputs: Between(1, 2),
			Attributes: []string{"do_rotary", "mask_filter_value", "num_heads", "past_present_share_buffer", "qkv_hidden_sizes",
				"scale", "unidirectional"}, Infer: inferProjectedAttention, Gradient: projectedAttentionGradient},
	)
}

// wantInputs fails where one of the inputs is absent.
func (c *Inference) wantInputs(inputs ...int) error {
	for _, i := range inputs {
		if !c.Has(i) {
			return fmt.Errorf("lacks its input %d", i)
		}
	}
	return nil
}

// wantZero fails where an integer attribute asks for what is not supported.
func (n *Node) wantZero(attributes ...string) error {
	for _, name := range attributes {
		if n.Int(name, 0) != 0 {
			return fmt.Errorf("attribute %s is not supported", name)
		}
	}
	return nil
}

// headCount reads an attribute that counts heads.
func (n *Node) headCount(name string) (Dim, error) {
	heads := n.Int(name, 0)
	if heads < 1 || heads > maxWindowValue {
		return 0, fmt.Errorf("%s is %d, needs a positive number", name, heads)
	}
	return Dim(heads), nil
}

// unifyAll unifies dimensions with those of a shape of the same rank.
func unifyAll(what string, shape []Dim, dims ...*Dim) error {
	if shape == nil {
		return nil
	}
	if len(shape) != len(dims) {
		return fmt.Errorf("%s has shape %s, needs rank %d", what, FormatDims(shape), len(dims))
	}
	for i, d := range dims {
		var err error
		if *d, err = Unify(*d, shape[i]); err != nil {
			return fmt.Errorf("%s of shape %s: %w", what, FormatDims(shape), err)
		}
	}
	return nil
}

// MultiHeadDims returns the dimensions of a MultiHeadAttention node, as far as
// they are known.
func MultiHeadDims(c *Inference) (*AttentionShape, error) {
	heads, err := c.Node.headCount("num_heads")
	if err != nil {
		return nil, err
	}
	s := &AttentionShape{Batch: c.Fresh(), Heads: heads, KVHeads: heads, Queries: c.Fresh(), Keys: c.Fresh(),
		HeadSize: c.Fresh(), ValueSize: c.Fresh()}
	query, key := c.Shape(0), c.Shape(1)
	three, two := Dim(3), Dim(2)
	switch {
	case len(query) == 5 && !c.Has(1) && !c.Has(2): // queries, keys and values in one
		err = unifyAll("query", query, &s.Batch, &s.Queries, &s.Heads, &three, &s.HeadSize)
		s.Keys, s.ValueSize = s.Queries, s.HeadSize
	case !c.Has(1):
		return nil, fmt.Errorf("query of shape %s needs a key", FormatDims(query))
	default:
		err = headsOf(query, int64(heads), &s.Batch, &s.Heads, &s.Queries, &s.HeadSize)
		switch {
		case err != nil:
		case len(key) == 5 && !c.Has(2):
			err = unifyAll("key", key, &s.Batch, &s.Keys, &s.KVHeads, &two, &s.HeadSize)
			s.ValueSize = s.HeadSize
		case !c.Has(2):
			err = fmt.Errorf("key of shape %s needs a value", FormatDims(key))
		default:
			if err = headsOf(key, int64(heads), &s.Batch, &s.KVHeads, &s.Keys, &s.HeadSize); err == nil {
				err = headsOf(c.Shape(2), int64(heads), &s.Batch, &s.KVHeads, &s.Keys, &s.ValueSize)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if c.Has(6) {
		s.Past = c.Fresh()
	}
	if err := unifyAll("past_key", c.Shape(6), &s.Batch, &s.KVHeads, &s.Past, &s.HeadSize); err != nil {
		return nil, err
	}
	return s, unifyAll("past_value", c.Shape(7), &s.Batch, &s.KVHeads, &s.Past, &s.ValueSize)
}

func inferMultiHeadAttention(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 3, 5, 6, 7)
	if err != nil {
		return err
	}
	if c.Has(6) != c.Has(7) {
		return fmt.Errorf("needs past_key and past_value together")
	}
	s, err := MultiHeadDims(c)
	if err != nil {
		return err
	}
	total, hidden := s.Total(c), c.Mul(s.Heads, s.HeadSize)
	values := c.Mul(s.Heads, s.ValueSize)
	if err := c.wantShape(3, c.Add(c.Add(hidden, hidden), values)); err != nil {
		return err
	}
	if err := c.wantPadding(4, s, total); err != nil {
		return err
	}
	if err := c.wantScoreBias(5, s, total); err != nil {
		return err
	}
	c.Set(0, t, []Dim{s.Batch, s.Queries, values})
	c.Set(1, t, []Dim{s.Batch, s.Heads, total, s.HeadSize})
	c.Set(2, t, []Dim{s.Batch, s.Heads, total, s.ValueSize})
	return nil
}

// wantPadding checks a mask that counts or marks the keys of each batch.
func (c *Inference) wantPadding(mask int, s *AttentionShape, total Dim) error {
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int32}, mask); err != nil {
		return err
	}
	switch shape := c.Shape(mask); len(shape) {
	case 0:
	case 1:
		if shape[0].Known() && s.Batch.Known() &&
			shape[0] != s.Batch && shape[0] != 2*s.Batch && shape[0] != 3*s.Batch+2 {
			return fmt.Errorf("mask has shape %s for a batch of %d", FormatDims(shape), s.Batch)
		}
	case 2:
		return c.wantShape(mask, s.Batch, total)
	default:
		return c.wantShape(mask, s.Batch, s.Queries, total)
	}
	return nil
}

// wantScoreBias checks an input [batch or 1, heads or 1, queries, keys] that is
// added to scores.
func (c *Inference) wantScoreBias(bias int, s *AttentionShape, total Dim) error {
	if err := c.wantRank(bias, 4); err != nil {
		return err
	}
	if shape := c.Shape(bias); shape != nil {
		if err := c.wantShape(bias, shape[0], shape[1], s.Queries, total); err != nil {
			return err
		}
	}
	return c.wantBroadcast(bias, []Dim{s.Batch, s.Heads, s.Queries, total})
}

// GroupQueryShape has the dimensions of a GroupQueryAttention node.
type GroupQueryShape struct {
	AttentionShape      // Past is the length of the past's buffers
	Total          Dim  // keys in use, at most, with those of the past
	Capacity       Dim  // the length of the present's buffers
	Packed         bool // keys and values lie behind the queries, in input 0
}

// GroupQueryDims returns the dimensions of a GroupQueryAttention node, as far
// as they are known.
func GroupQueryDims(c *Inference) (*GroupQueryShape, error) {
	heads, err := c.Node.headCount("num_heads")
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
	s := &GroupQueryShape{Packed: !c.Has(1), Total: c.Fresh(), Capacity: c.Fresh()}
	s.AttentionShape = AttentionShape{Batch: c.Fresh(), Heads: heads, KVHeads: shared, Queries: c.Fresh(),
		Past: c.Fresh(), HeadSize: c.Fresh()}
	all := heads
	if s.Packed {
		all = heads + 2*shared
	}
	if err := c.wantRank(0, 3); err != nil {
		return nil, err
	}
	if err := headsOf(c.Shape(0), int64(all), &s.Batch, &all, &s.Queries, &s.HeadSize); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	for i := 1; i <= 2; i++ {
		if err := headsOf(c.Shape(i), int64(shared), &s.Batch, &s.KVHeads, &s.Queries, &s.HeadSize); err != nil {
			return nil, fmt.Errorf("input %d: %w", i, err)
		}
	}
	for i := 3; i <= 4; i++ {
		if err := unifyAll("past", c.Shape(i), &s.Batch, &s.KVHeads, &s.Past, &s.HeadSize); err != nil {
			return nil, err
		}
	}
	if !c.Has(3) {
		s.Past = 0
	}
	s.Keys, s.ValueSize = s.Queries, s.HeadSize
	total, known, err := integer(c.Ints, 6)
	if err != nil {
		return nil, err
	}
	if known {
		if total < 0 || total > 1<<40 {
			return nil, fmt.Errorf("total_sequence_length is %d", total)
		}
		s.Total = Dim(total)
		if s.Past.Known() {
			s.Capacity = max(s.Past, s.Total)
		}
	}
	return s, nil
}

func inferGroupQueryAttention(c *Inference) error {
	n := c.Node
	if err := c.wantInputs(0, 5, 6); err != nil {
		return err
	}
	if err := n.wantZero("qk_output", "sliding_window_cache"); err != nil {
		return err
	}
	for _, name := range []string{"k_quant_type", "v_quant_type"} {
		if err := n.wantMode(name, "NONE"); err != nil {
			return err
		}
	}
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 3, 4, 7, 8, 10, 11)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int32}, 5, 6); err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, 9); err != nil {
		return err
	}
	if c.Has(1) != c.Has(2) || c.Has(3) != c.Has(4) {
		return fmt.Errorf("needs key and value, and past_key and past_value, together")
	}
	s, err := GroupQueryDims(c)
	if err != nil {
		return err
	}
	if n.Int("do_rotary", 0) != 0 {
		if err := c.wantInputs(7, 8); err != nil {
			return err
		}
		half := c.Fresh()
		if err := unifyAll("cos_cache", c.Shape(7), new(c.Fresh()), &half); err != nil {
			return err
		}
		if s.HeadSize.Known() && half > s.HeadSize/2 {
			return fmt.Errorf("cos_cache has shape %s for heads of %d elements", FormatDims(c.Shape(7)), s.HeadSize)
		}
		if shape := c.Shape(7); shape != nil {
			if err := c.wantShape(8, shape...); err != nil {
				return err
			}
		}
	}
	for i, want := range map[int][]Dim{5: {s.Batch}, 9: {s.Batch, s.Queries}, 11: {s.Heads}} {
		if err := c.wantShape(i, want...); err != nil {
			return err
		}
	}
	if err := c.wantScoreBias(10, &s.AttentionShape, s.Total); err != nil {
		return err
	}
	c.Set(0, t, []Dim{s.Batch, s.Queries, c.Mul(s.Heads, s.HeadSize)})
	c.Set(1, t, []Dim{s.Batch, s.KVHeads, s.Capacity, s.HeadSize})
	c.Set(2, t, []Dim{s.Batch, s.KVHeads, s.Capacity, s.HeadSize})
	return nil
}

// ProjectedDims returns the dimensions of ONNX Runtime's Attention node, which
// computes queries, keys and values itself, as far as they are known.
func ProjectedDims(c *Inference) (*AttentionShape, error) {
	heads, err := c.Node.headCount("num_heads")
	if err != nil {
		return nil, err
	}
	s := &AttentionShape{Batch: c.Fresh(), Heads: heads, KVHeads: heads, Queries: c.Fresh(), HeadSize: c.Fresh(), ValueSize: c.Fresh()}
	depth, width := c.Fresh(), c.Fresh()
	if err := unifyAll("input", c.Shape(0), &s.Batch, &s.Queries, &depth); err != nil {
		return nil, err
	}
	if err := unifyAll("weights", c.Shape(1), &depth, &width); err != nil {
		return nil, err
	}
	if err := unifyAll("bias", c.Shape(2), &width); err != nil {
		return nil, err
	}
	s.Keys = s.Queries
	sizes := c.Node.Ints("qkv_hidden_sizes")
	if sizes == nil && width.Known() {
		third := int64(width / 3)
		sizes = []int64{third, third, third}
	}
	if sizes != nil {
		if len(sizes) != 3 || sizes[0] != sizes[1] || min(sizes[0], sizes[2]) < 1 || max(sizes[0], sizes[2]) > maxWindowValue ||
			sizes[0]%int64(heads) != 0 || sizes[2]%int64(heads) != 0 ||
			width.Known() && int64(width) != sizes[0]+sizes[1]+sizes[2] {
			return nil, fmt.Errorf("sizes %v of queries, keys and values do not fit %d heads and weights %s", sizes, heads, FormatDims(c.Shape(1)))
		}
		s.HeadSize, s.ValueSize = Dim(sizes[0])/heads, Dim(sizes[2])/heads
	}
	if c.Has(4) {
		s.Past = c.Fresh()
		pair := Dim(2)
		if err := unifyAll("past", c.Shape(4), &pair, &s.Batch, &s.KVHeads, &s.Past, &s.HeadSize); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func inferProjectedAttention(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 4, 5)
	if err != nil {
		return err
	}
	if err := c.Node.wantZero("do_rotary", "past_present_share_buffer"); err != nil {
		return err
	}
	s, err := ProjectedDims(c)
	if err != nil {
		return err
	}
	total := s.Total(c)
	if err := c.wantPadding(3, s, total); err != nil {
		return err
	}
	if err := c.wantScoreBias(5, s, total); err != nil {
		return err
	}
	if c.Has(4) || c.Node.Output(1) != "" {
		if size, err := Unify(s.HeadSize, s.ValueSize); err != nil {
			return fmt.Errorf("past and present need one size of keys and values: %w", err)
		} else {
			s.HeadSize, s.ValueSize = size, size
		}
	}
	c.Set(0, t, []Dim{s.Batch, s.Queries, c.Mul(s.Heads, s.ValueSize)})
	c.Set(1, t, []Dim{2, s.Batch, s.Heads, total, s.HeadSize})
	return nil
}

// multiHeadAttentionGradient is the gradient of MultiHeadAttention without
// caches, of queries, keys and values that are tensors of their own.
func multiHeadAttentionGradient(b *Backward) {
	in := attended{b.Input(0), b.Input(1), b.Input(2)}
	if in[2] == NoValue {
		b.Fail(fmt.Errorf("queries, keys and values that share a tensor have %w", ErrNoGradient))
		return
	}
	parts := make([]Value, 3)
	if bias := b.Input(3); bias != NoValue {
		if b.Rank(in[1]) != 3 || b.Rank(in[0]) != 3 {
			b.Fail(fmt.Errorf("a bias of queries beside keys of rank 4 has %w", ErrNoGradient))
			return
		}
		sizes := b.joined(b.Length(in[0], -1), b.Length(in[1], -1), b.Length(in[2], -1))
		parts = b.AddMany(&onnx.Node{OpType: "Split"}, 3, bias, sizes)
		for i := range in {
			in[i] = b.Op("Add", in[i], parts[i])
		}
	}
	d := b.headsGradient(in, 4, 5, 6)
	for i := range in {
		b.Set(i, d[i])
	}
	if b.Wants(3) {
		for i := range parts {
			parts[i] = b.SumTo(d[i], parts[i])
		}
		b.Set(3, b.joined(parts...))
	}
}

// projectedAttentionGradient is the gradient of ONNX Runtime's Attention
// without caches. The product of input and weights is computed again.
func projectedAttentionGradient(b *Backward) {
	x, weights := b.Input(0), b.Input(1)
	projected := b.Op("MatMul", x, weights)
	if bias := b.Input(2); bias != NoValue {
		projected = b.Op("Add", projected, bias)
	}
	last := onnx.IntAttribute("axis", -1)
	split := &onnx.Node{OpType: "Split", Attributes: []*onnx.Attribute{last}}
	in := []Value{projected}
	if sizes := b.Node.Ints("qkv_hidden_sizes"); sizes != nil {
		in = append(in, b.Ints(sizes...))
	} else {
		split.Attributes = append(split.Attributes, onnx.IntAttribute("num_outputs", 3))
	}
	d := b.headsGradient(attended(b.AddMany(split, 3, in...)), 3, 5, 4)
	g := b.Add(&onnx.Node{OpType: "Concat", Attributes: []*onnx.Attribute{last}}, d[:3]...)
	p := factors{values: [2]Value{x, weights}, alpha: 1}
	for i := range 2 {
		if b.Wants(i) {
			b.Set(i, b.factorGradient(p, i, g))
		}
	}
	if b.Wants(2) {
		b.Set(2, b.SumTo(g, b.Input(2)))
	}
}

// headsGradient returns the gradients of query, key and value of a node of ONNX
// Runtime's, and states that of the bias of its scores. It is given which
// inputs are the padding mask, that bias and the cache.
func (b *Backward) headsGradient(in attended, mask, bias, past int) []Value {
	if b.Input(past) != NoValue || b.Gradient(1) != NoValue || b.Gradient(2) != NoValue {
		b.Fail(fmt.Errorf("caches of keys and values have %w; train a model without them", ErrNoGradient))
	}
	heads := b.Node.Int("num_heads", 0)
	n := &onnx.Node{Attributes: []*onnx.Attribute{onnx.IntAttribute("q_num_heads", heads), onnx.IntAttribute("kv_num_heads", heads),
		onnx.IntAttribute("is_causal", b.Node.Int("unidirectional", 0))}}
	if scale := b.Node.Float("scale", 0); scale != 0 {
		n.Attributes = append(n.Attributes, onnx.FloatAttribute("scale", scale))
	}
	added := NoValue
	if m := b.Input(mask); m != NoValue {
		added = b.Op("Where", b.padding(m, in), b.Scalar(0, in[0]), b.Scalar(float64(b.Node.Float("mask_filter_value", -10000)), in[0]))
	}
	switch extra := b.Input(bias); {
	case extra == NoValue:
	case added == NoValue:
		added = extra
	default:
		added = b.Op("Add", added, extra)
	}
	d := b.attend(n, in, added, NoValue, b.Gradient(0), NoValue)
	if b.Wants(bias) {
		b.Set(bias, b.SumTo(d[3], b.Input(bias)))
	}
	return d
}

// padding returns, broadcasting with [batch, heads, queries, keys], which keys
// a padding mask lets count.
func (b *Backward) padding(mask Value, in attended) Value {
	counts := func(v Value) Value {
		return b.Add(&onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Bool))}}, v)
	}
	switch b.Rank(mask) {
	case 3:
		return b.Op("Unsqueeze", counts(mask), b.Ints(1))
	case 2:
		return b.Op("Unsqueeze", counts(mask), b.Ints(1, 2))
	}
	if batch := b.Fact(in[0]).Shape; len(batch) == 0 || b.Fact(mask).Shape[0] != batch[0] {
		b.Fail(fmt.Errorf("a mask of the first and last keys has %w", ErrNoGradient))
		return NoValue
	}
	whole := func(vector Value) Value { return b.Op("Squeeze", vector) }
	places := b.Op("Range", whole(b.Ints(0)), whole(b.Length(in[1], -2)), whole(b.Ints(1)))
	lengths := b.Add(&onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Int64))}}, mask)
	return b.Op("Less", places, b.Op("Unsqueeze", lengths, b.Ints(1, 2, 3)))
}

// groupQueryAttentionGradient is the gradient of GroupQueryAttention, of which
// it takes the present keys and values. Those of the past have none.
func groupQueryAttentionGradient(b *Backward) {
	if b.Wants(3) || b.Wants(4) {
		b.Fail(fmt.Errorf("past keys and values have %w; let them depend on no weight that is trained", ErrNoGradient))
		return
	}
	heads, shared := b.Node.Int("num_heads", 0), b.Node.Int("kv_num_heads", 0)
	last := onnx.IntAttribute("axis", -1)
	in, packed := []Value{b.Input(0), b.Input(1), b.Input(2)}, b.Input(1) == NoValue
	if packed {
		size := b.Op("Div", b.Length(in[0], -1), b.Ints(heads+2*shared))
		in = b.AddMany(&onnx.Node{OpType: "Split", Attributes: []*onnx.Attribute{last}}, 3, in[0], b.Op("Mul", size, b.Ints(heads, shared, shared)))
	}
	lengths, places := b.groupQueryPlaces(in[0])
	turn := func(v Value, heads int64, sign float64) Value { return v }
	if b.Node.Int("do_rotary", 0) != 0 {
		turn = b.groupQueryRotation(places)
	}
	d := []Value{NoValue, b.Gradient(1), b.Gradient(2)}
	if b.Gradient(0) != NoValue {
		g := b.groupQueryScores(attended{turn(in[0], heads, 1), b.Output(1), b.Output(2)}, lengths)
		for i := range d {
			if d[i] != NoValue {
				g[i] = b.Op("Add", g[i], d[i])
			}
			d[i] = g[i]
		}
	}
	indices := b.Op("Unsqueeze", places, b.Ints(-1))
	for i := range d {
		if d[i] == NoValue {
			d[i] = b.Op("Expand", b.Scalar(0, in[i]), b.Shape(in[i]))
			continue
		}
		if i > 0 { // [batch, heads, keys, size], of which those at places are new
			n := &onnx.Node{OpType: "GatherND", Attributes: []*onnx.Attribute{onnx.IntAttribute("batch_dims", 1)}}
			d[i] = b.Reshape(b.Add(n, b.Transpose(d[i], 0, 2, 1, 3), indices), in[i])
		}
		switch i {
		case 0:
			d[i] = turn(d[i], heads, -1)
		case 1:
			d[i] = turn(d[i], shared, -1)
		}
		b.Set(i, d[i])
	}
	if packed {
		b.Set(0, b.Add(&onnx.Node{OpType: "Concat", Attributes: []*onnx.Attribute{last}}, d...))
	}
}

// groupQueryPlaces returns how many keys each batch of a GroupQueryAttention
// node has, and the places [batch, queries] of the new ones among them. Where
// all are new, a batch with fewer has them in front.
func (b *Backward) groupQueryPlaces(query Value) (lengths, places Value) {
	whole := func(vector Value) Value { return b.Op("Squeeze", vector) }
	queries := b.Length(query, -2)
	used := b.Add(&onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Int64))}}, b.Input(5))
	used = b.Op("Add", used, b.Ints(1))
	lengths = b.Op("Max", used, queries)
	past := b.Op("Unsqueeze", b.Op("Sub", lengths, queries), b.Ints(1))
	places = b.Op("Add", past, b.Op("Range", whole(b.Ints(0)), whole(queries), whole(b.Ints(1))))
	if b.Node.Int("causal", 1) == 0 {
		lengths = used
	}
	return lengths, places
}

// groupQueryRotation returns the function that rotates queries or keys of a
// GroupQueryAttention node, and with the sign −1 turns a gradient back.
func (b *Backward) groupQueryRotation(places Value) func(v Value, heads int64, sign float64) Value {
	table := b.Fact(b.Input(7)).Shape
	if len(table) != 2 || !table[1].Known() {
		b.Fail(fmt.Errorf("the gradient needs the shape of cos_cache, which is not known before a run; make it a constant"))
		table = []Dim{0, 0}
	}
	if ids := b.Input(9); ids != NoValue {
		places = ids
	}
	return func(v Value, heads int64, sign float64) Value {
		sin := b.Input(8)
		if sign < 0 {
			sin = b.Op("Neg", sin)
		}
		return b.Add(&onnx.Node{Domain: "com.microsoft", OpType: "RotaryEmbedding", Attributes: []*onnx.Attribute{
			onnx.IntAttribute("num_heads", heads), onnx.IntAttribute("rotary_embedding_dim", 2*int64(table[1])),
			onnx.IntAttribute("interleaved", b.Node.Int("rotary_interleaved", 0)),
		}}, v, places, b.Input(7), sin)
	}
}

// groupQueryScores returns the gradients of rotated queries and of present keys
// and values of a GroupQueryAttention node, and states those of the bias of its
// scores and of the sinks.
func (b *Backward) groupQueryScores(in attended, lengths Value) []Value {
	heads, causal := b.Node.Int("num_heads", 0), b.Node.Int("causal", 1)
	n := &onnx.Node{Attributes: []*onnx.Attribute{onnx.IntAttribute("q_num_heads", heads), onnx.IntAttribute("kv_num_heads", b.Node.Int("kv_num_heads", 0)),
		onnx.IntAttribute("is_causal", causal), onnx.FloatAttribute("softcap", b.Node.Float("softcap", 0))}}
	if scale := b.Node.Float("scale", 0); scale != 0 {
		n.Attributes = append(n.Attributes, onnx.FloatAttribute("scale", scale))
	}
	if window := b.Node.Int("local_window_size", -1); window > 0 && causal != 0 {
		n.Attributes = append(n.Attributes, onnx.IntAttribute("left_window_size", window-1))
	}
	sink := b.Input(11)
	if sink == NoValue && b.Node.Int("smooth_softmax", 0) != 0 {
		sink = b.Op("Expand", b.Scalar(0, in[0]), b.Ints(heads))
	}
	d := b.attend(n, in, b.Input(10), lengths, b.Gradient(0), sink)
	if b.Wants(10) {
		b.Set(10, b.SumTo(d[3], b.Input(10)))
	}
	if b.Wants(11) {
		b.Set(11, b.ReduceSum(d[4], false, 0, 2))
	}
	return d[:3]
}
