package tokenizer

import (
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// normalizer prepares text before it is split.
type normalizer func(text string) string

func newNormalizer(c *component) (normalizer, error) {
	if c == nil {
		return func(text string) string { return text }, nil
	}
	switch c.Type {
	case "Sequence":
		return normalizerSequence(c.Normalizers)
	case "NFC":
		return norm.NFC.String, nil
	case "NFD":
		return norm.NFD.String, nil
	case "NFKC":
		return norm.NFKC.String, nil
	case "NFKD":
		return norm.NFKD.String, nil
	case "Lowercase":
		return strings.ToLower, nil
	case "Prepend":
		return func(text string) string {
			if text == "" {
				return ""
			}
			return c.Prepend + text
		}, nil
	case "Strip":
		return func(text string) string {
			if c.StripLeft {
				text = strings.TrimLeft(text, whitespace)
			}
			if c.StripRight {
				text = strings.TrimRight(text, whitespace)
			}
			return text
		}, nil
	case "Replace":
		p, err := newPattern(c.Pattern)
		if err != nil {
			return nil, fmt.Errorf("normalizer Replace: %w", err)
		}
		return func(text string) string { return p.replace(text, c.Content) }, nil
	}
	return nil, fmt.Errorf("normalizer %s is not supported", c.Type)
}

func normalizerSequence(list []component) (normalizer, error) {
	steps := make([]normalizer, len(list))
	for i := range list {
		var err error
		if steps[i], err = newNormalizer(&list[i]); err != nil {
			return nil, err
		}
	}
	return func(text string) string {
		for _, step := range steps {
			text = step(text)
		}
		return text
	}, nil
}
