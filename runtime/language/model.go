// Package language runs decoder language models: it generates text and
// measures perplexity.
package language

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/inspect"
	"github.com/fmoe-go/fmoe/runtime/language/tokenizer"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Options say how a language model is opened.
type Options struct {
	Runtime runtime.Options

	// Tokenizer is the path of a tokenizer.json, or "bytes" where tokens are
	// bytes. With "" it is the tokenizer.json beside the model or, where there
	// is none and the model has 256 tokens, bytes.
	Tokenizer string

	// Context is the number of tokens that the model can see; 0 takes it from
	// the model's table of positions, if it has one.
	Context int

	// Observe, where it is not nil, sees the outputs of each run by name, but
	// for those that are caches. They hold until it returns; an error ends
	// what the model is doing.
	Observe func(outputs map[string]*tensor.Tensor) error
}

// Model is a decoder language model with its tokenizer.
type Model struct {
	Tokenizer tokenizer.Tokenizer

	// Context is how many tokens the model sees at once, 0 when that is not
	// bounded.
	Context int

	// EndTokens end a text.
	EndTokens []int

	session *runtime.Session
	model   *onnx.Model
	roles   roles
	observe func(outputs map[string]*tensor.Tensor) error
}

// vocabularyOfBytes is the number of tokens of a model that reads bytes.
const vocabularyOfBytes = 256

// Open reads a model that maps token numbers, int32 or int64 [batch,
// sequence], to logits [batch, sequence, vocabulary]. Besides, it may have the
// inputs attention_mask and position_ids, both [batch, …], and key and value
// caches past_key_values.* [batch, heads, past, size] with outputs present.*.
func Open(path string, o Options) (*Model, error) {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	model, err := New(m, path, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), m.Close())
	}
	return model, nil
}

// New is Open for a model that was read already, from path or from what is
// there. Closing the language model closes it.
func New(m *onnx.Model, path string, o Options) (*Model, error) {
	session, err := runtime.New(m, o.Runtime)
	if err != nil {
		return nil, err
	}
	model := &Model{session: session, model: m, Context: o.Context, observe: o.Observe}
	if err := model.prepare(session.Inputs(), session.Outputs(), path, o); err != nil {
		return nil, errors.Join(err, session.Close())
	}
	return model, nil
}

func (m *Model) prepare(inputs, outputs []*onnx.ValueInfo, path string, o Options) (err error) {
	if m.roles, err = findRoles(inputs, outputs); err != nil {
		return err
	}
	if m.Context == 0 {
		if length, ok := inspect.ContextLength(m.model.Graph); ok {
			m.Context = int(length)
		}
	}
	if m.Tokenizer, err = m.findTokenizer(path, o.Tokenizer); err != nil {
		return err
	}
	m.EndTokens, err = tokenizer.EndTokens(path)
	return err
}

func (m *Model) findTokenizer(path, choice string) (tokenizer.Tokenizer, error) {
	switch choice {
	case "":
		t, err := tokenizer.Beside(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
		if m.roles.vocabulary != 0 && m.roles.vocabulary != vocabularyOfBytes {
			return nil, fmt.Errorf("there is no %s beside the model, whose %d tokens are not bytes", tokenizer.FileName, m.roles.vocabulary)
		}
		return tokenizer.Bytes{}, nil
	case "bytes":
		return tokenizer.Bytes{}, nil
	}
	return tokenizer.ReadFile(choice)
}

// Close frees what the model holds.
func (m *Model) Close() error { return errors.Join(m.session.Close(), m.model.Close()) }
