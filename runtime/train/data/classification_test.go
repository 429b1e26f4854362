package data

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestClassification(t *testing.T) {
	path := write(t, "a.jsonl", `{"sentence": "abc", "class": "pos"}
{"sentence": "defgh", "class": "neg"}
{"sentence": "", "class": "pos"}
`)
	o := ClassificationOptions{Options: Options{TextKey: "sentence"}, LabelKey: "class", Length: 4, Pad: 32}
	c, err := OpenClassification(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Classes, []string{"neg", "pos"}) {
		t.Errorf("classes %q", c.Classes)
	}
	b := next(t, load(t, c, LoaderOptions{Batch: 4, Once: true}))
	for name, want := range map[string][]int64{
		InputIDs:      {'a', 'b', 'c', ' ', 'd', 'e', 'f', 'g', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '},
		AttentionMask: {1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		PositionIDs:   {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3},
		TokenTypeIDs:  make([]int64, 16),
		Labels:        {1, 0, 1, Ignore},
	} {
		if got := values(b, name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if b.Rows != 3 || b.Tokens != 7 || b.Labels != 3 {
		t.Errorf("%d rows, %d tokens, %d labels", b.Rows, b.Tokens, b.Labels)
	}

	o.Classes = []string{"pos", "other", "neg"}
	if c, err = OpenClassification(path, o); err != nil {
		t.Fatal(err)
	}
	b = next(t, load(t, c, LoaderOptions{Batch: 3}))
	if got := values(b, Labels); !slices.Equal(got, []int64{0, 2, 0}) {
		t.Errorf("with given classes: %v", got)
	}

	c, err = OpenClassification(write(t, "a.jsonl", `{"text": "a", "label": 2}
{"text": "b", "label": 0}`), ClassificationOptions{Length: 1})
	if err != nil {
		t.Fatal(err)
	}
	b = next(t, load(t, c, LoaderOptions{Batch: 2}))
	if got := values(b, Labels); c.Classes != nil || !slices.Equal(got, []int64{2, 0}) {
		t.Errorf("numbers: %v of %q", got, c.Classes)
	}
}

func TestClassificationRefuses(t *testing.T) {
	for _, c := range []struct {
		name, lines string
		options     ClassificationOptions
		reason      string
	}{
		{"no label", `{"text": "a", "class": 1}`, ClassificationOptions{Length: 1}, "line 1: has no \"label\"; choose the key of the label among: class, text"},
		{"both kinds", "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\", \"label\": \"x\"}", ClassificationOptions{Length: 1}, "line 2: label \"x\"; needs"},
		{"both kinds, name first", "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"a\", \"label\": 1}", ClassificationOptions{Length: 1}, "line 2: label 1; needs"},
		{"negative", `{"text": "a", "label": -1}`, ClassificationOptions{Length: 1}, "label -1; needs"},
		{"fraction", `{"text": "a", "label": 0.5}`, ClassificationOptions{Length: 1}, "label 0.5; needs"},
		{"null", `{"text": "a", "label": null}`, ClassificationOptions{Length: 1}, "label null; needs"},
		{"unknown", `{"text": "a", "label": "z"}`, ClassificationOptions{Length: 1, Classes: []string{"x"}}, "\"z\" is none of the classes"},
		{"number for names", `{"text": "a", "label": 0}`, ClassificationOptions{Length: 1, Classes: []string{"x"}}, "label 0; needs"},
		{"nothing", "\n", ClassificationOptions{Length: 1}, "has no texts"},
		{"no length", `{"text": "a", "label": 1}`, ClassificationOptions{}, "needs 1 …"},
		{"padding", `{"text": "a", "label": 1}`, ClassificationOptions{Length: 1, Pad: -1}, "padding token -1"},
	} {
		path := write(t, "a.jsonl", c.lines)
		if _, err := OpenClassification(path, c.options); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.reason)
		}
	}
	for path, reason := range map[string]string{
		write(t, "a.txt", "x"):                   "JSON lines, named .jsonl",
		write(t, "a.csv", "x"):                   "extension",
		filepath.Join(t.TempDir(), "none.jsonl"): "no such file",
	} {
		if _, err := OpenClassification(path, ClassificationOptions{Length: 1}); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: got error %v, want one with %q", path, err, reason)
		}
	}
}

func TestPairs(t *testing.T) {
	features := writeNPY(t, tensor.FromSlice([]float32{0, 1, 2, 3, 4, 5}, 3, 2))
	for _, c := range []struct {
		name   string
		labels *tensor.Tensor
		once   bool
		want   *tensor.Tensor
		counts int
	}{
		{"classes", tensor.FromSlice([]uint8{7, 0, 255}), true, tensor.FromSlice([]int64{7, 0, 255, Ignore}), 3},
		{"tokens", tensor.FromSlice([]int16{1, -100, 2, 3, -100, -100}, 3, 2), true, tensor.FromSlice([]int64{1, Ignore, 2, 3, Ignore, Ignore, Ignore, Ignore}, 4, 2), 3},
		{"numbers", tensor.FromSlice([]float64{1, 2, 3}, 3, 1), false, tensor.FromSlice([]float64{1, 2, 3, 1}, 4, 1), 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := OpenPairs(features, writeNPY(t, c.labels))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			b := next(t, load(t, p, LoaderOptions{Batch: 4, Once: c.once}))
			last := []float32{0, 0}
			if !c.once {
				last = []float32{0, 1}
			}
			if x := b.Arrays[Features]; !slices.Equal(x.Shape, []int{4, 2}) || !slices.Equal(tensor.Of[float32](x)[4:], append([]float32{4, 5}, last...)) {
				t.Errorf("features %s: %v", x, tensor.Of[float32](x))
			}
			if y := b.Arrays[Labels]; y.Type != c.want.Type || !slices.Equal(y.Shape, c.want.Shape) || !slices.Equal(y.Data, c.want.Data) {
				t.Errorf("labels %s: % x", y, y.Data)
			}
			if b.Labels != c.counts {
				t.Errorf("%d labels, want %d", b.Labels, c.counts)
			}
		})
	}
	for reason, labels := range map[string]*tensor.Tensor{
		"one row for each example": tensor.FromSlice([]int64{1, 2}),
		"integers or floats":       tensor.FromSlice([]bool{true, false, true}),
		"is float32[]":             tensor.Scalar[float32](1),
	} {
		if _, err := OpenPairs(features, writeNPY(t, labels)); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("got error %v, want one with %q", err, reason)
		}
	}
	if _, err := OpenPairs(features, features+".none"); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestHoldOut(t *testing.T) {
	e := causalOf(t, count(t, 101, 1), 1)
	training, held, err := HoldOut(e, 0.25)
	if err != nil {
		t.Fatal(err)
	}
	var all []int64
	for _, c := range []struct {
		examples Examples
		n        int
	}{{training, 75}, {held, 25}} {
		got := values(next(t, load(t, c.examples, LoaderOptions{Batch: c.n, Shuffle: true, Once: true})), InputIDs)
		if c.examples.Len() != c.n || slices.IsSorted(got) {
			t.Errorf("%d examples, want %d: %v", c.examples.Len(), c.n, got)
		}
		all = append(all, got...)
	}
	slices.Sort(all)
	for i, token := range all {
		if token != int64(i) {
			t.Fatalf("token %d is %d", i, token)
		}
	}
	for _, share := range []float64{0, 1, 0.001} {
		if _, _, err := HoldOut(e, share); err == nil {
			t.Errorf("a share of %g was held out", share)
		}
	}
}
