package tokenizer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The files in testdata were made by Hugging Face's tokenizers library; see
// testdata/make.py.
func TestBPEEqualsHuggingFace(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Tokenizer, Text, Decoded string
		Tokens                   []int
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	loaded := map[string]*BPE{}
	for _, c := range cases {
		t.Run(c.Tokenizer+"/"+c.Text, func(t *testing.T) {
			tokenizer := loaded[c.Tokenizer]
			if tokenizer == nil {
				if tokenizer, err = ReadFile(filepath.Join("testdata", c.Tokenizer+".json")); err != nil {
					t.Fatal(err)
				}
				loaded[c.Tokenizer] = tokenizer
			}
			if got := tokenizer.Encode(c.Text); !slices.Equal(got, c.Tokens) {
				t.Errorf("Encode(%q)\n got %v\nwant %v", c.Text, got, c.Tokens)
			}
			if got := tokenizer.Decode(c.Tokens); got != c.Decoded {
				t.Errorf("Decode(%v) = %q, want %q", c.Tokens, got, c.Decoded)
			}
		})
	}
}

// A text comes back whole whatever bytes it has.
func TestByteLevelKeepsEveryByte(t *testing.T) {
	gpt2, err := ReadFile(filepath.Join("testdata", "gpt2.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tokenizer := range []Tokenizer{Bytes{}, gpt2} {
		for b := range 256 {
			text := "a" + string([]byte{byte(b)}) + "é"
			if got := tokenizer.Decode(tokenizer.Encode(text)); got != text {
				t.Errorf("%T: %q came back as %q", tokenizer, text, got)
			}
		}
	}
}

func TestTokensOfSpellings(t *testing.T) {
	gpt2, err := ReadFile(filepath.Join("testdata", "gpt2.json"))
	if err != nil {
		t.Fatal(err)
	}
	end, ok := gpt2.Token("<|end|>")
	if !ok || !slices.Equal(gpt2.Encode("<|end|>"), []int{end}) {
		t.Errorf("<|end|> is %d, %t", end, ok)
	}
	if a, ok := gpt2.Token("a"); !ok || gpt2.Decode([]int{a}) != "a" {
		t.Errorf("a is %d, %t", a, ok)
	}
	if _, ok := gpt2.Token("no token"); ok {
		t.Error("another spelling has a token")
	}
	if last := gpt2.Size() - 1; gpt2.spelling[last] == "" && gpt2.added.byID[last].Content == "" || gpt2.spelling[last+1] != "" {
		t.Errorf("the last token is not %d", last)
	}
}

func TestDecodeIgnoresUnknownNumbers(t *testing.T) {
	gpt2, err := ReadFile(filepath.Join("testdata", "gpt2.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tokenizer := range []Tokenizer{Bytes{}, gpt2} {
		if got := tokenizer.Decode([]int{-1, 1 << 30}); got != "" {
			t.Errorf("%T: got %q, want nothing", tokenizer, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"not JSON", `{`, "unexpected end"},
		{"another model", `{"model": {"type": "Unigram", "vocab": [["a", 0]]}}`, "Unigram; only BPE"},
		{"no vocabulary", `{"model": {"type": "BPE"}}`, "no vocabulary"},
		{"merge of unknown tokens", `{"model": {"vocab": {"a": 0}, "merges": ["a b"]}}`, `"a" "b"`},
		{"merge of three", `{"model": {"vocab": {"a": 0}, "merges": ["a b c"]}}`, "not a pair"},
		{"negative number", `{"model": {"vocab": {"a": -1}}}`, `"a" has the number -1`},
		{"unknown token missing", `{"model": {"vocab": {"a": 0}, "unk_token": "<unk>"}}`, "<unk>"},
		{"normalizer", `{"model": {"vocab": {}}, "normalizer": {"type": "Precompiled"}}`, "normalizer Precompiled"},
		{"pre-tokenizer in a sequence", `{"model": {"vocab": {}}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"}]}}`, "BertPreTokenizer"},
		{"pattern with look-behind", `{"model": {"vocab": {}}, "pre_tokenizer": {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "(?<=a)b"}}}`, "(?<=a)b"},
		{"pattern with a class in a class", `{"model": {"vocab": {}}, "pre_tokenizer": {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "[a[b]]"}}}`, "classes within classes"},
		{"post-processor", `{"model": {"vocab": {}}, "post_processor": {"type": "BertProcessing"}}`, "BertProcessing"},
		{"decoder", `{"model": {"vocab": {}}, "decoder": {"type": "WordPiece"}}`, "WordPiece"},
		{"single_word", `{"model": {"vocab": {}}, "added_tokens": [{"id": 1, "content": "x", "single_word": true}]}`, "single_word"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Parse([]byte(test.file)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestSplitBehaviors(t *testing.T) {
	for behavior, want := range map[string][]string{
		"Isolated":           {"a", "-", "-", "b", "-"},
		"Removed":            {"a", "b"},
		"MergedWithPrevious": {"a-", "-", "b-"},
		"MergedWithNext":     {"a", "-", "-b", "-"},
		"Contiguous":         {"a", "--", "b", "-"},
	} {
		split, err := newSplitter(&component{Type: "Split", Behavior: behavior, Pattern: &patternSpec{String: new("-")}})
		if err != nil {
			t.Fatal(err)
		}
		if got := split([]string{"a--b-"}, true); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", behavior, got, want)
		}
	}
}

func TestBesideAndEndTokens(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model.onnx")
	if _, err := Beside(model); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a tokenizer.json: got %v, want fs.ErrNotExist", err)
	}
	steps := []struct {
		file, content string
		want          []int
	}{
		{"nothing.json", `{}`, nil},
		{"config.json", `{"eos_token_id": 3}`, []int{3}},
		{"generation_config.json", `{"eos_token_id": null}`, []int{3}},
		{"generation_config.json", `{"eos_token_id": [4, 5]}`, []int{4, 5}},
	}
	for _, step := range steps {
		if err := os.WriteFile(filepath.Join(dir, step.file), []byte(step.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := EndTokens(model); err != nil || !slices.Equal(got, step.want) {
			t.Errorf("%s %s: got %v, %v, want %v", step.file, step.content, got, err, step.want)
		}
	}
}
