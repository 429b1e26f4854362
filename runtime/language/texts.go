package language

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Texts turns texts into inputs of a decoder language model that is run
// elsewhere.
type Texts struct{ model *Model }

// NewTexts makes the Texts of a model that was read from path. The options say
// how it is opened; the model is not compiled.
func NewTexts(m *onnx.Model, path string, o Options) (*Texts, error) {
	inputs := slices.DeleteFunc(slices.Clone(m.Graph.Inputs), func(v *onnx.ValueInfo) bool { return m.Graph.Initializer(v.Name) != nil })
	model := &Model{model: m, Context: o.Context}
	if err := model.prepare(inputs, m.Graph.Outputs, path, o); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Texts{model}, nil
}

// Inputs returns what the model reads, named inputs for each run: the text in
// windows as long as the model's context, or DefaultWindow where that is not
// bounded.
func (t *Texts) Inputs(text string) []map[string]*tensor.Tensor {
	window := t.model.Context
	if window == 0 {
		window = DefaultWindow
	}
	var runs []map[string]*tensor.Tensor
	r := &t.model.roles
	for tokens := range slices.Chunk(t.model.Tokenizer.Encode(text), window) {
		inputs := t.model.Step(0, len(tokens))
		inputs[r.tokens] = row(r.types[r.tokens], len(tokens), func(i int) int { return tokens[i] })
		if r.mask != "" {
			inputs[r.mask] = row(r.types[r.mask], len(tokens), func(int) int { return 1 })
		}
		if r.positions != "" {
			inputs[r.positions] = row(r.types[r.positions], len(tokens), func(i int) int { return i })
		}
		runs = append(runs, inputs)
	}
	return runs
}

// Tokens returns the number of tokens of a run.
func (t *Texts) Tokens(inputs map[string]*tensor.Tensor) int {
	return tensor.Count(inputs[t.model.roles.tokens].Shape)
}
