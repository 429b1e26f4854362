package language

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// expected computes a toy's logits after a text without the runtime.
func (o toy) expected(tokens []int) []float64 {
	sum := make([]float64, toyVocabulary)
	add := func(t *onnx.Tensor, row int) {
		x, err := tensor.FromONNX(t)
		if err != nil {
			panic(err)
		}
		for i := range sum {
			sum[i] += float64(tensor.Of[float32](x)[row*toyVocabulary+i])
		}
	}
	for _, token := range tokens {
		add(table("table", toyVocabulary), token)
	}
	if o.positions > 0 {
		add(table("positions", o.positions), len(tokens)-1)
	}
	if o.mask {
		sum[0] += 0.1 * float64(len(tokens))
	}
	return sum
}

func greedy(o toy, tokens []int, context, count int) string {
	text := ""
	for range count {
		scores := o.expected(tokens[max(0, len(tokens)-context):])
		best := slices.Index(scores, slices.Max(scores))
		tokens = append(tokens, best)
		text += string(rune('a' + best))
	}
	return text
}

func generate(t *testing.T, m *Model, prompt string, count int, s Sampling) string {
	t.Helper()
	text := ""
	tokens, err := m.Generate(t.Context(), prompt, count, s, func(piece string) error {
		text += piece
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Tokenizer.Decode(tokens); got != text {
		t.Errorf("tokens %v say %q, the emitted text is %q", tokens, got, text)
	}
	return text
}

// Whatever inputs a model has, it generates what its logits say, beyond the
// end of its context too.
func TestGenerateGreedily(t *testing.T) {
	tests := []struct {
		name    string
		toy     toy
		context int
	}{
		{"tokens only", toy{}, 0},
		{"int32 tokens", toy{tokens: onnx.Int32}, 0},
		{"mask", toy{mask: true}, 0},
		{"positions", toy{positions: 30}, 30},
		{"cache", toy{cached: true}, 0},
		{"cache, mask and positions", toy{cached: true, mask: true, positions: 30}, 30},
		{"a window that slides", toy{mask: true, positions: 7}, 7},
		{"a window that slides over a cache", toy{cached: true, mask: true, positions: 7}, 7},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := test.toy.open(t, oneThread)
			if m.Context != test.context {
				t.Errorf("context is %d, want %d", m.Context, test.context)
			}
			bound := test.context
			if bound == 0 {
				bound = 1000
			}
			want := greedy(test.toy, []int{1, 0, 2}, bound, 20)
			if got := generate(t, m, "bac", 20, Sampling{}); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// What ONNX Runtime 1.32 gives for the trained sample.
func TestTrainedModelEqualsONNXRuntime(t *testing.T) {
	dir := filepath.Join("..", "..", "models", "gpt-megatron")
	m, err := Open(filepath.Join(dir, "model.onnx"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	text, err := os.ReadFile(filepath.Join(dir, "heldout.txt"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Perplexity(t.Context(), m.Tokenizer.Encode(string(text[:2001])), 0)
	if want := 1.20174274; err != nil || math.Abs(p.LogLoss-want) > 1e-5 {
		t.Errorf("log loss %v, %v, want %v", p.LogLoss, err, want)
	}
	if got, want := generate(t, m, "The Rays of Light", 40, Sampling{}), " which passed by the Refraction of the\nP"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Real exports with caches of keys and values generate what those of the same
// model without caches do, beyond the model's context too.
func TestGenerateWithRealCaches(t *testing.T) {
	for _, family := range []string{"bloom", "gpt-neox", "gpt2", "llama", "opt"} {
		t.Run(family, func(t *testing.T) {
			var tokens [2][]int
			for i, variant := range []string{"", "-cache"} {
				path := filepath.Join("..", "..", "models", "zoo", family+"-torchscript"+variant, "model.onnx")
				m, err := Open(path, Options{Runtime: oneThread.Runtime, Tokenizer: "bytes"})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { m.Close() })
				// Their 64 tokens are not bytes, but the digits are among them.
				if tokens[i], err = m.Generate(t.Context(), "0123456789", 60, Sampling{Temperature: 5}, func(string) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(tokens[0], tokens[1]) {
				t.Errorf("without caches %v\nwith caches %v", tokens[0], tokens[1])
			}
		})
	}
}

func TestGenerateIsDecidedByItsSeed(t *testing.T) {
	m := toy{}.open(t, oneThread)
	sampling := Sampling{Temperature: 20, Seed: 1}
	first := generate(t, m, "a", 40, sampling)
	if again := generate(t, m, "a", 40, sampling); again != first {
		t.Errorf("the same seed gave %q and %q", first, again)
	}
	sampling.Seed = 2
	if other := generate(t, m, "a", 40, sampling); other == first {
		t.Errorf("two seeds gave %q", other)
	}
}

func TestGenerateStops(t *testing.T) {
	o := toy{}
	m := o.open(t, oneThread)
	full := greedy(o, []int{0}, 1000, 10)
	last := full[len(full)-1]
	m.EndTokens = []int{int(last - 'a')}
	want, _, _ := strings.Cut(full, string(last))
	if got := generate(t, m, "a", 10, Sampling{}); got != want {
		t.Errorf("at an end token: got %q, want %q", got, want)
	}
	if got := generate(t, m, "a", 0, Sampling{}); got != "" {
		t.Errorf("after no token: got %q", got)
	}

	m.EndTokens = nil
	ctx, cancel := context.WithCancel(t.Context())
	tokens, err := m.Generate(ctx, "a", 10, Sampling{}, func(string) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(tokens) != 1 {
		t.Errorf("cancelled after the first token: got %v, %v", tokens, err)
	}
	stop := errors.New("stop")
	if _, err := m.Generate(t.Context(), "a", 10, Sampling{}, func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the error of emit", err)
	}
}

func TestGenerateRefuses(t *testing.T) {
	m := toy{}.open(t, oneThread)
	tests := []struct {
		prompt   string
		sampling Sampling
		want     string
	}{
		{"", Sampling{}, "no tokens"},
		{"a", Sampling{Temperature: -1}, "temperature"},
		{"a", Sampling{Temperature: math.NaN()}, "temperature"},
		{"a", Sampling{TopK: -1}, "top-k"},
		{"a", Sampling{TopP: 1.5}, "top-p"},
	}
	for _, test := range tests {
		if _, err := m.Generate(t.Context(), test.prompt, 1, test.sampling, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q, %+v: got error %v, want one with %q", test.prompt, test.sampling, err, test.want)
		}
	}
}

func TestPerplexity(t *testing.T) {
	o := toy{cached: true, positions: 6}
	m := o.open(t, oneThread)
	tokens := []int{0, 3, 1, 4, 4, 2, 0, 1}
	for _, window := range []int{1, 2, 3, 6, 0} {
		length := window
		if window == 0 {
			length = 6 // the context
		}
		want := 0.0
		for i := 1; i < len(tokens); i++ {
			scores := o.expected(tokens[(i-1)/length*length : i])
			sum := 0.0
			for _, x := range scores {
				sum += math.Exp(x)
			}
			want -= math.Log(math.Exp(scores[tokens[i]])/sum) / float64(len(tokens)-1)
		}
		got, err := m.Perplexity(t.Context(), tokens, window)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(got.LogLoss-want) > 1e-5 || got.Tokens != len(tokens)-1 || math.Abs(got.Value()-math.Exp(want)) > 1e-4 {
			t.Errorf("window %d: got %+v, want a log loss of %v over %d tokens", window, got, want, len(tokens)-1)
		}
	}
}

// TestObserve: the outputs of each window are shown, but not the caches.
func TestObserve(t *testing.T) {
	var seen []string
	stop := errors.New("seen enough")
	o := oneThread
	o.Observe = func(outputs map[string]*tensor.Tensor) error {
		if len(outputs) != 1 {
			t.Errorf("%d outputs are shown", len(outputs))
		}
		if seen = append(seen, outputs["logits"].String()); len(seen) == 3 {
			return stop
		}
		return nil
	}
	m := toy{cached: true}.open(t, o)
	if _, err := m.Perplexity(t.Context(), []int{0, 1, 2, 3, 4, 0}, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Perplexity(t.Context(), []int{0, 1}, 3); !errors.Is(err, stop) {
		t.Errorf("got %v, want what the observer returned", err)
	}
	if want := []string{"float32[1,3,5]", "float32[1,2,5]", "float32[1,1,5]"}; !slices.Equal(seen, want) {
		t.Errorf("saw %v, want %v", seen, want)
	}
}

func TestPerplexityRefuses(t *testing.T) {
	m := toy{positions: 6}.open(t, oneThread)
	tests := []struct {
		tokens []int
		window int
		want   string
	}{
		{[]int{1}, 0, "nothing to predict"},
		{[]int{1, 2}, -1, "too short"},
		{[]int{1, 2}, 7, "context of 6"},
		{[]int{1, 5}, 0, "outside the model's vocabulary"},
	}
	for _, test := range tests {
		if _, err := m.Perplexity(t.Context(), test.tokens, test.window); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v in windows of %d: got error %v, want one with %q", test.tokens, test.window, err, test.want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name      string
		change    func(g *onnx.Graph)
		tokenizer string
		options   Options
		want      string
	}{
		{"a vocabulary without tokenizer", func(*onnx.Graph) {}, "", Options{}, "5 tokens are not bytes"},
		{"a broken tokenizer", func(*onnx.Graph) {}, "{", Options{}, "tokenizer.json"},
		{"a tokenizer that is not there", func(*onnx.Graph) {}, letters, Options{Tokenizer: "nowhere.json"}, "nowhere.json"},
		{"an input of unknown use", func(g *onnx.Graph) {
			g.Inputs = append(g.Inputs, info("pixels", onnx.Float32, "batch", 3))
		}, letters, Options{}, `"pixels"`},
		{"tokens that are floats", func(g *onnx.Graph) {
			g.Inputs[0].Type.ElemType = onnx.Float32
			cast := node("Cast", "ids", "input_ids")
			cast.Attributes = []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Int64))}
			g.Nodes[0].Inputs[1] = "ids"
			g.Nodes = append([]*onnx.Node{cast}, g.Nodes...)
		}, letters, Options{}, "needs int32 or int64"},
		{"a cache without output", func(g *onnx.Graph) {
			g.Inputs = append(g.Inputs, info("past_key_values.0.key", onnx.Float32, "batch", 1, "past", 5))
		}, letters, Options{}, `no output "present.0.key"`},
		{"logits of rank 2", func(g *onnx.Graph) {
			g.Outputs[0] = info("logits", onnx.Float32, "batch", 5)
		}, letters, Options{}, "not the logits"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := toy{}.model()
			test.change(m.Graph)
			path := writeToy(t, m, test.tokenizer)
			if opened, err := Open(path, test.options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
				if err == nil {
					opened.Close()
				}
			}
		})
	}
	if _, err := Open("nowhere.onnx", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: got %v", err)
	}
}

func TestSampler(t *testing.T) {
	logits := []float32{1, 3, 3, 2, float32(math.Inf(-1))}
	probability := func(tokens ...int) map[int]float64 {
		p, sum := map[int]float64{}, 0.0
		for _, token := range tokens {
			p[token] = math.Exp(float64(logits[token]))
			sum += p[token]
		}
		for token := range p {
			p[token] /= sum
		}
		return p
	}
	tests := []struct {
		name     string
		sampling Sampling
		want     map[int]float64
	}{
		{"greedy takes the lower of equals", Sampling{}, map[int]float64{1: 1}},
		{"all", Sampling{Temperature: 1}, probability(0, 1, 2, 3)},
		{"top-k", Sampling{Temperature: 1, TopK: 3}, probability(1, 2, 3)},
		{"top-p", Sampling{Temperature: 1, TopP: 0.5}, probability(1, 2)},
		{"top-p of everything", Sampling{Temperature: 1, TopP: 1}, probability(0, 1, 2, 3)},
		{"cold", Sampling{Temperature: 0.01, TopK: 1}, map[int]float64{1: 1}},
	}
	const draws = 20000
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := NewSampler(test.sampling)
			count := map[int]int{}
			for range draws {
				token, err := s.Next(logits)
				if err != nil {
					t.Fatal(err)
				}
				count[token]++
			}
			for token := range logits {
				if got, want := float64(count[token])/draws, test.want[token]; math.Abs(got-want) > 0.02 {
					t.Errorf("token %d was drawn with frequency %.3f, want %.3f", token, got, want)
				}
			}
		})
	}
	if _, err := NewSampler(Sampling{}).Next([]float32{0, float32(math.NaN())}); err == nil {
		t.Error("NaN was taken for a logit")
	}
}

// A character comes whole, however its bytes are spread over tokens.
func TestStreamEmitsWholeCharacters(t *testing.T) {
	m := toy{}.open(t, Options{Tokenizer: "bytes"})
	text := "naïve 日本 😀\xff!"
	prompt := m.Tokenizer.Encode("na")
	var pieces []string
	s := newStream(m, prompt, func(piece string) error {
		pieces = append(pieces, piece)
		return nil
	})
	tokens := m.Tokenizer.Encode(text)
	for n := len(prompt) + 1; n <= len(tokens); n++ {
		if err := s.write(tokens[:n], n == len(tokens)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := strings.Join(pieces, ""), "ïve 日本 😀�!"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, piece := range pieces {
		if !utf8.ValidString(piece) {
			t.Errorf("piece %q is cut within a character", piece)
		}
	}
}
