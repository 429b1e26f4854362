package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// splitter cuts text into words, which are tokenized each by itself, and may
// rewrite them. first says that a word begins the text.
type splitter func(words []string, first bool) []string

// gpt2Words is the expression that ByteLevel splits with.
const gpt2Words = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

func newSplitter(c *component) (splitter, error) {
	if c == nil {
		return func(words []string, _ bool) []string { return words }, nil
	}
	switch c.Type {
	case "Sequence":
		return splitterSequence(c.PreTokenizers)
	case "ByteLevel":
		return byteLevelSplitter(c)
	case "Split":
		return patternSplitter(c)
	case "Digits":
		return digitSplitter(c), nil
	case "Metaspace":
		return metaspaceSplitter(c)
	}
	return nil, fmt.Errorf("pre-tokenizer %s is not supported", c.Type)
}

func splitterSequence(list []component) (splitter, error) {
	steps := make([]splitter, len(list))
	for i := range list {
		var err error
		if steps[i], err = newSplitter(&list[i]); err != nil {
			return nil, err
		}
	}
	return func(words []string, first bool) []string {
		for _, step := range steps {
			words = step(words, first)
		}
		return words
	}, nil
}

// each makes a splitter of a function of one word.
func each(split func(word string) []string) splitter {
	return func(words []string, _ bool) []string {
		var out []string
		for _, w := range words {
			out = append(out, split(w)...)
		}
		return out
	}
}

// byteLevelSplitter writes each byte as one printable character.
func byteLevelSplitter(c *component) (splitter, error) {
	words, err := compile(gpt2Words)
	if err != nil {
		return nil, err
	}
	return each(func(text string) []string {
		if is(c.AddPrefixSpace) && !strings.HasPrefix(text, " ") {
			text = " " + text
		}
		list := []string{text}
		if is(c.UseRegex) {
			list = isolated(words.pieces(text))
		}
		for i, w := range list {
			list[i] = byteLevel.encode(w)
		}
		return list
	}), nil
}

// piece is a part of a text that a pattern matches, or one between matches.
type piece struct {
	text  string
	match bool
}

func (p *pattern) pieces(text string) []piece {
	var list []piece
	at := 0
	for {
		start, end, ok := p.find(text, at)
		if !ok {
			start = len(text)
		}
		if start > at {
			list = append(list, piece{text[at:start], false})
		}
		if !ok {
			return list
		}
		list = append(list, piece{text[start:end], true})
		at = end
	}
}

func isolated(pieces []piece) []string {
	list := make([]string, len(pieces))
	for i, p := range pieces {
		list[i] = p.text
	}
	return list
}

func patternSplitter(c *component) (splitter, error) {
	p, err := newPattern(c.Pattern)
	if err != nil {
		return nil, fmt.Errorf("pre-tokenizer Split: %w", err)
	}
	merge, ok := behaviors[c.Behavior]
	if !ok {
		return nil, fmt.Errorf("pre-tokenizer Split: behavior %q is not supported", c.Behavior)
	}
	return each(func(text string) []string {
		pieces := p.pieces(text)
		for i := range pieces {
			pieces[i].match = pieces[i].match != c.Invert
		}
		return merge(pieces)
	}), nil
}

// behaviors say what becomes of a delimiter.
var behaviors = map[string]func([]piece) []string{
	"Isolated": isolated,
	"Removed": func(pieces []piece) []string {
		return isolated(slices.DeleteFunc(pieces, func(p piece) bool { return p.match }))
	},
	"MergedWithPrevious": func(pieces []piece) []string {
		return joined(pieces, func(before, p piece) bool { return p.match && !before.match })
	},
	"MergedWithNext": func(pieces []piece) []string {
		return joined(pieces, func(before, p piece) bool { return before.match && !p.match })
	},
	"Contiguous": func(pieces []piece) []string {
		return joined(pieces, func(before, p piece) bool { return before.match == p.match })
	},
}

// joined appends a piece to the one before it where together says so.
func joined(pieces []piece, together func(before, p piece) bool) []string {
	var list []string
	for i, p := range pieces {
		if i > 0 && together(pieces[i-1], p) {
			list[len(list)-1] += p.text
		} else {
			list = append(list, p.text)
		}
	}
	return list
}

func digitSplitter(c *component) splitter {
	return each(func(text string) []string {
		var pieces []piece
		for _, r := range text {
			digit := unicode.IsNumber(r)
			if last := len(pieces) - 1; last >= 0 && pieces[last].match == digit && !(digit && c.IndividualDigits) {
				pieces[last].text += string(r)
			} else {
				pieces = append(pieces, piece{string(r), digit})
			}
		}
		return isolated(pieces)
	})
}

// metaspaceSplitter writes spaces as a visible character and lets words begin
// with it, as SentencePiece does.
func metaspaceSplitter(c *component) (splitter, error) {
	scheme := c.PrependScheme
	if scheme == "" {
		scheme = "always"
		if !is(c.AddPrefixSpace) {
			scheme = "never"
		}
	}
	mark, err := newPattern(&patternSpec{String: &c.Replacement})
	if err != nil || c.Replacement == "" {
		return nil, fmt.Errorf("pre-tokenizer Metaspace: replacement %q is not supported", c.Replacement)
	}
	return func(words []string, first bool) []string {
		return each(func(text string) []string {
			text = strings.ReplaceAll(text, " ", c.Replacement)
			if (scheme == "always" || scheme == "first" && first) && !strings.HasPrefix(text, c.Replacement) {
				text = c.Replacement + text
			}
			if !is(c.Split) {
				return []string{text}
			}
			return behaviors["MergedWithNext"](mark.pieces(text))
		})(words, first)
	}, nil
}
