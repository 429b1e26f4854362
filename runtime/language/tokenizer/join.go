package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
)

// joiner turns the spellings of tokens into text: each step maps the list of
// pieces to another list, and what is left is concatenated.
type joiner func(pieces []string) []string

func newJoiner(c *component) (joiner, error) {
	if c == nil {
		return func(pieces []string) []string { return pieces }, nil
	}
	switch c.Type {
	case "Sequence":
		return joinerSequence(c.Decoders)
	case "ByteLevel":
		return mapPieces(func(_ int, s string) string { return byteLevel.decode(s) }), nil
	case "ByteFallback":
		return joinBytes, nil
	case "Fuse":
		return func(pieces []string) []string { return []string{strings.Join(pieces, "")} }, nil
	case "Replace":
		p, err := newPattern(c.Pattern)
		if err != nil {
			return nil, fmt.Errorf("decoder Replace: %w", err)
		}
		return mapPieces(func(_ int, s string) string { return p.replace(s, c.Content) }), nil
	case "Strip":
		return mapPieces(func(_ int, s string) string {
			for i := 0; i < c.Start && c.Content != "" && strings.HasPrefix(s, c.Content); i++ {
				s = s[len(c.Content):]
			}
			for i := 0; i < c.Stop && c.Content != "" && strings.HasSuffix(s, c.Content); i++ {
				s = s[:len(s)-len(c.Content)]
			}
			return s
		}), nil
	case "Metaspace":
		prefixed := c.PrependScheme != "never" && is(c.AddPrefixSpace)
		return mapPieces(func(i int, s string) string {
			if i == 0 && prefixed {
				s = strings.TrimPrefix(s, c.Replacement)
			}
			return strings.ReplaceAll(s, c.Replacement, " ")
		}), nil
	case "BPEDecoder":
		return func(pieces []string) []string {
			for i, s := range pieces {
				by := " "
				if i == len(pieces)-1 {
					by = ""
				}
				pieces[i] = strings.ReplaceAll(s, c.Suffix, by)
			}
			return pieces
		}, nil
	}
	return nil, fmt.Errorf("decoder %s is not supported", c.Type)
}

func joinerSequence(list []component) (joiner, error) {
	steps := make([]joiner, len(list))
	for i := range list {
		var err error
		if steps[i], err = newJoiner(&list[i]); err != nil {
			return nil, err
		}
	}
	return func(pieces []string) []string {
		for _, step := range steps {
			pieces = step(pieces)
		}
		return pieces
	}, nil
}

func mapPieces(f func(i int, s string) string) joiner {
	return func(pieces []string) []string {
		for i, s := range pieces {
			pieces[i] = f(i, s)
		}
		return pieces
	}
}

// byteToken spells a byte that has no other token.
func byteToken(b byte) string { return fmt.Sprintf("<0x%02X>", b) }

// joinBytes replaces the tokens of bytes by the bytes.
func joinBytes(pieces []string) []string {
	for i, s := range pieces {
		if len(s) == 6 && strings.HasPrefix(s, "<0x") && s[5] == '>' {
			if b, err := strconv.ParseUint(s[3:5], 16, 8); err == nil {
				pieces[i] = string([]byte{byte(b)})
			}
		}
	}
	return pieces
}
