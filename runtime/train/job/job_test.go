package job_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/checkpoint"
	"github.com/fmoe-go/fmoe/runtime/train/job"
)

// write writes a model that predicts the next byte from the one before.
func write(t *testing.T) (model, text string) {
	t.Helper()
	weight := randomWeights(rand.New(rand.NewPCG(1, 2)))
	node := func(out, opType string, in ...string) *onnx.Node {
		return &onnx.Node{Name: out, OpType: opType, Inputs: in, Outputs: []string{out}}
	}
	open := func(name string, t onnx.DataType, rank int) *onnx.ValueInfo {
		return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t, Shape: &onnx.Shape{Dims: make([]onnx.Dim, rank)}}}
	}
	g := &onnx.Graph{Name: "bigrams",
		Inputs:  []*onnx.ValueInfo{open("input_ids", onnx.Int64, 2)},
		Outputs: []*onnx.ValueInfo{open("logits", onnx.Float32, 3)},
		Initializers: []*onnx.Tensor{weight("embedding", 256, 16), weight("hidden.weight", 16, 32), weight("hidden.bias", 32),
			weight("head", 32, 256)},
		Nodes: []*onnx.Node{node("x", "Gather", "embedding", "input_ids"), node("product", "MatMul", "x", "hidden.weight"),
			node("sum", "Add", "product", "hidden.bias"), node("active", "Relu", "sum"), node("logits", "MatMul", "active", "head")},
	}
	m := &onnx.Model{IRVersion: 10, OpsetImports: []onnx.OpsetImport{{Version: 20}}, Graph: g}
	dir := t.TempDir()
	model, text = filepath.Join(dir, "model.onnx"), filepath.Join(dir, "text.txt")
	if err := onnx.WriteFile(model, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, []byte(strings.Repeat("the quick brown fox jumps over the lazy dog. ", 200)), 0o644); err != nil {
		t.Fatal(err)
	}
	return model, text
}

// randomWeights returns a function that makes initializers of random numbers.
func randomWeights(random *rand.Rand) func(name string, shape ...int) *onnx.Tensor {
	return func(name string, shape ...int) *onnx.Tensor {
		x := tensor.New(onnx.Float32, shape...)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(random.NormFloat64()) * 0.3
		}
		return x.ToONNX(name)
	}
}

func configure(t *testing.T, text string, settings ...string) job.Config {
	t.Helper()
	settings = append([]string{"data.train=" + text, "data.length=16", "data.batch=4", "steps=40", "optimizer.learning_rate=0.01",
		"evaluate_every=10", "save_every=10"}, settings...)
	c, err := job.Parse(nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func run(t *testing.T, ctx context.Context, model string, c job.Config, o job.Options) *job.Result {
	t.Helper()
	o.Runtime = runtime.Options{Threads: 2}
	r, err := job.Run(ctx, model, c, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// exported returns the bytes of the model that a run directory has.
func exported(t *testing.T, dir string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.onnx")
	if err := checkpoint.Export(dir, out, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRunLearns(t *testing.T) {
	model, text := write(t)
	dir := filepath.Join(t.TempDir(), "run")
	r := run(t, t.Context(), model, configure(t, text), job.Options{Dir: dir, TensorBoard: true, Report: filepath.Join(dir, "report.html")})
	if r.Steps != 40 || r.Tokens > 40*4*16 || r.Tokens < 39*4*16 || float64(r.Perplexity) > 60 || math.Abs(math.Exp(float64(r.Held))-float64(r.Perplexity)) > 1e-6 {
		t.Errorf("result %+v", r)
	}
	for _, name := range []string{job.ConfigFile, job.LogFile, job.EventsDir, "report.html", "step-00000040", "step-00000030", "step-00000020"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "step-00000010")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the fourth checkpoint from the end was kept: %v", err)
	}
	_, err := job.Run(t.Context(), model, configure(t, text), job.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("a second run in the directory gives %v", err)
	}
}

// In bfloat16, and with activations that are computed again, a run learns as
// well.
func TestVariants(t *testing.T) {
	model, text := write(t)
	losses := map[string]float64{}
	for _, setting := range []string{"precision=float32", "precision=bfloat16", "recompute=true"} {
		r := run(t, t.Context(), model, configure(t, text, setting), job.Options{Dir: filepath.Join(t.TempDir(), "run")})
		losses[setting] = float64(r.Held)
	}
	whole := losses["precision=float32"]
	if again := losses["recompute=true"]; again != whole {
		t.Errorf("with activations computed again the loss is %v, without %v", again, whole)
	}
	if half := losses["precision=bfloat16"]; half == whole || math.Abs(half-whole) > 0.02*whole {
		t.Errorf("in bfloat16 the loss is %v, in float32 %v", half, whole)
	}
}

// canceled is done when it is asked for the n-th time.
type canceled struct {
	context.Context
	left int
	done chan struct{}
}

func (c *canceled) Err() error {
	if c.left--; c.left == 0 {
		close(c.done)
	}
	if c.left <= 0 {
		return context.Canceled
	}
	return nil
}

func (c *canceled) Done() <-chan struct{} { return c.done }

// A run that is interrupted at any point and resumed comes to the bits of one
// that was not.
func TestResume(t *testing.T) {
	model, text := write(t)
	for _, optimizer := range []string{"adamw", "sgd", "adafactor", "muon"} {
		c := configure(t, text, "optimizer.kind="+optimizer, "accumulate=2", "steps=24")
		whole := filepath.Join(t.TempDir(), "whole")
		want := run(t, t.Context(), model, c, job.Options{Dir: whole})
		dir := filepath.Join(t.TempDir(), "parts")
		interruptions := 0
		for left := 200; ; left += 500 {
			ctx := &canceled{Context: context.Background(), left: left, done: make(chan struct{})}
			r := run(t, ctx, model, c, job.Options{Dir: dir, Resume: true})
			if !r.Interrupted {
				if r.Loss != want.Loss || r.Held != want.Held || r.Tokens != want.Tokens {
					t.Errorf("%s: resumed %+v, whole %+v", optimizer, r, want)
				}
				break
			}
			interruptions++
		}
		if interruptions == 0 {
			t.Errorf("%s: nothing was interrupted", optimizer)
		}
		if !bytes.Equal(exported(t, dir), exported(t, whole)) {
			t.Errorf("%s: after %d interruptions the weights differ", optimizer, interruptions)
		}
	}
}

// Steps whose gradients are not finite change nothing; many in a row end the
// run.
func TestSkip(t *testing.T) {
	model, text := write(t)
	dir := filepath.Join(t.TempDir(), "run")
	c := configure(t, text, "optimizer.kind=sgd", "optimizer.learning_rate=1e30", "clip=0", "skip_limit=3")
	_, err := job.Run(t.Context(), model, c, job.Options{Dir: dir, Runtime: runtime.Options{Threads: 1}})
	if err == nil || !strings.Contains(err.Error(), "3 steps in a row were skipped") {
		t.Errorf("error %v", err)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text     string
		settings []string
		err      string
		check    func(job.Config) any
		want     any
	}{
		{text: "", check: func(c job.Config) any { return c.Optimizer.Beta2 }, want: 0.95},
		{text: "optimizer: {kind: adam}", check: func(c job.Config) any { return c.Optimizer.Beta2 }, want: 0.999},
		{text: "steps: 7", settings: []string{"steps=9"}, check: func(c job.Config) any { return c.Steps }, want: int64(9)},
		{settings: []string{"groups=[{kind: router, rate_factor: 0.1}]"}, check: func(c job.Config) any { return *c.Groups[0].RateFactor }, want: 0.1},
		{text: "step: 7", err: "field step not found"},
		{text: "steps: x", err: "cannot unmarshal"},
		{settings: []string{"steps"}, err: "not of the form name=value"},
		{settings: []string{"optimizer.kind=lion"}, err: `optimizer kind "lion" is not known`},
		{settings: []string{"loss.label_smoothing=1"}, err: "from 0 to below 1"},
		{settings: []string{"groups=[{kind: bias}]"}, err: `kind "bias" is not known`},
	} {
		got, err := job.Parse([]byte(c.text), c.settings)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q %q: error %v, want one with %q", c.text, c.settings, err, c.err)
			}
			continue
		}
		if err != nil || c.check(got) != c.want {
			t.Errorf("%q %q: %v, error %v, want %v", c.text, c.settings, c.check(got), err, c.want)
		}
		again, err := job.Parse([]byte(got.YAML()), nil)
		if err != nil || fmt.Sprint(again.YAML()) != got.YAML() {
			t.Errorf("%q: what is printed is read as another configuration: %v", c.text, err)
		}
	}
}
