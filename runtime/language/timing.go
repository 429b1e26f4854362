package language

import (
	"context"
	"fmt"
	"time"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Timing is how long it took to read a text.
type Timing struct {
	Prefill time.Duration   // all of the prompt at once
	Decode  []time.Duration // each token after it
}

// Time lets the model read a prompt of so many tokens, and then tokens one by
// one. The tokens are spread over the vocabulary and are the same each time.
func (m *Model) Time(ctx context.Context, prefill, decode int) (Timing, error) {
	if prefill < 1 || decode < 0 {
		return Timing{}, fmt.Errorf("a prompt of %d and %d more tokens cannot be read; the prompt needs 1 token at least", prefill, decode)
	}
	if total := prefill + decode; m.Context > 0 && total > m.Context {
		return Timing{}, fmt.Errorf("%d tokens do not fit into the model's context of %d", total, m.Context)
	}
	tokens := make([]int, prefill+decode)
	for i := range tokens {
		tokens[i] = (17 + 7919*i) % max(m.roles.vocabulary, 1)
	}
	reader := &reader{model: m, room: len(tokens)}
	defer reader.close()
	timing := Timing{Decode: make([]time.Duration, decode)}
	for i := prefill; i <= len(tokens); i++ {
		start := time.Now()
		if _, err := reader.next(ctx, tokens[:i]); err != nil {
			return Timing{}, err
		}
		if took := time.Since(start); i == prefill {
			timing.Prefill = took
		} else {
			timing.Decode[i-prefill-1] = took
		}
	}
	return timing, nil
}

// HasCaches reports whether the model reads each token once.
func (m *Model) HasCaches() bool { return len(m.roles.caches) > 0 }

// Session is what runs the model.
func (m *Model) Session() *runtime.Session { return m.session }

// Graph returns the model as the file has it.
func (m *Model) Graph() *onnx.Model { return m.model }

// Step returns inputs of the shapes that reading n tokens after others has.
func (m *Model) Step(past, n int) map[string]*tensor.Tensor {
	r := &m.roles
	inputs := map[string]*tensor.Tensor{r.tokens: tensor.New(r.types[r.tokens], 1, n)}
	if r.mask != "" {
		inputs[r.mask] = tensor.New(r.types[r.mask], 1, past+n)
	}
	if r.positions != "" {
		inputs[r.positions] = tensor.New(r.types[r.positions], 1, n)
	}
	for _, c := range r.caches {
		shape := append([]int{}, c.shape...)
		shape[2] = past
		inputs[c.past] = tensor.New(r.types[c.past], shape...)
	}
	return inputs
}
