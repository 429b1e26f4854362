package language

import (
	"context"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// sequence is a text that a model is reading.
type sequence struct {
	model  *Model
	length int                       // tokens read
	past   map[string]*tensor.Tensor // by the name of the cache's input
}

func (m *Model) newSequence() *sequence {
	s := &sequence{model: m, past: map[string]*tensor.Tensor{}}
	for _, c := range m.roles.caches {
		s.past[c.past] = tensor.New(m.roles.types[c.past], c.shape...)
	}
	return s
}

// read lets the model read tokens after those it has read, and returns their
// logits [n, vocabulary]. A model without caches reads only the first time.
func (s *sequence) read(ctx context.Context, tokens []int) (*logits, error) {
	r := &s.model.roles
	total := s.length + len(tokens)
	inputs := map[string]*tensor.Tensor{}
	put := func(name string, n int, at func(i int) int) {
		if name != "" {
			inputs[name] = row(r.types[name], n, at)
		}
	}
	put(r.tokens, len(tokens), func(i int) int { return tokens[i] })
	put(r.mask, total, func(int) int { return 1 })
	put(r.positions, len(tokens), func(i int) int { return s.length + i })
	for name, t := range s.past {
		inputs[name] = t
	}
	outputs, err := s.model.session.Run(ctx, inputs)
	if err != nil {
		return nil, err
	}
	for _, c := range r.caches {
		s.past[c.past] = outputs[c.present]
	}
	s.length = total
	return newLogits(outputs[r.logits], len(tokens))
}

// row makes a tensor [1, n] of integers.
func row(t onnx.DataType, n int, at func(i int) int) *tensor.Tensor {
	x := tensor.New(t, 1, n)
	for i := range n {
		if t == onnx.Int32 {
			tensor.Of[int32](x)[i] = int32(at(i))
		} else {
			tensor.Of[int64](x)[i] = int64(at(i))
		}
	}
	return x
}

// logits are the scores of the next token after each of n tokens.
type logits struct {
	n, vocabulary int
	values        []float32
}

func newLogits(t *tensor.Tensor, n int) (*logits, error) {
	if len(t.Shape) != 3 || t.Shape[0] != 1 || t.Shape[1] != n || t.Shape[2] < 1 || !t.Type.IsFloat() {
		return nil, fmt.Errorf("the model's output is %s, needs float32[1,%d,vocabulary]: the logits after each token", t, n)
	}
	if t.Type != onnx.Float32 {
		single := tensor.New(onnx.Float32, t.Shape...)
		tensor.ConvertFloat(single, t)
		t = single
	}
	return &logits{n, t.Shape[2], tensor.Of[float32](t)}, nil
}

// after returns the scores [vocabulary] of what follows token i.
func (l *logits) after(i int) []float32 {
	return l.values[i*l.vocabulary : (i+1)*l.vocabulary]
}
