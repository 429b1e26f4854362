package data

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Whatever an .idx file says, it is refused, or every document can be read.
func FuzzMegatron(f *testing.F) {
	names, err := filepath.Glob("testdata/*.idx")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		idx, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		bin, err := os.ReadFile(megatronName(name) + ".bin")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(idx, bin)
	}
	f.Fuzz(func(t *testing.T, idx, bin []byte) {
		x, err := parseIndex(idx, len(bin))
		if err != nil {
			return
		}
		s := &corpus{elements: x.elements, data: bin, documents: len(x.documents)/8 - 1, start: x.start, limit: newLimit(0)}
		n := 0
		for i := range s.Documents() {
			tokens, _ := Document(s, i, nil) // tokens may be negative
			n += len(tokens)
		}
		if n != Tokens(s) || n*x.elements.Bits()/8 != len(bin) {
			t.Errorf("%d tokens in documents, %d in all, %d bytes", n, Tokens(s), len(bin))
		}
	})
}

// Whatever text and JSON lines hold, they are refused, or all batches load.
func FuzzText(f *testing.F) {
	f.Add([]byte("{\"text\": \"abc\", \"label\": 1}\n{\"text\": \"\\u00e9\", \"label\": 0}\n"))
	f.Add([]byte("\ufeff{\"text\": null}\r\n"))
	f.Add([]byte("{\"label\": \"x\", \"text\": \"y\"}"))
	f.Add([]byte("plain \xff text"))
	f.Fuzz(func(t *testing.T, file []byte) {
		dir := t.TempDir()
		for _, name := range []string{"a.txt", "a.jsonl"} {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			if s, err := Open(path, Options{EndOfDocument: token(256)}); err == nil {
				if e, err := Causal(s, 4); err == nil {
					loadAll(t, e)
				}
				s.Close()
			}
			if c, err := OpenClassification(path, ClassificationOptions{Length: 4}); err == nil {
				loadAll(t, c)
			}
		}
	})
}

func loadAll(t *testing.T, e Examples) {
	l := load(t, e, LoaderOptions{Batch: 3, Shuffle: true, Once: true})
	for range l.Batches() {
		next(t, l)
	}
	if _, err := l.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last batch: error %v", err)
	}
}
