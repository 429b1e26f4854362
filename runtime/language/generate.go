package language

import (
	"context"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// Generate continues a text by up to maxTokens tokens, or until the model ends
// it, and returns the new tokens. What is new of the text is given to emit as
// it comes, in pieces of whole characters.
//
// A model with a bounded context sees the last tokens of a text that is longer.
// With its caches a model reads each token once, as long as the text fits into
// its context.
func (m *Model) Generate(ctx context.Context, prompt string, maxTokens int, sampling Sampling, emit func(text string) error) ([]int, error) {
	if err := sampling.Check(); err != nil {
		return nil, err
	}
	tokens := m.Tokenizer.Encode(prompt)
	if len(tokens) == 0 {
		return nil, errors.New("the prompt has no tokens: give it at least one character")
	}
	sampler := NewSampler(sampling)
	reader := &reader{model: m, room: len(tokens) + min(maxTokens, firstRoom)}
	defer reader.close()
	out := newStream(m, tokens, emit)
	begin := len(tokens)
	for len(tokens)-begin < maxTokens {
		scores, err := reader.next(ctx, tokens)
		if err != nil {
			return tokens[begin:], err
		}
		token, err := sampler.Next(scores)
		if err != nil {
			return tokens[begin:], err
		}
		if slices.Contains(m.EndTokens, token) {
			break
		}
		tokens = append(tokens, token)
		if err := out.write(tokens, false); err != nil {
			return tokens[begin:], err
		}
	}
	return tokens[begin:], out.write(tokens, true)
}

// firstRoom bounds the new tokens for which caches have room from the beginning.
const firstRoom = 4096

// reader gives the scores after a text that grows at its end.
type reader struct {
	model    *Model
	room     int       // tokens that the text may get
	sequence *sequence // nil before the first token
}

func (r *reader) next(ctx context.Context, tokens []int) ([]float32, error) {
	bound := r.model.Context
	fits := bound == 0 || len(tokens) <= bound
	unread := tokens
	if cached := len(r.model.roles.caches) > 0; cached && fits && r.sequence != nil {
		unread = tokens[r.sequence.length:]
	} else {
		room := r.room
		if bound > 0 {
			room = min(room, bound)
		}
		r.close()
		var err error
		if r.sequence, err = r.model.newSequence(room); err != nil {
			return nil, err
		}
		if !fits {
			unread = tokens[len(tokens)-bound:]
		}
	}
	l, err := r.sequence.read(ctx, unread)
	if err != nil {
		return nil, err
	}
	return l.after(l.n - 1), nil
}

// close ends the reading, and with it the scores.
func (r *reader) close() {
	if r.sequence != nil {
		r.sequence.state.Close()
		r.sequence = nil
	}
}

// stream turns a growing list of tokens into pieces of text.
type stream struct {
	model   *Model
	written int // bytes of the text
	emit    func(string) error
}

func newStream(m *Model, prompt []int, emit func(string) error) *stream {
	return &stream{model: m, written: len(m.Tokenizer.Decode(prompt)), emit: emit}
}

// write emits what is new in the text. A character of which bytes are missing
// waits for them, unless the text ends here.
func (s *stream) write(tokens []int, end bool) error {
	text := s.model.Tokenizer.Decode(tokens)
	fresh := text[min(s.written, len(text)):]
	if !end {
		fresh = fresh[:completeLength(fresh)]
	}
	if fresh == "" {
		return nil
	}
	s.written += len(fresh)
	return s.emit(strings.ToValidUTF8(fresh, string(utf8.RuneError)))
}

// completeLength returns the length of a text without a character at its end
// that is cut short.
func completeLength(text string) int {
	for i := len(text) - 1; i >= 0 && i >= len(text)-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if !utf8.FullRuneInString(text[i:]) {
				return i
			}
			break
		}
	}
	return len(text)
}
