package data

import (
	"fmt"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// causal are the examples of a next-token loss.
type causal struct {
	source         Source
	length, tokens int
	checksum       uint32
}

// Causal returns examples for models that predict the next token: the corpus,
// its documents one behind the other, in pieces of length tokens, in each of
// which the label of a token is the one that follows it in the corpus. Every
// token but the last is an input once in an epoch, and every token but the first
// a label. What the last piece lacks is padding.
//
// Pieces, not documents, are shuffled: the borders between pieces are known
// without memory, and the rows of a batch come from all over a long document.
func Causal(s Source, length int) (Examples, error) {
	if err := checkLength(length); err != nil {
		return nil, err
	}
	if n := Tokens(s); n < 2 {
		return nil, fmt.Errorf("the corpus has %d tokens; the next token's loss needs at least 2", n)
	}
	sum, err := checksum(s)
	if err != nil {
		return nil, err
	}
	return &causal{s, length, Tokens(s), sum}, nil
}

// maxLength is how many tokens a sequence may have.
const maxLength = 1 << 24

func checkLength(length int) error {
	if length < 1 || length > maxLength {
		return fmt.Errorf("sequences of %d tokens; needs 1 … %d", length, maxLength)
	}
	return nil
}

func (c *causal) Len() int { return (c.tokens-2)/c.length + 1 }

func (c *causal) NewBatch(rows int) *Batch {
	b := newTexts(rows, c.length, 0)
	b.Arrays[Labels] = newLabels(rows, c.length)
	return b
}

func (c *causal) Fill(b *Batch, row, example int, _ Draw) error {
	at := example * c.length
	n := min(c.length, c.tokens-1-at)
	tokens := make([]int32, n+1)
	if err := c.source.Read(tokens, at); err != nil {
		return err
	}
	b.setTokens(row, tokens[:n])
	labels := tensor.Of[int64](b.Arrays[Labels])[row*c.length:]
	for i, token := range tokens[1:] {
		labels[i] = int64(token)
	}
	b.Labels += n
	return nil
}

func (c *causal) String() string {
	return fmt.Sprintf("next of %d tokens (checksum %08x) in %d documents, sequences of %d", c.tokens, c.checksum, c.source.Documents(), c.length)
}
