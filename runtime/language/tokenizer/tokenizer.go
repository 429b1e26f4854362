// Package tokenizer turns text into the token numbers that a language model
// reads, and back: bytes as they are, or byte-pair encoding (BPE) as a
// tokenizer.json of Hugging Face describes it.
package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Tokenizer is a vocabulary and the rules to split text into it.
type Tokenizer interface {
	// Encode returns the tokens of a text, with the tokens that the model
	// expects around it.
	Encode(text string) []int

	// Decode returns the text of tokens. Special tokens, and numbers outside
	// the vocabulary, have none. Text may end within a character.
	Decode(tokens []int) string
}

// Bytes is the tokenizer of models whose 256 tokens are bytes.
type Bytes struct{}

// Encode returns the bytes of the text.
func (Bytes) Encode(text string) []int {
	tokens := make([]int, len(text))
	for i := range tokens {
		tokens[i] = int(text[i])
	}
	return tokens
}

// Decode returns the text of the bytes.
func (Bytes) Decode(tokens []int) string {
	b := make([]byte, 0, len(tokens))
	for _, t := range tokens {
		if t >= 0 && t < 256 {
			b = append(b, byte(t))
		}
	}
	return string(b)
}

// Size returns 256, one more than the largest byte.
func (Bytes) Size() int { return 256 }

// FileName is the name under which a tokenizer lies beside its model.
const FileName = "tokenizer.json"

// Beside reads the tokenizer.json in the directory of the model at path. The
// error is [fs.ErrNotExist] where there is none.
func Beside(path string) (*BPE, error) {
	return ReadFile(filepath.Join(filepath.Dir(path), FileName))
}

// ReadFile reads a tokenizer.json.
func ReadFile(path string) (*BPE, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// EndTokens returns the tokens that end a text according to the
// generation_config.json or config.json in the directory of the model at
// path: none where neither says.
func EndTokens(path string) ([]int, error) {
	for _, name := range []string{"generation_config.json", "config.json"} {
		name = filepath.Join(filepath.Dir(path), name)
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var config struct {
			End json.RawMessage `json:"eos_token_id"`
		}
		if err := json.Unmarshal(data, &config); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var one *int
		var many []int
		if json.Unmarshal(config.End, &one) == nil && one != nil {
			return []int{*one}, nil
		}
		if json.Unmarshal(config.End, &many) == nil && len(many) > 0 {
			return many, nil
		}
	}
	return nil, nil
}
