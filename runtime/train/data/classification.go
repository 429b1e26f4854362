package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// ClassificationOptions say how labelled texts are read.
type ClassificationOptions struct {
	Options
	LabelKey string // the key of the label in JSON lines; "": DefaultLabelKey
	Length   int    // tokens of a row: longer texts are cut off, shorter ones padded
	Pad      int    // the token of padding

	// Classes are the names of classes 0, 1, … where labels are strings. Nil:
	// those in the file, sorted. A file to evaluate on must be given those of
	// the file to train on.
	Classes []string
}

// Classification are texts with a class each.
type Classification struct {
	source  *corpus
	labels  []int64
	options ClassificationOptions
	sum     uint32

	// Classes are the names of classes 0, 1, …; nil where labels are numbers.
	Classes []string
}

// OpenClassification reads JSON lines with a text and a label, a string or a
// number 0, 1, …, in each. Labels are [rows]. No token follows a text unless
// the options name one.
func OpenClassification(path string, o ClassificationOptions) (*Classification, error) {
	if f := format(path); f == "" {
		return nil, unknownFormat(path)
	} else if f != jsonLines {
		return nil, fmt.Errorf("%s is %s; texts with labels are JSON lines, named .jsonl", path, f)
	}
	if err := errors.Join(o.check(), checkLength(o.Length)); err != nil {
		return nil, err
	}
	if o.Pad < 0 || o.Pad > math.MaxInt32 || o.Vocabulary > 0 && o.Pad >= o.Vocabulary {
		return nil, fmt.Errorf("padding token %d is none that the model knows", o.Pad)
	}
	if o.LabelKey == "" {
		o.LabelKey = DefaultLabelKey
	}
	if o.TextKey == "" {
		o.TextKey = DefaultTextKey
	}
	if o.EndOfDocument == nil {
		none := None
		o.EndOfDocument = &none
	}
	f, err := memory.MapFile(path, os.Stat, os.Open)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := &Classification{options: o}
	if err := c.read(path, f.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *Classification) read(path string, file []byte) error {
	e := newEncoder(c.options.Options)
	named := newClasses(c.options.Classes)
	documents := func(yield func(string, error) bool) {
		for object, err := range lines(file) {
			var text string
			var label int64
			if err == nil {
				text, err = object.text(c.options.TextKey)
			}
			if err == nil {
				label, err = object.label(c.options.LabelKey, named)
			}
			c.labels = append(c.labels, label)
			if !yield(text, err) || err != nil {
				return
			}
		}
	}
	var data []byte
	starts := []int{0}
	err := e.encode(documents, func(tokens []int32) error {
		tokens = tokens[:min(len(tokens), c.options.Length)]
		data = appendTokens(data, e.elements, tokens)
		starts = append(starts, starts[len(starts)-1]+len(tokens))
		return nil
	})
	if err != nil {
		return err
	}
	if len(starts) == 1 {
		return errors.New("has no texts")
	}
	c.Classes = named.sort(c.labels)
	c.source = &corpus{path: path, elements: e.elements, data: data, documents: len(starts) - 1,
		start: func(i int) int { return starts[i] }, limit: newLimit(c.options.Vocabulary)}
	c.sum, err = checksum(c.source)
	return err
}

// classes are the names of classes.
type classes struct {
	numbers map[string]int64
	given   []string // nil where all names are welcome
	numeric bool     // a label was a number
}

func newClasses(given []string) *classes {
	c := &classes{numbers: map[string]int64{}, given: given}
	for i, name := range given {
		c.numbers[name] = int64(i)
	}
	return c
}

// label returns the number of the class that the object has under a key.
func (l *line) label(key string, c *classes) (int64, error) {
	raw, ok := l.fields[key]
	if !ok {
		return 0, l.errorf("has no %q; choose the key of the label among: %s", key, l.keys())
	}
	var number int64
	var name string
	switch {
	case raw[0] == '"' && !c.numeric && json.Unmarshal(raw, &name) == nil:
		if number, ok = c.numbers[name]; !ok {
			if c.given != nil {
				return 0, l.errorf("label %q is none of the classes %q", name, c.given)
			}
			number = int64(len(c.numbers))
			c.numbers[name] = number
		}
	case raw[0] != '"' && raw[0] != 'n' && len(c.numbers) == 0 && json.Unmarshal(raw, &number) == nil && number >= 0:
		c.numeric = true
	default:
		return 0, l.errorf("label %.40s; needs a class, all of them strings or all of them numbers 0, 1, …", raw)
	}
	return number, nil
}

// sort returns the names of the classes, and gives labels their numbers in
// that list.
func (c *classes) sort(labels []int64) []string {
	if c.given != nil || c.numeric {
		return c.given
	}
	names := slices.Sorted(maps.Keys(c.numbers))
	sorted := make([]int64, len(names))
	for i, name := range names {
		sorted[c.numbers[name]] = int64(i)
	}
	for i, label := range labels {
		labels[i] = sorted[label]
	}
	return names
}

// Len implements [Examples].
func (c *Classification) Len() int { return len(c.labels) }

// NewBatch implements [Examples].
func (c *Classification) NewBatch(rows int) *Batch {
	b := newTexts(rows, c.options.Length, int32(c.options.Pad))
	b.Arrays[Labels] = newLabels(rows)
	return b
}

// Fill implements [Examples].
func (c *Classification) Fill(b *Batch, row, example int, _ Draw) error {
	tokens, err := Document(c.source, example, nil)
	if err != nil {
		return err
	}
	b.setTokens(row, tokens)
	tensor.Of[int64](b.Arrays[Labels])[row] = c.labels[example]
	b.Labels++
	return nil
}

// String implements [Examples].
func (c *Classification) String() string {
	return fmt.Sprintf("classes of %d texts with %d tokens (checksum %08x), up to %d each", len(c.labels), Tokens(c.source), c.sum, c.options.Length)
}
