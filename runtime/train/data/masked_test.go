package data

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Of the tokens about as many are hidden, replaced and kept as should be, and
// what is not hidden is as it was.
func TestMasked(t *testing.T) {
	const n, vocabulary, mask = 100_000, 50_000, 40_000
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(i % 30_000)
	}
	s := open(t, writeNPY(t, tensor.FromSlice(tokens)), Options{})
	e, err := Masked(s, MaskedOptions{Length: 100, Vocabulary: vocabulary, Mask: mask, Pad: 1, Before: []int{40_001}, After: []int{40_002}})
	if err != nil {
		t.Fatal(err)
	}
	l := load(t, e, LoaderOptions{Batch: e.Len(), Seed: 9})
	b := next(t, l)
	ids, labels, attention := values(b, InputIDs), values(b, Labels), values(b, AttentionMask)
	at, hidden, masked, kept := 0, 0, 0, 0
	var other []int64
	for i, id := range ids {
		inRow := i % 100
		switch {
		case attention[i] == 0:
			if id != 1 || labels[i] != Ignore {
				t.Fatalf("padding %d, label %d", id, labels[i])
			}
			continue
		case inRow == 0 || id == 40_002 && labels[i] == Ignore:
			if labels[i] != Ignore || inRow == 0 && id != 40_001 {
				t.Fatalf("token %d around a text has label %d", id, labels[i])
			}
			continue
		}
		truth := int64(tokens[at])
		at++
		switch {
		case labels[i] == Ignore:
			if id != truth {
				t.Fatalf("token %d was %d", id, truth)
			}
			continue
		case labels[i] != truth:
			t.Fatalf("label %d of token %d", labels[i], truth)
		case id == mask:
			masked++
		case id == truth:
			kept++
		default:
			other = append(other, id)
		}
		hidden++
	}
	if at != n || hidden != b.Labels || b.Tokens != n+2*e.Len() {
		t.Errorf("%d tokens of text, %d labels; the batch says %d tokens, %d labels", at, hidden, b.Tokens, b.Labels)
	}
	about := func(what string, got, of int, share float64) {
		if off := math.Abs(float64(got) - share*float64(of)); off > 4*math.Sqrt(float64(of)*share*(1-share)) {
			t.Errorf("%s: %d of %d, want a share of %g", what, got, of, share)
		}
	}
	about("hidden", hidden, n, 0.15)
	about("masked", masked, hidden, 0.8)
	about("kept", kept, hidden, 0.1)
	about("replaced", len(other), hidden, 0.1)
	below := 0
	for _, id := range other {
		if id < vocabulary/2 {
			below++
		}
	}
	about("replaced by the lower half", below, len(other), 0.5)

	if again := next(t, l); reflect.DeepEqual(again.Arrays[Labels], b.Arrays[Labels]) {
		t.Error("the second epoch hides the same tokens")
	}
}

// Special tokens are never hidden, and a sequence with others has a label.
func TestMaskedHidesText(t *testing.T) {
	s := open(t, writeNPY(t, tensor.FromSlice([]uint8{5, 5, 9, 5, 9, 9, 5, 5})), Options{})
	e, err := Masked(s, MaskedOptions{Length: 2, Vocabulary: 20, Mask: 10, Special: []int{9}, Share: 1e-9})
	if err != nil {
		t.Fatal(err)
	}
	l := load(t, e, LoaderOptions{Batch: 4})
	for range 20 {
		labels := values(next(t, l), Labels)
		var rows []int
		for row := range slices.Chunk(labels, 2) {
			n := 0
			for _, label := range row {
				if label == 5 {
					n++
				} else if label != Ignore {
					t.Fatalf("label %d", label)
				}
			}
			rows = append(rows, n)
		}
		if !slices.Equal(rows, []int{1, 1, 0, 1}) {
			t.Fatalf("rows have %d labels", rows)
		}
	}
}

func TestMaskedRefuses(t *testing.T) {
	good := MaskedOptions{Length: 8, Vocabulary: 100, Mask: 99}
	for _, c := range []struct {
		reason string
		change func(o *MaskedOptions)
	}{
		{"share of 2", func(o *MaskedOptions) { o.Share = 2 }},
		{"share of NaN", func(o *MaskedOptions) { o.Share = math.NaN() }},
		{"vocabulary of 0", func(o *MaskedOptions) { o.Vocabulary = 0 }},
		{"special token 100", func(o *MaskedOptions) { o.Mask = 100 }},
		{"special token -1", func(o *MaskedOptions) { o.Before = []int{-1} }},
		{"needs more", func(o *MaskedOptions) { o.Length, o.After = 2, []int{1, 2} }},
		{"needs 1 …", func(o *MaskedOptions) { o.Length = 0 }},
	} {
		o := good
		c.change(&o)
		if _, err := Masked(count(t, 10, 10), o); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("got error %v, want one with %q", err, c.reason)
		}
	}
	if _, err := Masked(open(t, write(t, "a.txt", ""), Options{}), good); err == nil {
		t.Error("no tokens were accepted")
	}
}
