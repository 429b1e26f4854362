package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// count returns a corpus of the tokens 0 … n−1 in documents of so many tokens.
func count(t testing.TB, n, document int) Source {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(i)
	}
	return open(t, writeNPY(t, tensor.FromSlice(tokens, n/document, document)), Options{})
}

func load(t testing.TB, e Examples, o LoaderOptions) *Loader {
	t.Helper()
	l, err := NewLoader(e, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func next(t testing.TB, l *Loader) *Batch {
	t.Helper()
	b, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func values(b *Batch, name string) []int64 { return tensor.Of[int64](b.Arrays[name]) }

func causalOf(t testing.TB, s Source, length int) Examples {
	t.Helper()
	e, err := Causal(s, length)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// In an epoch every token but the last is an input once, and its label is the
// next token, whatever the length, the batch and the order.
func TestEpochHasEachTokenOnce(t *testing.T) {
	const n = 60
	for _, length := range []int{1, 7, 59, 60, 100} {
		for _, batch := range []int{1, 4} {
			for _, shuffle := range []bool{false, true} {
				e := causalOf(t, count(t, n, 4), length)
				l := load(t, e, LoaderOptions{Batch: batch, Shuffle: shuffle, Seed: 3, Once: true})
				var inputs []int64
				tokens, labels, rows, batches := 0, 0, 0, 0
				for ; ; batches++ {
					b, err := l.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					tokens, labels, rows = tokens+b.Tokens, labels+b.Labels, rows+b.Rows
					mask, ids, next, positions := values(b, AttentionMask), values(b, InputIDs), values(b, Labels), values(b, PositionIDs)
					for i := range ids {
						if positions[i] != int64(i%length) {
							t.Fatalf("position %d at %d", positions[i], i)
						}
						if mask[i] == 1 && next[i] == ids[i]+1 {
							inputs = append(inputs, ids[i])
						} else if mask[i] != 0 || next[i] != Ignore || ids[i] != 0 {
							t.Fatalf("token %d, label %d, mask %d", ids[i], next[i], mask[i])
						}
					}
				}
				if tokens != n-1 || labels != n-1 || rows != e.Len() || batches != l.Batches() {
					t.Errorf("%d tokens, %d labels, %d rows, %d batches", tokens, labels, rows, batches)
				}
				sorted := slices.Sorted(slices.Values(inputs))
				for i, token := range sorted {
					if token != int64(i) {
						t.Fatalf("length %d: token %d of an epoch is %d", length, i, token)
					}
				}
				if len(sorted) != n-1 {
					t.Fatalf("length %d: %d tokens", length, len(sorted))
				}
				if shuffled := !slices.IsSorted(inputs); shuffled && !shuffle || !shuffled && shuffle && length == 1 {
					t.Errorf("length %d: shuffled: %t, want %t", length, shuffled, shuffle)
				}
			}
		}
	}
}

// everything returns examples of each kind.
func everything(t testing.TB) map[string]Examples {
	t.Helper()
	corpus := count(t, 100, 10)
	masked, err := Masked(corpus, MaskedOptions{Length: 8, Vocabulary: 200, Mask: 199, Before: []int{197}, After: []int{198}})
	if err != nil {
		t.Fatal(err)
	}
	classes, err := OpenClassification(write(t, "a.jsonl", strings.Repeat(`{"text": "abc", "label": "x"}
		{"text": "a longer text", "label": "y"}
		{"text": "", "label": "x"}
	`, 4)), ClassificationOptions{Length: 5})
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := OpenPairs(writeNPY(t, tensor.FromSlice([]float32{0, 1, 2, 3, 4, 5, 6, 7}, 4, 2)), writeNPY(t, tensor.FromSlice([]uint8{3, 2, 1, 0})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pairs.Close() })
	causal := causalOf(t, corpus, 6)
	part, _, err := HoldOut(causal, 0.3)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Examples{"causal": causal, "masked": masked, "classification": classes, "pairs": pairs, "part": part}
}

// A run that resumes at any batch loads what an uninterrupted one loads.
func TestResumeEqualsUninterrupted(t *testing.T) {
	for name, e := range everything(t) {
		t.Run(name, func(t *testing.T) {
			o := LoaderOptions{Batch: 3, Shuffle: true, Seed: 1 << 40}
			uninterrupted := load(t, e, o)
			for range 3 * uninterrupted.Batches() {
				saved, err := json.Marshal(uninterrupted.Position())
				if err != nil {
					t.Fatal(err)
				}
				var p Position
				if err := json.Unmarshal(saved, &p); err != nil {
					t.Fatal(err)
				}
				want := next(t, uninterrupted)
				resumed := load(t, e, o)
				if err := resumed.Seek(p); err != nil {
					t.Fatal(err)
				}
				if got := next(t, resumed); !reflect.DeepEqual(got, want) {
					t.Fatalf("at %s: got %v, want %v", p, got, want)
				}
				if resumed.Position() != uninterrupted.Position() || resumed.Epoch() != uninterrupted.Epoch() {
					t.Fatalf("at %s, want %s", resumed.Position(), uninterrupted.Position())
				}
			}
		})
	}
}

// Any number of workers load the rows that one would load.
func TestWorkersEqualOne(t *testing.T) {
	for name, e := range everything(t) {
		for _, once := range []bool{false, true} {
			for _, workers := range []int{2, 3, 4, 6} {
				t.Run(fmt.Sprintf("%s/%d/%t", name, workers, once), func(t *testing.T) {
					o := LoaderOptions{Batch: 6, Shuffle: true, Seed: 5, Once: once}
					one := load(t, e, o)
					var all []*Loader
					for rank := range workers {
						o.Rank, o.Workers = rank, workers
						all = append(all, load(t, e, o))
					}
					for range one.Batches() + 1 {
						want, err := one.Next()
						got := map[string][]byte{}
						var sum Batch
						for _, l := range all {
							b, workerErr := l.Next()
							if !errors.Is(workerErr, err) {
								t.Fatalf("error %v, of one worker %v", workerErr, err)
							}
							if err != nil {
								continue
							}
							for name, x := range b.Arrays {
								got[name] = append(got[name], x.Data...)
							}
							sum.Rows, sum.Tokens, sum.Labels = sum.Rows+b.Rows, sum.Tokens+b.Tokens, sum.Labels+b.Labels
							if l.Position() != one.Position() {
								t.Fatalf("at %s, want %s", l.Position(), one.Position())
							}
						}
						if err != nil {
							return
						}
						for name, x := range want.Arrays {
							if !slices.Equal(got[name], x.Data) {
								t.Fatalf("%s differs", name)
							}
						}
						if sum.Rows != want.Rows || sum.Tokens != want.Tokens || sum.Labels != want.Labels {
							t.Fatalf("counts %+v, want %+v", sum, want)
						}
					}
				})
			}
		}
	}
}

// The batch may change on resuming: no example is left out or comes twice.
func TestResumeWithAnotherBatch(t *testing.T) {
	e := causalOf(t, count(t, 100, 10), 3)
	l := load(t, e, LoaderOptions{Batch: 8, Shuffle: true})
	got := slices.Clone(values(next(t, l), InputIDs))
	p := l.Position()
	l = load(t, e, LoaderOptions{Batch: 5, Shuffle: true})
	if err := l.Seek(p); err != nil {
		t.Fatal(err)
	}
	for l.Epoch() < 1 {
		got = append(got, values(next(t, l), InputIDs)...)
	}
	slices.Sort(got[:99])
	for i, token := range got[:99] {
		if token != int64(i) {
			t.Fatalf("token %d is %d", i, token)
		}
	}
}

func TestSeekRefuses(t *testing.T) {
	o := LoaderOptions{Batch: 1, Shuffle: true}
	here := load(t, causalOf(t, count(t, 100, 10), 4), o)
	for name, p := range map[string]Position{
		"longer corpus":    load(t, causalOf(t, count(t, 110, 10), 4), o).Position(),
		"other documents":  load(t, causalOf(t, count(t, 100, 20), 4), o).Position(),
		"other length":     load(t, causalOf(t, count(t, 100, 10), 5), o).Position(),
		"other tokens":     load(t, causalOf(t, open(t, writeNPY(t, tensor.New(onnx.Uint8, 10, 10)), Options{}), 4), o).Position(),
		"other seed":       load(t, here.examples, LoaderOptions{Batch: 1, Shuffle: true, Seed: 1}).Position(),
		"not shuffled":     load(t, here.examples, LoaderOptions{Batch: 1}).Position(),
		"nothing":          {},
		"negative":         {-1, here.Position().Data},
		"largest":          {math.MaxInt, here.Position().Data},
		"of held-out data": load(t, everything(t)["part"], o).Position(),
	} {
		if err := here.Seek(p); err == nil {
			t.Errorf("%s: %s was accepted", name, p)
		}
	}
	if err := here.Seek(Position{math.MaxInt / 2, here.Position().Data}); err != nil {
		t.Fatal(err)
	}
	next(t, here)
}

// After an error the position is as before.
func TestErrorKeepsThePosition(t *testing.T) {
	tokens := make([]int32, 150_000)
	tokens[123_456] = -1 // between the samples of the checksum
	e := causalOf(t, open(t, writeNPY(t, tensor.FromSlice(tokens)), Options{}), 50_000)
	l := load(t, e, LoaderOptions{Batch: 1})
	for range 2 {
		next(t, l)
	}
	want := l.Position()
	if b, err := l.Next(); err == nil || b != nil {
		t.Fatal("a negative token was loaded")
	}
	if got := l.Position(); got != want {
		t.Errorf("at %s, want %s", got, want)
	}
}

func TestNewLoaderRefuses(t *testing.T) {
	e := causalOf(t, count(t, 100, 10), 4)
	floats := writeNPY(t, tensor.FromSlice([]float32{1, 2, 3}))
	pairs, err := OpenPairs(floats, floats)
	if err != nil {
		t.Fatal(err)
	}
	defer pairs.Close()
	for _, c := range []struct {
		examples Examples
		options  LoaderOptions
		reason   string
	}{
		{e, LoaderOptions{}, "batch of 0 rows"},
		{e, LoaderOptions{Batch: 4, Workers: 5}, "a row for each"},
		{e, LoaderOptions{Batch: 4, Workers: -1}, "a row for each"},
		{e, LoaderOptions{Batch: 4, Workers: 2, Rank: 2}, "worker 2 of 2"},
		{e, LoaderOptions{Batch: 4, Rank: -1}, "worker -1 of 1"},
		{e, LoaderOptions{Batch: math.MaxInt}, "MiB fit"},
		{pairs, LoaderOptions{Batch: 2, Once: true}, "divides 3"},
	} {
		if _, err := NewLoader(c.examples, c.options); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%+v: got error %v, want one with %q", c.options, err, c.reason)
		}
	}
	for _, length := range []int{-1, 0, math.MaxInt} {
		if _, err := Causal(count(t, 10, 10), length); err == nil {
			t.Errorf("length %d was accepted", length)
		}
	}
	if _, err := Causal(open(t, "testdata/negative", Options{}), 4); err == nil || !strings.Contains(err.Error(), "is -4") {
		t.Errorf("a negative token: error %v", err)
	}
	if _, err := Causal(count(t, 1, 1), 4); err == nil || !strings.Contains(err.Error(), "at least 2") {
		t.Errorf("one token: error %v", err)
	}
}

// An order is a permutation whatever its length.
func TestOrderIsAPermutation(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 15, 16, 17, 1000} {
		for epoch := range uint64(3) {
			seen := make([]bool, n)
			o := newOrder(n, 7, epoch)
			for i := range n {
				if at := o.at(i); at < 0 || at >= n || seen[at] {
					t.Fatalf("%d elements: place %d has %d", n, i, at)
				} else {
					seen[at] = true
				}
			}
		}
	}
	if o := newOrder(math.MaxInt, 1, 2); o.at(math.MaxInt-1) < 0 {
		t.Error("the largest order has a negative element")
	}
}

// Over many seeds and epochs every permutation of a few elements is about as
// frequent, and every element at every place of more: χ² is below what a
// random order exceeds once in 10,000 times.
func TestOrderIsUniform(t *testing.T) {
	const draws = 24000
	chi := func(counts map[string]int, cells int) float64 {
		sum, want := 0.0, float64(draws)/float64(cells)
		for _, c := range counts {
			sum += (float64(c) - want) * (float64(c) - want) / want
		}
		return sum + float64(cells-len(counts))*want
	}
	for _, c := range []struct {
		n, cells int
		limit    float64
	}{{2, 2, 15.2}, {3, 6, 25.8}, {4, 24, 58.0}} {
		counts := map[string]int{}
		for i := range draws {
			o := newOrder(c.n, uint64(i/2), uint64(i%2))
			var name strings.Builder
			for place := range c.n {
				fmt.Fprint(&name, o.at(place))
			}
			counts[name.String()]++
		}
		if got := chi(counts, c.cells); got > c.limit {
			t.Errorf("permutations of %d elements: χ² = %.1f: %v", c.n, got, counts)
		}
	}
	for place := range 30 {
		counts := map[string]int{}
		for i := range draws {
			counts[fmt.Sprint(newOrder(30, uint64(i), 0).at(place))]++
		}
		if got := chi(counts, 30); got > 68 {
			t.Errorf("place %d of 30: χ² = %.1f", place, got)
		}
	}
}
