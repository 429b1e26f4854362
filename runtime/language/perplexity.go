package language

import (
	"context"
	"fmt"
	"math"
)

// Perplexity is how well a model predicts a text.
type Perplexity struct {
	// Tokens is the number of tokens predicted: all but the first.
	Tokens int

	// LogLoss is the mean of −ln p(token | tokens before it in its window).
	LogLoss float64
}

// Value returns e to the power of the log loss: among how many equally likely
// tokens the model is undecided on average.
func (p Perplexity) Value() float64 { return math.Exp(p.LogLoss) }

// DefaultWindow is the length of windows for a model whose context is not
// bounded.
const DefaultWindow = 512

// Perplexity measures how well the model predicts tokens. The text is cut into
// windows of the given length, each predicted from its own tokens only; 0
// stands for the model's context, or DefaultWindow where that is not bounded.
func (m *Model) Perplexity(ctx context.Context, tokens []int, window int) (Perplexity, error) {
	if window == 0 {
		if window = m.Context; window == 0 {
			window = DefaultWindow
		}
	}
	if window < 1 {
		return Perplexity{}, fmt.Errorf("a window of %d tokens is too short: give it 1 or more", window)
	}
	if m.Context > 0 && window > m.Context {
		return Perplexity{}, fmt.Errorf("a window of %d tokens is longer than the model's context of %d", window, m.Context)
	}
	if len(tokens) < 2 {
		return Perplexity{}, fmt.Errorf("a text of %d tokens has nothing to predict: give it 2 or more", len(tokens))
	}
	sum := 0.0
	for start := 0; start < len(tokens)-1; start += window {
		end := min(start+window, len(tokens)-1)
		s, err := m.newSequence(end - start)
		if err != nil {
			return Perplexity{}, err
		}
		l, err := s.read(ctx, tokens[start:end])
		if err != nil {
			return Perplexity{}, err
		}
		for i := range l.n {
			loss, err := logLoss(l.after(i), tokens[start+i+1])
			if err != nil {
				return Perplexity{}, err
			}
			sum += loss
		}
		s.state.Close()
	}
	predicted := len(tokens) - 1
	return Perplexity{Tokens: predicted, LogLoss: sum / float64(predicted)}, nil
}

// logLoss is −ln softmax(logits)[token].
func logLoss(logits []float32, token int) (float64, error) {
	if token < 0 || token >= len(logits) {
		return 0, fmt.Errorf("token %d is outside the model's vocabulary of %d: the tokenizer is not the model's", token, len(logits))
	}
	top := logits[0]
	for _, x := range logits {
		top = max(top, x)
	}
	sum := 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x - top))
	}
	return math.Log(sum) - float64(logits[token]-top), nil
}
