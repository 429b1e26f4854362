package tokenizer

import (
	"fmt"
	"regexp"
	"strings"
)

// addedToken is a token that is found in text as it is spelled, before
// anything else is done.
type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LeftStrip  bool   `json:"lstrip"`
	RightStrip bool   `json:"rstrip"`
	Special    bool   `json:"special"`
}

type addedTokens struct {
	expression *regexp.Regexp // nil where there are none
	byContent  map[string]addedToken
	byID       map[int]addedToken
}

func (t *BPE) setAddedTokens(list []addedToken) error {
	a := &t.added
	a.byContent, a.byID = map[string]addedToken{}, map[int]addedToken{}
	var alternatives []string
	for _, token := range list {
		if token.SingleWord {
			return fmt.Errorf("added token %q: single_word is not supported", token.Content)
		}
		if token.Content == "" {
			continue
		}
		a.byContent[token.Content], a.byID[token.ID] = token, token
		alternatives = append(alternatives, regexp.QuoteMeta(token.Content))
	}
	if len(alternatives) == 0 {
		return nil
	}
	var err error
	if a.expression, err = regexp.Compile(strings.Join(alternatives, "|")); err != nil {
		return fmt.Errorf("added tokens: %w", err)
	}
	a.expression.Longest()
	return nil
}

// segment is an added token, or the text between two.
type segment struct {
	text  string
	added bool
	token int
}

// cut splits text at added tokens: at the leftmost, the longest of those that
// begin there.
func (a *addedTokens) cut(text string) []segment {
	var list []segment
	for text != "" {
		var at []int
		if a.expression != nil {
			at = a.expression.FindStringIndex(text)
		}
		if at == nil {
			return append(list, segment{text: text})
		}
		before, found, after := text[:at[0]], a.byContent[text[at[0]:at[1]]], text[at[1]:]
		if found.LeftStrip {
			before = strings.TrimRight(before, whitespace)
		}
		if found.RightStrip {
			after = strings.TrimLeft(after, whitespace)
		}
		if before != "" {
			list = append(list, segment{text: before})
		}
		list = append(list, segment{added: true, token: found.ID})
		text = after
	}
	return list
}

// template puts special tokens, such as one that begins every text, around
// the tokens of a text.
type template struct{ before, after []int }

func (t template) apply(tokens []int) []int {
	return append(append(append([]int{}, t.before...), tokens...), t.after...)
}

func newTemplate(c *component) (template, error) {
	var t template
	if c == nil {
		return t, nil
	}
	switch c.Type {
	case "ByteLevel": // it moves offsets, which nobody asks for here
		return t, nil
	case "Sequence":
		for i := range c.Processors {
			inner, err := newTemplate(&c.Processors[i])
			if err != nil {
				return t, err
			}
			t.before, t.after = append(inner.before, t.before...), append(t.after, inner.after...)
		}
		return t, nil
	case "TemplateProcessing":
		side := &t.before
		for _, p := range c.Single {
			if p.SpecialToken == nil {
				side = &t.after
				continue
			}
			special, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return t, fmt.Errorf("post-processor: special token %q has no number", p.SpecialToken.ID)
			}
			*side = append(*side, special.IDs...)
		}
		return t, nil
	}
	return t, fmt.Errorf("post-processor %s is not supported", c.Type)
}
