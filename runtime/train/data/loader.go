package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/fmoe-go/fmoe/internal/random"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The names of the arrays of a batch. All are int64 [rows, length] unless they
// say otherwise.
const (
	InputIDs      = "input_ids"      // tokens
	Labels        = "labels"         // what the model is to say, or Ignore; of classes [rows]
	AttentionMask = "attention_mask" // 1 for tokens, 0 for padding
	PositionIDs   = "position_ids"   // 0 … length−1
	TokenTypeIDs  = "token_type_ids" // zeros
	Features      = "features"       // of Pairs: any type and shape
)

// Ignore is the label that counts for no loss.
const Ignore = -100

// Batch is what a model is trained on in one step. A model takes those arrays
// that it has inputs for.
type Batch struct {
	Arrays map[string]*tensor.Tensor
	Rows   int // how many hold an example; the others are padding
	Tokens int // inputs that are not padding; of Pairs: rows
	Labels int // labels that are not Ignore
}

// maxBatch is how many bytes a batch may have.
const maxBatch = 1 << 30

// Examples are what the rows of batches are made of, in any order. New kinds
// may be added outside this package.
type Examples interface {
	// Len returns how many examples there are: an epoch has each once.
	Len() int

	// NewBatch returns a batch of so many rows, all of them padding.
	NewBatch(rows int) *Batch

	// Fill puts an example into a row, and counts its tokens and labels.
	Fill(b *Batch, row, example int, draw Draw) error

	// String describes the examples, differently where a position in their
	// order means something else.
	String() string
}

// Draw has the random numbers of one example in one epoch.
type Draw struct {
	key [2]uint32
	at  uint64
}

// Words returns four random words for place i of the example.
func (d Draw) Words(i int) [4]uint32 {
	return random.Philox([4]uint32{uint32(i), forMasks, uint32(d.at), uint32(d.at >> 32)}, d.key)
}

// LoaderOptions say which examples go into a batch.
type LoaderOptions struct {
	// Batch is the number of rows of a batch, over all workers.
	Batch int

	// Shuffle puts the examples of each epoch into an order of its own.
	Shuffle bool

	// Seed is the key of that order, and of what else is random.
	Seed uint64

	// Once ends after one epoch, whose last batch has rows of padding, as is
	// right for evaluation. Otherwise epochs follow one another without a gap.
	Once bool

	// Rank is the number of this worker, 0 … Workers−1. A worker loads the rows
	// rank·Batch/Workers … (rank+1)·Batch/Workers−1 of each batch, so that all
	// workers load what one would. Workers 0 is 1; there may be up to Batch.
	Rank, Workers int
}

// Loader makes batches. Its batches depend on the examples, the options and the
// position alone. It is not to be used by several goroutines at once.
type Loader struct {
	examples Examples
	options  LoaderOptions
	first    int // row of a batch, for this worker
	rows     int // of them
	next     int // how many examples were used: the number of the next one, over all epochs
	order    order
}

// NewLoader returns a loader at the beginning of the first epoch.
func NewLoader(e Examples, o LoaderOptions) (*Loader, error) {
	if o.Workers == 0 {
		o.Workers = 1
	}
	switch {
	case e.Len() < 1:
		return nil, fmt.Errorf("%s: nothing to load", e)
	case o.Batch < 1 || o.Workers < 1 || o.Batch < o.Workers:
		return nil, fmt.Errorf("a batch of %d rows for %d workers; needs a row for each", o.Batch, o.Workers)
	case o.Rank < 0 || o.Rank >= o.Workers:
		return nil, fmt.Errorf("worker %d of %d; needs 0 … %d", o.Rank, o.Workers, o.Workers-1)
	case o.Once && e.Len()%o.Batch != 0:
		if labels := e.NewBatch(1).Arrays[Labels]; labels != nil && labels.Type.IsFloat() {
			return nil, fmt.Errorf("%s: labels of %s cannot be padded; one epoch needs a batch that divides %d", e, labels.Type, e.Len())
		}
	}
	bytes := 0
	for _, t := range e.NewBatch(1).Arrays {
		bytes += len(t.Data)
	}
	if o.Batch > maxBatch/max(bytes, 1) {
		return nil, fmt.Errorf("%s: a batch of %d rows of %d bytes; up to %d MiB fit", e, o.Batch, bytes, maxBatch>>20)
	}
	l := &Loader{examples: e, options: o, first: o.Rank * o.Batch / o.Workers}
	l.rows = (o.Rank+1)*o.Batch/o.Workers - l.first
	l.setOrder(0)
	return l, nil
}

// setOrder makes the order of an epoch.
func (l *Loader) setOrder(epoch int) {
	l.order = newOrder(l.examples.Len(), l.options.Seed, uint64(epoch))
}

// Batches returns how many batches an epoch has, the last one not full.
func (l *Loader) Batches() int {
	return (l.examples.Len()-1)/l.options.Batch + 1
}

// Epoch returns how many epochs are behind the next batch.
func (l *Loader) Epoch() float64 { return float64(l.next) / float64(l.examples.Len()) }

// Next returns the next batch, and [io.EOF] after the last one of Once. After
// any other error the position is as before.
func (l *Loader) Next() (*Batch, error) {
	n := l.examples.Len()
	if l.options.Once && l.next >= n {
		return nil, io.EOF
	}
	b := l.examples.NewBatch(l.rows)
	for row := range l.rows {
		number := l.next + l.first + row
		if l.options.Once && number >= n {
			break
		}
		epoch, example := number/n, number%n
		if l.options.Shuffle {
			if uint64(epoch) != l.order.epoch {
				l.setOrder(epoch)
			}
			example = l.order.at(example)
		}
		if err := l.examples.Fill(b, row, example, Draw{keyOf(l.options.Seed), uint64(number)}); err != nil {
			return nil, err
		}
		b.Rows++
	}
	l.next += l.options.Batch
	return b, nil
}

// Position is a place in the order of all batches. It is the same for all
// workers, and remains valid when their number or the batch changes.
type Position struct {
	Example int    `json:"example"` // how many examples were used, over all epochs
	Data    string `json:"data"`    // what the examples, and their order, were
}

// String returns the position as JSON.
func (p Position) String() string {
	text, _ := json.Marshal(p) // cannot fail
	return string(text)
}

// Position returns the position of the next batch.
func (l *Loader) Position() Position { return Position{l.next, l.describe()} }

func (l *Loader) describe() string {
	if l.options.Shuffle {
		return fmt.Sprintf("%s, shuffled with seed %d", l.examples, l.options.Seed)
	}
	return fmt.Sprintf("%s, with seed %d", l.examples, l.options.Seed)
}

// Seek makes the batch at a position the next one, at once wherever that is.
// The position must be of the same data in the same order.
func (l *Loader) Seek(p Position) error {
	if p.Example < 0 || p.Example > math.MaxInt/2 {
		return errors.New("the position in the data is damaged")
	}
	if now := l.describe(); p.Data != now {
		return fmt.Errorf("the position is one in other data (%s) than these (%s); resume with the same data, length and seed", p.Data, now)
	}
	l.next = p.Example
	return nil
}

// HoldOut divides examples into those to train on and a share of them, chosen
// at random but always in the same way, that is held out. For a corpus, [Split]
// is better: its examples are neighbours.
func HoldOut(e Examples, share float64) (training, heldOut Examples, err error) {
	n := e.Len()
	held := int(math.Round(share * float64(n)))
	if !(share > 0 && share < 1) || held < 1 || held >= n {
		return nil, nil, fmt.Errorf("a share of %g of %d examples cannot be held out; needs a share between 0 and 1 that leaves both parts an example", share, n)
	}
	all := newOrder(n, 0, 0)
	return &subset{e, all, 0, n - held}, &subset{e, all, n - held, held}, nil
}

// subset is the examples at n places of an order.
type subset struct {
	Examples
	order    order
	first, n int
}

func (s *subset) Len() int { return s.n }

func (s *subset) Fill(b *Batch, row, example int, draw Draw) error {
	return s.Examples.Fill(b, row, s.order.at(s.first+example), draw)
}

func (s *subset) String() string {
	return fmt.Sprintf("%d examples from place %d of %s", s.n, s.first, s.Examples)
}

// newTexts returns a batch of padding with arrays [rows, length]; labels are
// for the caller to add.
func newTexts(rows, length int, pad int32) *Batch {
	b := &Batch{Arrays: map[string]*tensor.Tensor{}}
	for _, name := range []string{InputIDs, AttentionMask, PositionIDs, TokenTypeIDs} {
		b.Arrays[name] = tensor.New(onnx.Int64, rows, length)
	}
	positions := tensor.Of[int64](b.Arrays[PositionIDs])
	for i := range positions {
		positions[i] = int64(i % length)
	}
	fill(b.Arrays[InputIDs], int64(pad))
	return b
}

// newLabels returns labels of which none counts.
func newLabels(shape ...int) *tensor.Tensor {
	t := tensor.New(onnx.Int64, shape...)
	fill(t, Ignore)
	return t
}

func fill(t *tensor.Tensor, value int64) {
	for i, v := 0, tensor.Of[int64](t); i < len(v); i++ {
		v[i] = value
	}
}

// setTokens puts tokens into a row, from its beginning.
func (b *Batch) setTokens(row int, tokens []int32) {
	length := b.Arrays[InputIDs].Shape[1]
	ids := tensor.Of[int64](b.Arrays[InputIDs])[row*length:]
	mask := tensor.Of[int64](b.Arrays[AttentionMask])[row*length:]
	for i, token := range tokens {
		ids[i], mask[i] = int64(token), 1
	}
	b.Tokens += len(tokens)
}
