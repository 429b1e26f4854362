package tokenizer

import "strings"

// byteAlphabet writes bytes as printable characters, one for each, as GPT-2
// introduced it: printable Latin-1 stands for itself, the others are moved to
// U+0100 and up.
type byteAlphabet struct {
	letters [256]rune
	bytes   map[rune]byte
}

var byteLevel = newByteAlphabet()

func newByteAlphabet() *byteAlphabet {
	a := &byteAlphabet{bytes: map[rune]byte{}}
	moved := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xa1 || b == 0xad {
			r = moved
			moved++
		}
		a.letters[b] = r
		a.bytes[r] = byte(b)
	}
	return a
}

func (a *byteAlphabet) encode(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteRune(a.letters[text[i]])
	}
	return b.String()
}

// decode leaves a token with characters outside the alphabet, an added one,
// as it is.
func (a *byteAlphabet) decode(token string) string {
	out := make([]byte, 0, len(token))
	for _, r := range token {
		b, ok := a.bytes[r]
		if !ok {
			return token
		}
		out = append(out, b)
	}
	return string(out)
}
