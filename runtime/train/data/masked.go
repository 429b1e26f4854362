package data

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/internal/random"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// MaskedOptions say how tokens are hidden from a masked language model.
type MaskedOptions struct {
	Length     int // tokens of a sequence, with those before and after
	Vocabulary int // number of tokens that the model knows
	Mask       int // the token that stands for a hidden one
	Pad        int // the token behind the last sequence's end

	// Before and After are tokens around each sequence, such as [CLS] and [SEP].
	Before, After []int

	// Special are further tokens that are never hidden: those that are not
	// text. Mask, Pad, Before and After always are.
	Special []int

	// Share of the tokens that the model is to find; 0: 0.15.
	Share float64
}

type masked struct {
	source        Source
	options       MaskedOptions
	before, after []int32
	special       []int32
	tokens        int
	text          int // tokens of the corpus in a sequence
	checksum      uint32
}

// Masked returns examples for masked language models (BERT, Devlin et al.
// 2019): the corpus in pieces, a share of whose tokens are labels. Of these,
// eight in ten are replaced by the mask, one by any token of the vocabulary, and
// one stays as it is. Which ones is drawn anew in each epoch. A sequence that
// has a token that may be hidden has at least one label.
func Masked(s Source, o MaskedOptions) (Examples, error) {
	if o.Share == 0 {
		o.Share = 0.15
	}
	m := &masked{source: s, options: o, tokens: Tokens(s), text: o.Length - len(o.Before) - len(o.After)}
	if err := checkLength(o.Length); err != nil {
		return nil, err
	}
	switch {
	case !(o.Share > 0 && o.Share <= 1):
		return nil, fmt.Errorf("a share of %g of masked tokens; needs one above 0 and up to 1", o.Share)
	case o.Vocabulary < 1 || o.Vocabulary > 1<<31-1:
		return nil, fmt.Errorf("a vocabulary of %d tokens; needs the number that the model knows", o.Vocabulary)
	case m.text < 1:
		return nil, fmt.Errorf("sequences of %d tokens, %d of which are around the text; needs more", o.Length, len(o.Before)+len(o.After))
	case m.tokens < 1:
		return nil, errors.New("the corpus has no tokens")
	}
	special := slices.Concat(o.Special, o.Before, o.After, []int{o.Mask, o.Pad})
	for _, token := range special {
		if token < 0 || token >= o.Vocabulary {
			return nil, fmt.Errorf("special token %d; the model knows the tokens 0 … %d", token, o.Vocabulary-1)
		}
	}
	m.special, m.before, m.after = tokensOf(special), tokensOf(o.Before), tokensOf(o.After)
	slices.Sort(m.special)
	var err error
	m.checksum, err = checksum(s)
	return m, err
}

func tokensOf(numbers []int) []int32 {
	tokens := make([]int32, len(numbers))
	for i, n := range numbers {
		tokens[i] = int32(n)
	}
	return tokens
}

func (m *masked) Len() int { return (m.tokens-1)/m.text + 1 }

func (m *masked) NewBatch(rows int) *Batch {
	b := newTexts(rows, m.options.Length, int32(m.options.Pad))
	b.Arrays[Labels] = newLabels(rows, m.options.Length)
	return b
}

func (m *masked) Fill(b *Batch, row, example int, draw Draw) error {
	at := example * m.text
	n := min(m.text, m.tokens-at)
	tokens := slices.Concat(m.before, make([]int32, n), m.after)
	text := tokens[len(m.before):][:n]
	if err := m.source.Read(text, at); err != nil {
		return err
	}
	labels := tensor.Of[int64](b.Arrays[Labels])[row*m.options.Length+len(m.before):][:n]
	hide := func(i int, words [4]uint32) {
		labels[i] = int64(text[i])
		switch kind := random.Uniform(words)[1]; {
		case kind < 0.8:
			text[i] = int32(m.options.Mask)
		case kind < 0.9:
			text[i] = int32(uint64(words[2]) * uint64(m.options.Vocabulary) >> 32)
		}
		b.Labels++
	}
	least, hidden := -1, false // of the first words, should none be small enough
	var leastWords [4]uint32
	for i, token := range text {
		if _, special := slices.BinarySearch(m.special, token); special {
			continue
		}
		words := draw.Words(i)
		if least < 0 || words[0] < leastWords[0] {
			least, leastWords = i, words
		}
		if random.Uniform(words)[0] < m.options.Share {
			hide(i, words)
			hidden = true
		}
	}
	if !hidden && least >= 0 {
		hide(least, leastWords)
	}
	b.setTokens(row, tokens)
	return nil
}

func (m *masked) String() string {
	return fmt.Sprintf("masked, a share of %g, of %d tokens (checksum %08x) in %d documents, sequences of %d around %d",
		m.options.Share, m.tokens, m.checksum, m.source.Documents(), m.options.Length, m.text)
}
