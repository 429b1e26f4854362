package benchmodel

import (
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// Transformer is the size of a GPT or a BERT.
type Transformer struct {
	Layers, Model, Heads, Hidden, Vocabulary, Positions int
}

// The sizes of GPT-2 small and BERT-base.
var (
	GPT2 = Transformer{Layers: 12, Model: 768, Heads: 12, Hidden: 3072, Vocabulary: 50257, Positions: 1024}
	BERT = Transformer{Layers: 12, Model: 768, Heads: 12, Hidden: 3072, Vocabulary: 30522, Positions: 512}
)

// lowest is what masks add to scores that do not count.
const lowest = -math.MaxFloat32

// Decoder is a GPT-2 with caches of keys and values: input_ids, attention_mask,
// position_ids and past_key_values.* to logits and present.*.
func (t Transformer) Decoder() *onnx.Model {
	b := newBuilder("gpt")
	ids := b.input("input_ids", onnx.Int64, "batch", "sequence")
	mask := b.input("attention_mask", onnx.Int64, "batch", "past_sequence + sequence")
	positions := b.input("position_ids", onnx.Int64, "batch", "sequence")
	x := b.op("Add",
		b.op("Gather", b.weight("transformer.wte.weight", 0, weightStd, t.Vocabulary, t.Model), ids),
		b.op("Gather", b.weight("transformer.wpe.weight", 0, weightStd, t.Positions, t.Model), positions))
	bias := b.causalMask(ids, mask)
	for i := range t.Layers {
		layer := fmt.Sprintf("transformer.h.%d", i)
		norm := b.norm(layer+".ln_1", x, t.Model)
		x = b.op("Add", b.cachedAttention(t, i, norm, bias), x)
		h := b.linear(layer+".mlp.c_fc", b.norm(layer+".ln_2", x, t.Model), t.Model, t.Hidden)
		x = b.op("Add", x, b.linear(layer+".mlp.c_proj", b.geluTanh(h), t.Hidden, t.Model))
	}
	x = b.norm("transformer.ln_f", x, t.Model)
	b.op("MatMul", x, b.weight("lm_head.weight", 0, weightStd, t.Model, t.Vocabulary))
	b.output("logits", onnx.Float32, "batch", "sequence", t.Vocabulary)
	// Logits come first, as exporters have it.
	outputs := b.graph.Outputs
	b.graph.Outputs = append(outputs[len(outputs)-1:], outputs[:len(outputs)-1]...)
	return b.model()
}

// causalMask returns what is added to the scores of attention, [batch, 1,
// sequence, past + sequence]: 0 for the keys that a query may see.
func (b *builder) causalMask(ids, mask string) string {
	total := b.size(mask, 1)
	past := b.op("Sub", total, b.size(ids, 1))
	queries := b.op("Unsqueeze", b.op("Range", past, total, b.integer(1)), b.integers(1))
	keys := b.op("Unsqueeze", b.op("Range", b.integer(0), total, b.integer(1)), b.integers(0))
	visible := b.op("And", b.op("LessOrEqual", keys, queries), b.op("Unsqueeze", b.cast(mask, onnx.Bool), b.integers(1, 2)))
	return b.op("Where", visible, b.number(0), b.number(lowest))
}

// cachedAttention is GPT-2's attention: one projection for queries, keys and
// values, and caches that grow.
func (b *builder) cachedAttention(t Transformer, layer int, x, bias string) string {
	size := t.Model / t.Heads
	name := fmt.Sprintf("transformer.h.%d.attn", layer)
	all := b.linear(name+".c_attn", x, t.Model, 3*t.Model)
	third := int64(t.Model)
	b.add("Split", name+"/Split", []string{all, b.integers(third, third, third)}, onnx.IntAttribute("axis", -1))
	parts := []string{name + "/query", name + "/key", name + "/value"}
	b.last().Outputs = slices.Clone(parts)
	for i := range parts {
		parts[i] = b.splitHeads(t, parts[i])
	}
	for i, kind := range []string{"key", "value"} {
		cache := fmt.Sprintf("%d.%s", layer, kind)
		past := b.input("past_key_values."+cache, onnx.Float32, "batch", t.Heads, "past_sequence", size)
		parts[1+i] = b.add("Concat", "present."+cache, []string{past, parts[1+i]}, onnx.IntAttribute("axis", -2))
		b.graph.Outputs = append(b.graph.Outputs, value("present."+cache, onnx.Float32, "batch", t.Heads, "past_sequence + sequence", size))
	}
	return b.linear(name+".c_proj", b.attention(t, parts[0], parts[1], parts[2], bias), t.Model, t.Model)
}

// splitHeads turns [batch, sequence, model] into [batch, heads, sequence, size].
func (b *builder) splitHeads(t Transformer, x string) string {
	return b.transpose(b.op("Reshape", x, b.integers(0, 0, int64(t.Heads), int64(t.Model/t.Heads))), 0, 2, 1, 3)
}

// attention is softmax(q·kᵀ/√size + bias)·v, with the heads side by side again.
func (b *builder) attention(t Transformer, q, k, v, bias string) string {
	scale := b.number(float32(math.Sqrt(float64(t.Model / t.Heads))))
	scores := b.op("Add", b.op("Div", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), scale), bias)
	weights := b.add("Softmax", b.name("Softmax"), []string{scores}, onnx.IntAttribute("axis", -1))
	y := b.transpose(b.op("MatMul", weights, v), 0, 2, 1, 3)
	return b.op("Reshape", y, b.integers(0, 0, int64(t.Model)))
}

// Encoder is a BERT: input_ids, attention_mask and token_type_ids to
// last_hidden_state.
func (t Transformer) Encoder() *onnx.Model {
	b := newBuilder("bert")
	ids := b.input("input_ids", onnx.Int64, "batch", "sequence")
	mask := b.input("attention_mask", onnx.Int64, "batch", "sequence")
	types := b.input("token_type_ids", onnx.Int64, "batch", "sequence")
	positions := b.op("Range", b.integer(0), b.size(ids, 1), b.integer(1))
	x := b.op("Add",
		b.op("Gather", b.weight("embeddings.word_embeddings.weight", 0, weightStd, t.Vocabulary, t.Model), ids),
		b.op("Gather", b.weight("embeddings.token_type_embeddings.weight", 0, weightStd, 2, t.Model), types))
	x = b.op("Add", x, b.op("Gather", b.weight("embeddings.position_embeddings.weight", 0, weightStd, t.Positions, t.Model), positions))
	x = b.norm("embeddings.LayerNorm", x, t.Model)
	hidden := b.op("Sub", b.number(1), b.cast(b.op("Unsqueeze", mask, b.integers(1, 2)), onnx.Float32))
	bias := b.op("Mul", hidden, b.number(lowest))
	for i := range t.Layers {
		layer := fmt.Sprintf("encoder.layer.%d", i)
		head := func(name string) string {
			return b.splitHeads(t, b.linear(layer+".attention.self."+name, x, t.Model, t.Model))
		}
		y := b.attention(t, head("query"), head("key"), head("value"), bias)
		x = b.op("Add", b.linear(layer+".attention.output.dense", y, t.Model, t.Model), x)
		x = b.norm(layer+".attention.output.LayerNorm", x, t.Model)
		y = b.geluErf(b.linear(layer+".intermediate.dense", x, t.Model, t.Hidden))
		x = b.norm(layer+".output.LayerNorm", b.op("Add", b.linear(layer+".output.dense", y, t.Hidden, t.Model), x), t.Model)
	}
	b.output("last_hidden_state", onnx.Float32, "batch", "sequence", t.Model)
	return b.model()
}

// Perceptrons are the layers without their attention: x [tokens, d] to
// y [tokens, d].
func (t Transformer) Perceptrons() *onnx.Model {
	b := newBuilder("perceptrons")
	x := b.input("x", onnx.Float32, "tokens", t.Model)
	for i := range t.Layers {
		layer := fmt.Sprintf("layers.%d", i)
		h := b.geluTanh(b.linear(layer+".mlp.fc1", b.norm(layer+".norm", x, t.Model), t.Model, t.Hidden))
		x = b.op("Add", x, b.linear(layer+".mlp.fc2", h, t.Hidden, t.Model))
	}
	b.output("y", onnx.Float32, "tokens", t.Model)
	return b.model()
}
