package data

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/language/tokenizer"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeNPY(t testing.TB, x *tensor.Tensor) string {
	t.Helper()
	var b strings.Builder
	if err := tensor.WriteNPY(&b, x); err != nil {
		t.Fatal(err)
	}
	return write(t, "array.npy", b.String())
}

func open(t testing.TB, path string, o Options) Source {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func documents(t testing.TB, s Source) [][]int32 {
	t.Helper()
	list := [][]int32{}
	for i := range s.Documents() {
		tokens, err := Document(s, i, []int32{})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, tokens)
	}
	return list
}

func requireDocuments(t *testing.T, s Source, want [][]int32) {
	t.Helper()
	if got := documents(t, s); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
	all := slices.Concat(want...)
	if Tokens(s) != len(all) {
		t.Fatalf("%d tokens, want %d", Tokens(s), len(all))
	}
	for from := range len(all) + 1 {
		for to := from; to <= len(all); to++ {
			got := make([]int32, to-from)
			if err := s.Read(got, from); err != nil || !slices.Equal(got, all[from:to]) {
				t.Fatalf("tokens %d … %d are %v, want %v; error %v", from, to, got, all[from:to], err)
			}
		}
	}
	for _, at := range []int{-1, len(all)} {
		if err := s.Read(make([]int32, 1), at); err == nil {
			t.Errorf("token %d of %d was read", at, len(all))
		}
	}
}

func token(n int) *int { return &n }

func gpt2(t testing.TB) *tokenizer.BPE {
	t.Helper()
	b, err := tokenizer.ReadFile("../../language/tokenizer/testdata/gpt2.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The datasets in testdata were written, and read, by Megatron-LM's own code:
// see testdata/make.py.
func TestMegatron(t *testing.T) {
	file, err := os.ReadFile("testdata/documents.json")
	if err != nil {
		t.Fatal(err)
	}
	var datasets map[string][][]int32
	if err := json.Unmarshal(file, &datasets); err != nil {
		t.Fatal(err)
	}
	for name, want := range datasets {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{name, name + ".bin", name + ".idx"} {
				requireDocuments(t, open(t, filepath.Join("testdata", path), Options{}), want)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	bpe := gpt2(t)
	end, _ := bpe.Token("<|end|>")
	encoded := func(text string, more ...int) []int32 { return tokensOf(append(bpe.Encode(text), more...)) }
	const lines = "\ufeff{\"text\": \"ab\", \"id\": 1}\r\n\n{\"text\": \"\"}\n{\"id\": 2, \"text\": \"\\u00e9\"}"
	for _, c := range []struct {
		name, path string
		options    Options
		want       [][]int32
	}{
		{"text as bytes", write(t, "a.txt", "ab\n"), Options{}, [][]int32{{'a', 'b', '\n'}}},
		{"text as bytes with an end", write(t, "a.TXT", "ab"), Options{EndOfDocument: token(0)}, [][]int32{{'a', 'b', 0}}},
		{"text, tokenised", write(t, "a.md", "Rays of Light"), Options{Tokenizer: bpe}, [][]int32{encoded("Rays of Light")}},
		{"text that ends with its end", write(t, "a.text", "Rays<|end|>"), Options{Tokenizer: bpe, EndOfDocument: &end}, [][]int32{encoded("Rays", end)}},
		{"no text", write(t, "a.txt", ""), Options{}, [][]int32{}},
		{"lines as bytes", write(t, "a.jsonl", lines), Options{}, [][]int32{{'a', 'b'}, {0xc3, 0xa9}}},
		{"lines as bytes with an end", write(t, "a.jsonl", lines), Options{EndOfDocument: token(256)}, [][]int32{{'a', 'b', 256}, {0xc3, 0xa9, 256}}},
		{"lines, another key", write(t, "a.ndjson", `{"content": "a"}`), Options{TextKey: "content"}, [][]int32{{'a'}}},
		{"lines, tokenised", write(t, "a.jsonl", lines), Options{Tokenizer: bpe, EndOfDocument: &end}, [][]int32{encoded("ab", end), encoded("é", end)}},
		{"vector", writeNPY(t, tensor.FromSlice([]uint16{1, 65535, 3})), Options{}, [][]int32{{1, 65535, 3}}},
		{"vector with an end", writeNPY(t, tensor.FromSlice([]uint32{1, 2})), Options{EndOfDocument: token(7)}, [][]int32{{1, 2, 7}}},
		{"matrix", writeNPY(t, tensor.FromSlice([]int64{1, 2, 3, 4, 5, 6}, 3, 2)), Options{}, [][]int32{{1, 2}, {3, 4}, {5, 6}}},
		{"matrix with ends", writeNPY(t, tensor.FromSlice([]uint64{1, 2, 3, 4}, 2, 2)), Options{EndOfDocument: token(0)}, [][]int32{{1, 2, 0}, {3, 4, 0}}},
		{"matrix that has ends", writeNPY(t, tensor.FromSlice([]int8{1, 0, 3, 0}, 2, 2)), Options{EndOfDocument: token(0)}, [][]int32{{1, 0}, {3, 0}}},
		{"empty matrix", writeNPY(t, tensor.FromSlice([]int64{}, 0, 2)), Options{EndOfDocument: token(0)}, [][]int32{}},
		{"Megatron with ends", "testdata/int8", Options{EndOfDocument: token(9)}, [][]int32{{1, 2, 3, 9}, {4, 5, 6, 9}, {9}, {7, 0, 9}}},
	} {
		t.Run(c.name, func(t *testing.T) { requireDocuments(t, open(t, c.path, c.options), c.want) })
	}
}

func TestOpenRefuses(t *testing.T) {
	bpe := gpt2(t)
	damaged := func(name string, change func(idx []byte) []byte) string {
		idx, err := os.ReadFile("testdata/uint16.idx")
		if err != nil {
			t.Fatal(err)
		}
		bin, err := os.ReadFile("testdata/uint16.bin")
		if err != nil {
			t.Fatal(err)
		}
		path := write(t, name+".idx", string(change(idx)))
		if err := os.WriteFile(megatronName(path)+".bin", bin, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	set := func(at int, value byte) func([]byte) []byte {
		return func(idx []byte) []byte { idx[at] = value; return idx }
	}
	lonely := write(t, "lonely.idx", "")
	for _, c := range []struct {
		name, path string
		options    Options
		reason     string
	}{
		{"no file", filepath.Join(t.TempDir(), "none.txt"), Options{}, "none.txt: no such file"},
		{"no file without extension", filepath.Join(t.TempDir(), "none"), Options{}, "none: no such file"},
		{"directory", filepath.Join(mkdir(t, "d.txt")), Options{}, "d.txt is not a regular file"},
		{"unknown extension", write(t, "a.dat", ""), Options{}, "a.dat: its extension does not say"},
		{"compressed", write(t, "a.jsonl.gz", ""), Options{}, "decompress it first"},
		{"JSON", write(t, "a.json", "[]"), Options{}, "name it .jsonl"},
		{"no .bin", lonely, Options{}, "two files, .bin and .idx"},
		{"no .idx", write(t, "a.bin", ""), Options{}, "a.idx: no such file"},
		{"empty index", damaged("a", func([]byte) []byte { return nil }), Options{}, "a.idx: is not the index"},
		{"older format", damaged("a", func(b []byte) []byte { return append([]byte("TNTIDX"), b...) }), Options{}, "older format"},
		{"version", damaged("a", set(9, 2)), Options{}, "version 2"},
		{"element type", damaged("a", set(17, 9)), Options{}, "type code 9"},
		{"floats", "testdata/float32.idx", Options{}, "type code 7"},
		{"cut index", damaged("a", func(b []byte) []byte { return b[:len(b)-1] }), Options{}, "ends before its 3 sequences"},
		{"huge count", damaged("a", set(25, 0x7f)), Options{}, "ends before"},
		{"huge number of documents", damaged("a", set(33, 0xff)), Options{}, "ends before"},
		{"long index", damaged("a", func(b []byte) []byte { return append(b, 0) }), Options{}, "1 bytes too many"},
		{"length", damaged("a", set(34, 4)), Options{}, "sequence 1 has"},
		{"negative length", damaged("a", set(37, 0x80)), Options{}, "sequence 0 has"},
		{"length of the last", damaged("a", set(42, 9)), Options{}, "the two do not belong together"},
		{"pointer", damaged("a", set(46, 2)), Options{}, "at byte 2"},
		{"first document", damaged("a", set(70, 1)), Options{}, "do not begin with sequence 0"},
		{"order of documents", damaged("a", set(78, 9)), Options{}, "document 1 ends before it begins"},
		{"last document", damaged("a", set(86, 2)), Options{}, "end with sequence 3"},
		{"no .npy", write(t, "a.npy", "hello"), Options{}, "a.npy: npy: is not a .npy file"},
		{"floats in .npy", writeNPY(t, tensor.FromSlice([]float32{1})), Options{}, "needs tokens"},
		{"scalar", writeNPY(t, tensor.Scalar[int32](1)), Options{}, "needs tokens"},
		{"three axes", writeNPY(t, tensor.FromSlice([]int32{1}, 1, 1, 1)), Options{}, "needs tokens"},
		{"no JSON", write(t, "a.jsonl", "{}\nx"), Options{TextKey: "t"}, "a.jsonl: line 1: has no \"t\""},
		{"no object", write(t, "a.jsonl", "\n[1]\n"), Options{}, "line 2: is no JSON object"},
		{"null", write(t, "a.jsonl", "null"), Options{}, "line 1: is no JSON object"},
		{"cut line", write(t, "a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b"), Options{}, "line 2: unexpected end"},
		{"other keys", write(t, "a.jsonl", `{"b": 1, "a": 2}`), Options{}, "among: a, b"},
		{"text is a number", write(t, "a.jsonl", `{"text": 1}`), Options{}, "is no string"},
		{"text is null", write(t, "a.jsonl", `{"text": null}`), Options{}, "is no string"},
		{"vocabulary", write(t, "a.jsonl", `{"text": "abc"}`), Options{Tokenizer: bpe, Vocabulary: 10}, "use the model's own"},
		{"negative vocabulary", lonely, Options{Vocabulary: -1}, "vocabulary"},
		{"negative end", lonely, Options{EndOfDocument: token(-2)}, "-1 for none"},
		{"end beyond the vocabulary", lonely, Options{EndOfDocument: token(10), Vocabulary: 10}, "0 … 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(c.path, c.options)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got error %v, want one with %q", err, c.reason)
			}
		})
	}
}

func mkdir(t *testing.T, name string) string {
	path := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Tokens are looked at when they are read: an error says where it is.
func TestReadRefusesTokens(t *testing.T) {
	for _, c := range []struct {
		path    string
		options Options
		reason  string
	}{
		{"testdata/negative", Options{}, "negative.bin: token 1 of document 1 is -4, needs 0 … 2147483647"},
		{"testdata/uint16", Options{Vocabulary: 50257}, "token 1 of document 0 is 65535, needs 0 … 50256"},
		{writeNPY(t, tensor.FromSlice([]int64{0, 1 << 31})), Options{}, "is 2147483648"},
		{write(t, "a.txt", "a\xff"), Options{Vocabulary: 128}, "is 255, needs 0 … 127"},
	} {
		s := open(t, c.path, c.options)
		if err := s.Read(make([]int32, Tokens(s)), 0); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: got error %v, want one with %q", c.path, err, c.reason)
		}
	}
}

func TestConcatenate(t *testing.T) {
	a := open(t, "testdata/int8", Options{})
	b := open(t, write(t, "a.txt", ""), Options{})
	c := open(t, write(t, "a.txt", "xy"), Options{EndOfDocument: token(0)})
	requireDocuments(t, Concatenate(a, b, c), slices.Concat(documents(t, a), documents(t, c)))
	requireDocuments(t, Concatenate(), [][]int32{})
	requireDocuments(t, Concatenate(c), documents(t, c))

	training, held, err := Split(Concatenate(a, c), 0.3)
	if err != nil {
		t.Fatal(err)
	}
	requireDocuments(t, training, documents(t, a))
	requireDocuments(t, held, documents(t, c))

	missing := errors.New("is missing")
	if err := Concatenate(c, failing{b, missing}).Close(); !errors.Is(err, missing) {
		t.Errorf("closing: error %v", err)
	}
}

type failing struct {
	Source
	err error
}

func (f failing) Close() error { return f.err }

func TestEndOfDocument(t *testing.T) {
	for _, c := range []struct {
		added string
		want  int
	}{
		{`{"id": 1, "content": "<|endoftext|>"}, {"id": 2, "content": "</s>"}`, 1},
		{`{"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}`, 2},
		{``, None},
	} {
		bpe, err := tokenizer.Parse([]byte(`{"model": {"vocab": {"a": 0}}, "added_tokens": [` + c.added + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := EndOfDocument(bpe); got != c.want {
			t.Errorf("%s: %d, want %d", c.added, got, c.want)
		}
		s := open(t, write(t, "a.jsonl", `{"text": "aa"}`), Options{Tokenizer: bpe})
		want := []int32{0, 0}
		if c.want != None {
			want = append(want, int32(c.want))
		}
		requireDocuments(t, s, [][]int32{want})
	}
	if got := EndOfDocument(tokenizer.Bytes{}); got != None {
		t.Errorf("bytes: %d", got)
	}
}

// A text of many blocks is tokenised by several goroutines, and its documents
// keep their order.
func TestManyDocumentsKeepTheirOrder(t *testing.T) {
	var file strings.Builder
	var want [][]int32
	for i := range 300 {
		text := strings.Repeat(string(rune('a'+i%26)), 1+i%7) + strings.Repeat(" ", i*100)
		line, _ := json.Marshal(map[string]string{"text": text})
		file.Write(append(line, '\n'))
		tokens := []int32{}
		for _, b := range []byte(text) {
			tokens = append(tokens, int32(b))
		}
		want = append(want, tokens)
	}
	got := documents(t, open(t, write(t, "a.jsonl", file.String()), Options{}))
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Error("the documents differ")
	}
}

func TestLongTextIsCut(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       int
	}{
		{"short", "a\nb", 3},
		{"at a line's end", strings.Repeat("x", 100) + "\n" + strings.Repeat("y", maxText), 101},
		{"within a line", strings.Repeat("x", maxText+1), maxText},
		{"within a character", strings.Repeat("x", maxText-1) + "é", maxText - 1},
		{"no characters", strings.Repeat("\x80", maxText+1), maxText},
	} {
		if got := cut([]byte(c.text)); got != c.want {
			t.Errorf("%s: after %d bytes, want %d", c.name, got, c.want)
		}
	}
}

func TestSplit(t *testing.T) {
	rows := func(lengths ...int) Source {
		starts := []int{0}
		for _, n := range lengths {
			starts = append(starts, starts[len(starts)-1]+n)
		}
		data := make([]byte, starts[len(lengths)])
		for i := range data {
			data[i] = byte(i)
		}
		return &corpus{elements: narrowest(1), data: data, documents: len(lengths), start: func(i int) int { return starts[i] }, limit: 256}
	}
	for _, c := range []struct {
		name       string
		source     Source
		share      float64
		want, held []int // lengths of documents
	}{
		{"one document", rows(10), 0.2, []int{8}, []int{2}},
		{"at a border", rows(5, 3, 2), 0.2, []int{5, 3}, []int{2}},
		{"near a border before", rows(75, 25), 0.2, []int{75}, []int{25}},
		{"near a border behind", rows(89, 11), 0.2, []int{89}, []int{11}},
		{"far from a border", rows(50, 50), 0.2, []int{50, 30}, []int{20}},
		{"the nearer border", rows(78, 3, 19), 0.2, []int{78, 3}, []int{19}},
		{"empty documents", rows(0, 8, 0, 0, 2, 0), 0.2, []int{8}, []int{2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			training, held, err := Split(c.source, c.share)
			if err != nil {
				t.Fatal(err)
			}
			var all []int32
			for i, s := range []Source{training, held} {
				var got []int
				for _, d := range documents(t, s) {
					got = append(got, len(d))
					all = append(all, d...)
				}
				if want := [][]int{c.want, c.held}[i]; !slices.Equal(got, want) {
					t.Errorf("part %d has documents of %d tokens, want %d", i, got, want)
				}
			}
			for i, token := range all {
				if int(token) != i {
					t.Fatalf("token %d is %d", i, token)
				}
			}
		})
	}
	for _, share := range []float64{0, 1, -1, 2, 0.01} {
		if _, _, err := Split(rows(5), share); err == nil {
			t.Errorf("a share of %g of 5 tokens was held out", share)
		}
	}
}
