package data

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/fmoe-go/fmoe/runtime/language/tokenizer"
)

// Source is a corpus: documents of tokens, one behind the other. Its methods
// may be used by several goroutines.
type Source interface {
	// Documents returns how many documents there are.
	Documents() int

	// Start returns how many tokens lie before document i. For i = Documents()
	// these are all tokens.
	Start(i int) int

	// Read fills buffer with the tokens from number at on, counted over all
	// documents. Those up to Start(Documents()) can be read.
	Read(buffer []int32, at int) error

	// Close releases the corpus's file.
	io.Closer
}

// Options say how a corpus is read.
type Options struct {
	// Tokenizer splits text and JSON lines into tokens; nil: into bytes.
	// Files of tokens need none.
	Tokenizer tokenizer.Tokenizer

	// TextKey is the key of the text in JSON lines; "": DefaultTextKey.
	TextKey string

	// EndOfDocument is the token that follows each document, and None says
	// that none does. Where it is nil, text is followed by the token that the
	// tokenizer has for this (see EndOfDocument), and tokens by none. A
	// document of text that ends with it already, and all documents of a file of
	// tokens whose first one does, are left as they are.
	EndOfDocument *int

	// Vocabulary is the number of tokens that the model knows. Others are an
	// error. 0: any token is as good.
	Vocabulary int
}

// None, as the end of documents, is no token.
const None = -1

// DefaultTextKey is the key of the text in JSON lines.
const DefaultTextKey = "text"

// DefaultLabelKey is the key of the label in JSON lines.
const DefaultLabelKey = "label"

// Open opens the corpus at path. The extension says what it is:
//
//	.bin, .idx           Megatron's indexed dataset, both files or their common name
//	.npy                 integers [tokens], or [documents, tokens of each]
//	.jsonl, .ndjson      JSON lines: an object with a text in each line, a document
//	.txt, .text, .md     text, one document
//
// Files of tokens are mapped into memory and not read, and so is text without a
// tokenizer. A tokenizer goes over all text once, here; the tokens are kept in
// memory, in as few bytes as the vocabulary allows. [WriteMegatron] puts them
// into a file instead, which texts of many gigabytes should be.
//
// Errors name the file and what to do.
func Open(path string, o Options) (Source, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	switch format(path) {
	case megatron:
		return openMegatron(path, o)
	case numPy:
		return openNPY(path, o)
	case jsonLines, plainText:
		return openText(path, o)
	}
	return nil, unknownFormat(path)
}

// Formats of corpora.
const (
	megatron  = "Megatron"
	numPy     = "NumPy"
	jsonLines = "JSON lines"
	plainText = "text"
)

// format returns the format that a path's extension stands for, "" for none.
func format(path string) string {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".bin", ".idx":
		return megatron
	case ".npy":
		return numPy
	case ".jsonl", ".ndjson":
		return jsonLines
	case ".txt", ".text", ".md":
		return plainText
	}
	if _, err := os.Stat(path + ".idx"); err == nil {
		return megatron
	}
	return ""
}

func unknownFormat(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gz", ".zst", ".xz", ".bz2", ".zip":
		return fmt.Errorf("%s is compressed; decompress it first", path)
	case ".json":
		return fmt.Errorf("%s: name it .jsonl if each of its lines is a JSON object; other JSON is not read", path)
	}
	return fmt.Errorf("%s: its extension does not say what it is; name it .bin and .idx (Megatron), .npy, .jsonl or .txt", path)
}

func (o *Options) check() error {
	if o.Vocabulary < 0 || o.Vocabulary > math.MaxInt32 {
		return fmt.Errorf("a vocabulary of %d tokens; needs 1 … %d, or 0 for any", o.Vocabulary, math.MaxInt32)
	}
	if end := o.end(); end < None || end > math.MaxInt32 {
		return fmt.Errorf("end of document %d; needs a token, or %d for none", end, None)
	} else if o.Vocabulary > 0 && end >= o.Vocabulary {
		return fmt.Errorf("end of document %d; the model knows the tokens 0 … %d", end, o.Vocabulary-1)
	}
	return nil
}

// end returns the token that follows documents if the options say so.
func (o *Options) end() int {
	if o.EndOfDocument == nil {
		return None
	}
	return *o.EndOfDocument
}

// EndOfDocument returns the token that a tokenizer has for the end of a
// document, by the names that are usual: <|endoftext|>, <|end_of_text|>, </s>,
// <eos>; None where it has none of them. What a model's configuration says
// ([tokenizer.EndTokens]) is more to be trusted.
func EndOfDocument(t tokenizer.Tokenizer) int {
	if named, ok := t.(interface{ Token(string) (int, bool) }); ok {
		for _, name := range []string{"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"} {
			if token, ok := named.Token(name); ok {
				return token
			}
		}
	}
	return None
}

// Tokens returns the number of tokens of a corpus.
func Tokens(s Source) int { return s.Start(s.Documents()) }

// Document appends the tokens of a document to buffer.
func Document(s Source, i int, buffer []int32) ([]int32, error) {
	start, have := s.Start(i), len(buffer)
	n := s.Start(i+1) - start
	buffer = slices.Grow(buffer, n)[:have+n]
	return buffer, s.Read(buffer[have:], start)
}

// checkRange returns an error where a corpus lacks some of the n tokens from at
// on.
func checkRange(s Source, at, n int) error {
	if total := Tokens(s); at < 0 || n > total-at {
		return fmt.Errorf("tokens %d … %d of %d", at, at+n-1, total)
	}
	return nil
}

// documentOf returns the document that a token is in.
func documentOf(s Source, at int) int {
	return sort.Search(s.Documents(), func(i int) bool { return s.Start(i+1) > at })
}

// Split divides a corpus into the part to train on and its end, of about a
// share of all tokens, which is held out: at the border between documents that
// is closest, or, where that would make the held-out part half as large or half
// as large again, within a document. Both read s, and closing them does
// nothing.
func Split(s Source, share float64) (training, heldOut Source, err error) {
	total := Tokens(s)
	if !(share > 0 && share < 1) {
		return nil, nil, fmt.Errorf("a held-out share of %g; needs one between 0 and 1", share)
	}
	held := int(math.Round(share * float64(total)))
	if held < 1 || held >= total {
		return nil, nil, fmt.Errorf("of %d tokens a share of %g cannot be held out; needs more tokens, or a file of its own to evaluate on", total, share)
	}
	want := total - held
	at, off := want, held/2
	for i, document := 0, documentOf(s, want); i < 2; i++ {
		border := s.Start(document + i)
		if d := max(border-want, want-border); border > 0 && border < total && d <= off {
			at, off = border, d
		}
	}
	return newPart(s, 0, at), newPart(s, at, total), nil
}

// Concatenate returns the documents of several corpora, one corpus behind the
// other, for what is in several files. Closing it closes them.
func Concatenate(sources ...Source) Source {
	c := &concatenation{sources: sources, documents: []int{0}, tokens: []int{0}}
	for i, s := range sources {
		c.documents = append(c.documents, c.documents[i]+s.Documents())
		c.tokens = append(c.tokens, c.tokens[i]+Tokens(s))
	}
	return c
}

type concatenation struct {
	sources           []Source
	documents, tokens []int // before each corpus, and last of all
}

func (c *concatenation) Documents() int { return c.documents[len(c.sources)] }

func (c *concatenation) Start(i int) int {
	k := sort.SearchInts(c.documents[1:], i) // corpora that end before document i, or with it
	if k == len(c.sources) {
		return 0
	}
	return c.tokens[k] + c.sources[k].Start(i-c.documents[k])
}

func (c *concatenation) Read(buffer []int32, at int) error {
	if err := checkRange(c, at, len(buffer)); err != nil {
		return err
	}
	for k := sort.SearchInts(c.tokens[1:], at+1); len(buffer) > 0; k++ {
		n := min(len(buffer), c.tokens[k+1]-at)
		if err := c.sources[k].Read(buffer[:n], at-c.tokens[k]); err != nil {
			return err
		}
		buffer, at = buffer[n:], at+n
	}
	return nil
}

func (c *concatenation) Close() error {
	errs := make([]error, len(c.sources))
	for i, s := range c.sources {
		errs[i] = s.Close()
	}
	return errors.Join(errs...)
}

// part is the tokens from … to of a corpus.
type part struct {
	Source
	from, to         int
	first, documents int
}

func newPart(s Source, from, to int) *part {
	first := documentOf(s, from)
	return &part{s, from, to, first, documentOf(s, to-1) + 1 - first}
}

func (p *part) Documents() int { return p.documents }

func (p *part) Start(i int) int {
	return min(max(p.Source.Start(p.first+i), p.from), p.to) - p.from
}

func (p *part) Read(buffer []int32, at int) error {
	if err := checkRange(p, at, len(buffer)); err != nil {
		return err
	}
	return p.Source.Read(buffer, p.from+at)
}

func (p *part) Close() error { return nil }

// ended is a corpus with a token behind each document.
type ended struct {
	Source
	end int32
}

// withEnds puts a token behind each document unless it is None or ends the
// first document.
func withEnds(s Source, end int) (Source, error) {
	if end == None || s.Documents() == 0 {
		return s, nil
	}
	if n := s.Start(1); n > 0 {
		last := []int32{0}
		if err := s.Read(last, n-1); err != nil || int(last[0]) == end {
			return s, err
		}
	}
	return &ended{s, int32(end)}, nil
}

func (e *ended) Start(i int) int { return e.Source.Start(i) + i }

func (e *ended) Read(buffer []int32, at int) error {
	if err := checkRange(e, at, len(buffer)); err != nil {
		return err
	}
	for i := documentOf(e, at); len(buffer) > 0; i++ {
		n := min(len(buffer), e.Start(i+1)-1-at)
		if err := e.Source.Read(buffer[:n], at-i); err != nil {
			return err
		}
		if n < len(buffer) {
			buffer[n] = e.end
			n++
		}
		buffer, at = buffer[n:], at+n
	}
	return nil
}
