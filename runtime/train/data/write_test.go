package data

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// What is written is read as the text is.
func TestWriteMegatron(t *testing.T) {
	bpe := gpt2(t)
	end, _ := bpe.Token("<|end|>")
	lines := write(t, "a.jsonl", `{"text": "The Rays of Light"}
{"text": ""}
{"text": "which differ in Colour"}`)
	for _, c := range []struct {
		name, path string
		options    Options
		elements   onnx.DataType
	}{
		{"bytes", lines, Options{}, onnx.Uint8},
		{"bytes with an end", lines, Options{EndOfDocument: token(256)}, onnx.Uint16},
		{"tokenised", lines, Options{Tokenizer: bpe, EndOfDocument: &end}, onnx.Uint16},
		{"many tokens", lines, Options{EndOfDocument: token(70000)}, onnx.Int32},
		{"text", write(t, "a.txt", "plain\n"), Options{}, onnx.Uint8},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "corpus")
			w, err := WriteMegatron(name, c.path, c.options)
			if err != nil {
				t.Fatal(err)
			}
			want, got := open(t, c.path, c.options), open(t, name, Options{})
			requireDocuments(t, got, documents(t, want))
			if w.Documents != want.Documents() || w.Tokens != Tokens(want) || !slices.Equal(w.Files, []string{name + ".bin", name + ".idx"}) {
				t.Errorf("wrote %+v", w)
			}
			if got := got.(*corpus).elements; got != c.elements {
				t.Errorf("elements are %s, want %s", got, c.elements)
			}
		})
	}
}

// Megatron-LM's own code wrote the same files: see testdata/make.py.
func TestWriteMegatronEqualsReference(t *testing.T) {
	lines := write(t, "a.jsonl", "{\"text\": \"The Rays\"}\n{\"text\": \"of\"}\n{\"text\": \"Light\"}\n")
	w, err := WriteMegatron(filepath.Join(t.TempDir(), "corpus.idx"), lines, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, reference := range []string{"testdata/bytes.bin", "testdata/bytes.idx"} {
		want, err := os.ReadFile(reference)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(w.Files[i]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got % x, want % x; error %v", reference, got, want, err)
		}
	}
}

func TestWriteMegatronRefuses(t *testing.T) {
	text := write(t, "a.txt", "text")
	for _, c := range []struct {
		name, path string
		options    Options
		existing   string
		reason     string
	}{
		{".bin exists", text, Options{}, "corpus.bin", "corpus.bin exists"},
		{".idx exists", text, Options{}, "corpus.idx", "corpus.idx exists"},
		{"tokens", "testdata/int8.idx", Options{}, "", "has tokens already"},
		{"unknown", write(t, "a.csv", ""), Options{}, "", "extension"},
		{"no file", text + ".none.txt", Options{}, "", "no such file"},
		{"no text", write(t, "a.txt", ""), Options{}, "", "has no text"},
		{"damaged text", write(t, "a.jsonl", "{\"text\": \"a\"}\n["), Options{}, "", "a.jsonl: line 2"},
		{"options", text, Options{Vocabulary: -1}, "", "vocabulary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.existing != "" {
				if err := os.WriteFile(filepath.Join(dir, c.existing), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := WriteMegatron(filepath.Join(dir, "corpus"), c.path, c.options); err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got error %v, want one with %q", err, c.reason)
			}
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if f.Name() != c.existing {
					t.Errorf("%s was left", f.Name())
				}
			}
		})
	}
	if _, err := WriteMegatron(filepath.Join(t.TempDir(), "none", "corpus"), text, Options{}); err == nil || !strings.Contains(err.Error(), filepath.Join("none", "corpus.bin")) {
		t.Errorf("no directory: error %v", err)
	}
}
