package language

import (
	"context"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// sequence is a text that a model is reading.
type sequence struct {
	model  *Model
	length int            // tokens read
	state  *runtime.State // with what the model's caches have of them
}

// newSequence begins a text for whose caches there is room for as many tokens,
// without which they are moved when they grow.
func (m *Model) newSequence(room int) (*sequence, error) {
	var caches []runtime.Cache
	for _, c := range m.roles.caches {
		empty := tensor.New(m.roles.types[c.past], c.shape...)
		caches = append(caches, runtime.Cache{Input: c.past, Output: c.present, First: empty})
	}
	state, err := m.session.NewState(room, caches...)
	if err != nil {
		return nil, err
	}
	return &sequence{model: m, state: state}, nil
}

// read lets the model read tokens after those it has read, and returns their
// logits [n, vocabulary], which hold until the next call. A model without
// caches reads only the first time.
func (s *sequence) read(ctx context.Context, tokens []int) (*logits, error) {
	r := &s.model.roles
	total := s.length + len(tokens)
	inputs := make([]*tensor.Tensor, len(s.model.session.Inputs()))
	for i, v := range s.model.session.Inputs() {
		t := r.types[v.Name]
		switch v.Name {
		case r.tokens:
			inputs[i] = row(t, len(tokens), func(i int) int { return tokens[i] })
		case r.mask:
			inputs[i] = row(t, total, func(int) int { return 1 })
		case r.positions:
			inputs[i] = row(t, len(tokens), func(i int) int { return s.length + i })
		}
	}
	outputs, err := s.state.Run(ctx, inputs)
	if err != nil {
		return nil, err
	}
	s.length = total
	if err := s.observe(outputs); err != nil {
		return nil, err
	}
	for i, v := range s.model.session.Outputs() {
		if v.Name == r.logits {
			return newLogits(outputs[i], len(tokens))
		}
	}
	return nil, fmt.Errorf("the model has no output %q", r.logits)
}

// observe shows the outputs of a run to whoever asked for them.
func (s *sequence) observe(outputs []*tensor.Tensor) error {
	if s.model.observe == nil {
		return nil
	}
	named := map[string]*tensor.Tensor{}
	for i, v := range s.model.session.Outputs() {
		if outputs[i] != nil {
			named[v.Name] = outputs[i]
		}
	}
	return s.model.observe(named)
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
