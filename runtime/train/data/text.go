package data

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/language/tokenizer"
)

// maxText is the length in bytes from which a text is cut into several
// documents, as a tokenizer needs memory of several times its text.
const maxText = 16 << 20

// openText opens text or JSON lines. Bytes of text are tokens as they lie in
// the file; everything else is tokenised, and kept in memory.
func openText(path string, o Options) (Source, error) {
	f, err := memory.MapFile(path, os.Stat, os.Open)
	if err != nil {
		return nil, err
	}
	if o.Tokenizer == nil && format(path) == plainText {
		n := len(f.Bytes)
		c := &corpus{path: path, elements: onnx.Uint8, data: f.Bytes, documents: min(n, 1), limit: newLimit(o.Vocabulary),
			start: func(i int) int { return i * n }, close: f.Close}
		return endedOrClosed(c, o.end())
	}
	defer f.Close()
	e := newEncoder(o)
	var data []byte
	starts := []int{0}
	err = e.encode(texts(path, f.Bytes, o), func(tokens []int32) error {
		data = appendTokens(data, e.elements, tokens)
		starts = append(starts, starts[len(starts)-1]+len(tokens))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &corpus{path: path, elements: e.elements, data: data, documents: len(starts) - 1, limit: newLimit(o.Vocabulary),
		start: func(i int) int { return starts[i] }}, nil
}

// texts returns the documents of text or JSON lines that are not empty.
func texts(path string, file []byte, o Options) iter.Seq2[string, error] {
	if format(path) == plainText {
		return func(yield func(string, error) bool) {
			for len(file) > 0 {
				n := cut(file)
				if !yield(string(file[:n]), nil) {
					return
				}
				file = file[n:]
			}
		}
	}
	key := o.TextKey
	if key == "" {
		key = DefaultTextKey
	}
	return func(yield func(string, error) bool) {
		for object, err := range lines(file) {
			var text string
			if err == nil {
				text, err = object.text(key)
			}
			if (text != "" || err != nil) && !yield(text, err) || err != nil {
				return
			}
		}
	}
}

// cut returns the length of the first document of a text: all, or up to a
// line's or at least a character's end.
func cut(text []byte) int {
	if len(text) <= maxText {
		return len(text)
	}
	if n := bytes.LastIndexByte(text[:maxText], '\n') + 1; n > 0 {
		return n
	}
	n := maxText
	for i := range utf8.UTFMax {
		if utf8.RuneStart(text[n-i]) {
			return n - i
		}
	}
	return n
}

// line is an object of JSON lines.
type line struct {
	number int // of the first line: 1
	fields map[string]json.RawMessage
}

// lines returns the objects of a JSON lines file, and an error after which
// there is nothing more. Blank lines are skipped.
func lines(file []byte) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		file = bytes.TrimPrefix(file, []byte("\ufeff"))
		for number := 1; len(file) > 0; number++ {
			text, rest, _ := bytes.Cut(file, []byte("\n"))
			file = rest
			if text = bytes.TrimSpace(text); len(text) == 0 {
				continue
			}
			l := line{number: number}
			if err := json.Unmarshal(text, &l.fields); err != nil || l.fields == nil {
				if err == nil || text[0] != '{' {
					err = errors.New("is no JSON object; JSON lines have one in each line")
				}
				yield(l, l.errorf("%w", err))
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

func (l *line) errorf(format string, values ...any) error {
	return fmt.Errorf("line %d: %w", l.number, fmt.Errorf(format, values...))
}

func (l *line) keys() string { return strings.Join(slices.Sorted(maps.Keys(l.fields)), ", ") }

// text returns the text that the object has under a key.
func (l *line) text(key string) (string, error) {
	raw, ok := l.fields[key]
	if !ok {
		return "", l.errorf("has no %q; choose the key of the text among: %s", key, l.keys())
	}
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		return "", l.errorf("%q is no string; choose the key of a text", key)
	}
	return *text, nil
}

// encoder turns texts into the tokens of documents.
type encoder struct {
	tokenizer tokenizer.Tokenizer
	end       int           // behind each document, or None
	limit     uint64        // tokens are below
	elements  onnx.DataType // the narrowest for the vocabulary
}

func newEncoder(o Options) *encoder {
	e := &encoder{tokenizer: o.Tokenizer, end: o.end(), limit: newLimit(o.Vocabulary), elements: onnx.Int32}
	if e.tokenizer == nil {
		e.tokenizer = tokenizer.Bytes{}
	}
	if o.EndOfDocument == nil {
		e.end = EndOfDocument(e.tokenizer)
	}
	if sized, ok := e.tokenizer.(interface{ Size() int }); ok {
		size := max(sized.Size(), e.end+1)
		e.elements, e.limit = narrowest(size), min(e.limit, uint64(size))
	}
	return e
}

// block is how many bytes of text a goroutine encodes at once, at least.
const block = 1 << 20

// encode calls sink with the tokens of each document, in the order of the
// documents. tokens hold until sink returns.
func (e *encoder) encode(documents iter.Seq2[string, error], sink func(tokens []int32) error) error {
	var blocks [][]string
	size := block
	flush := func() error {
		encoded := make([][][]int32, len(blocks))
		errs := make([]error, len(blocks))
		var wait sync.WaitGroup
		for i := range blocks {
			wait.Go(func() { encoded[i], errs[i] = e.block(blocks[i]) })
		}
		wait.Wait()
		for i := range blocks {
			for _, tokens := range encoded[i] {
				if err := sink(tokens); err != nil {
					return err
				}
			}
			if errs[i] != nil {
				return errs[i]
			}
		}
		blocks, size = blocks[:0], block
		return nil
	}
	for text, err := range documents {
		if err != nil {
			return err
		}
		if size >= block {
			if len(blocks) == runtime.GOMAXPROCS(0) {
				if err := flush(); err != nil {
					return err
				}
			}
			blocks, size = append(blocks, nil), 0
		}
		last := len(blocks) - 1
		blocks[last] = append(blocks[last], text)
		size += len(text)
	}
	return flush()
}

func (e *encoder) block(texts []string) ([][]int32, error) {
	encoded := make([][]int32, 0, len(texts))
	for _, text := range texts {
		tokens, err := e.document(text)
		if err != nil {
			return encoded, err
		}
		encoded = append(encoded, tokens)
	}
	return encoded, nil
}

// document returns the tokens of a text, and the one that ends it.
func (e *encoder) document(text string) ([]int32, error) {
	numbers := e.tokenizer.Encode(text)
	if e.end != None && (len(numbers) == 0 || numbers[len(numbers)-1] != e.end) {
		numbers = append(numbers, e.end)
	}
	tokens := make([]int32, len(numbers))
	for i, n := range numbers {
		if n < 0 || uint64(n) >= e.limit || n > math.MaxInt32 {
			return nil, fmt.Errorf("the tokenizer makes token %d of %.40q, needs 0 … %d; use the model's own tokenizer", n, text, e.limit-1)
		}
		tokens[i] = int32(n)
	}
	return tokens, nil
}
