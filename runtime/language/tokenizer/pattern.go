package tokenizer

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// pattern finds the places at which text is split or replaced.
//
// A tokenizer.json is written for the Oniguruma engine. Its expressions use
// one construct that Go's engine lacks, \s+(?!\S): white space up to but not
// including the character before the next word. It is matched as a group of
// white space that gives its last character back. Everything else means the
// same to Go's engine once the classes that Oniguruma takes from Unicode are
// spelled out.
type pattern struct {
	expression *regexp.Regexp
	giveBack   int // the group of \s+(?!\S), 0 where there is none
}

// The characters of Unicode's property White_Space.
const (
	whitespace      = "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
	whitespaceClass = `\t-\r\x{85}\p{Z}`
	trailingSpaces  = `\s+(?!\S)`
	giveBackGroup   = "giveback"
)

func newPattern(spec *patternSpec) (*pattern, error) {
	switch {
	case spec != nil && spec.String != nil:
		return compile(regexp.QuoteMeta(*spec.String))
	case spec != nil && spec.Regex != nil:
		return compile(*spec.Regex)
	}
	return nil, errors.New("its pattern is missing")
}

func compile(source string) (*pattern, error) {
	if strings.Count(source, trailingSpaces) > 1 {
		return nil, fmt.Errorf("pattern %q is not supported: it looks ahead twice", source)
	}
	translated, err := translate(strings.Replace(source, trailingSpaces, `(?P<`+giveBackGroup+`>\s+)`, 1))
	if err != nil {
		return nil, fmt.Errorf("pattern %q is not supported: %w", source, err)
	}
	expression, err := regexp.Compile(translated)
	if err != nil {
		return nil, fmt.Errorf("pattern %q is not supported: %w", source, err)
	}
	return &pattern{expression, max(0, expression.SubexpIndex(giveBackGroup))}, nil
}

// translate spells out the classes that Oniguruma takes from Unicode.
func translate(source string) (string, error) {
	var b strings.Builder
	inClass := false
	for i := 0; i < len(source); i++ {
		switch c := source[i]; {
		case c == '\\' && i+1 < len(source):
			i++
			switch e := source[i]; {
			case e == 's' && inClass:
				b.WriteString(whitespaceClass)
			case e == 's':
				b.WriteString("[" + whitespaceClass + "]")
			case e == 'S' && !inClass:
				b.WriteString("[^" + whitespaceClass + "]")
			case e == 'd':
				b.WriteString(`\p{Nd}`)
			case strings.IndexByte("bBDhHkKRSwWXzZ", e) >= 0:
				return "", fmt.Errorf(`\%c has no counterpart here`, e)
			default:
				b.WriteString(source[i-1 : i+1])
			}
			continue
		case c == '[' && inClass, c == '&' && inClass && strings.HasPrefix(source[i:], "&&"):
			return "", errors.New("classes within classes have no counterpart here")
		case c == '[':
			inClass = true
		case c == ']':
			inClass = false
		}
		b.WriteByte(source[i])
	}
	return b.String(), nil
}

// find returns the first match in text at or after position at, and false
// where there is none. Empty matches do not count.
func (p *pattern) find(text string, at int) (start, end int, ok bool) {
	for at < len(text) {
		m := p.expression.FindStringSubmatchIndex(text[at:])
		if m == nil {
			return 0, 0, false
		}
		start, end = at+m[0], at+m[1]
		if start == end {
			_, size := utf8.DecodeRuneInString(text[start:])
			at = start + size
			continue
		}
		if g := 2 * p.giveBack; g > 0 && m[g] >= 0 && end < len(text) {
			// A single space has nothing to give back: the alternative after
			// this one, \s+, takes it.
			if _, size := utf8.DecodeLastRuneInString(text[start:end]); size < end-start {
				end -= size
			}
		}
		return start, end, true
	}
	return 0, 0, false
}

func (p *pattern) replace(text, by string) string {
	var b strings.Builder
	at := 0
	for {
		start, end, ok := p.find(text, at)
		if !ok {
			b.WriteString(text[at:])
			return b.String()
		}
		b.WriteString(text[at:start])
		b.WriteString(by)
		at = end
	}
}
