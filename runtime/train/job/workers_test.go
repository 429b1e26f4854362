package job_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/train/job"
)

// writeMixture writes a model with an FMoE layer of four experts.
func writeMixture(t *testing.T) (model, text string) {
	t.Helper()
	model, text = write(t)
	m, err := onnx.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	weight := randomWeights(rand.New(rand.NewPCG(3, 4)))
	g := m.Graph
	g.Initializers = []*onnx.Tensor{g.Initializer("embedding"), weight("gate", 16, 4), weight("fc1", 4, 32, 16), weight("fc2", 4, 16, 32), weight("head", 16, 256)}
	g.Nodes = []*onnx.Node{
		{Name: "x", OpType: "Gather", Inputs: []string{"embedding", "input_ids"}, Outputs: []string{"x"}},
		{Name: "experts", Domain: moe.Domain, OpType: moe.OpType, Inputs: []string{"x", "gate", "", "fc1", "", "fc2"}, Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("top_k", 2)}},
		{Name: "sum", OpType: "Add", Inputs: []string{"x", "y"}, Outputs: []string{"z"}},
		{Name: "logits", OpType: "MatMul", Inputs: []string{"z", "head"}, Outputs: []string{"logits"}},
	}
	m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: moe.Domain, Version: 1})
	model = filepath.Join(t.TempDir(), "mixture.onnx")
	if err := onnx.WriteFile(model, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return model, text
}

// Any number of workers learns what one does, and the same number the same bits.
func TestWorkers(t *testing.T) {
	model, text := writeMixture(t)
	settings := []string{"steps=12", "schedule.kind=constant", "accumulate=2", "save_every=0"}
	c := configure(t, text, settings...)
	one := run(t, t.Context(), model, c, job.Options{Dir: filepath.Join(t.TempDir(), "run")})
	near := func(what string, r *job.Result) {
		t.Helper()
		for _, x := range [][2]float64{{float64(r.Loss), float64(one.Loss)}, {float64(r.Held), float64(one.Held)}} {
			if !(math.Abs(x[0]-x[1]) <= 1e-5*math.Abs(x[1])) {
				t.Errorf("%s: got %+v, want %+v", what, r, one)
			}
		}
		if r.Tokens != one.Tokens || r.Steps != one.Steps {
			t.Errorf("%s: got %+v, want %+v", what, r, one)
		}
	}
	for _, n := range []int{2, 3, 4} {
		var bits []byte
		for range 2 {
			dir := filepath.Join(t.TempDir(), "run")
			r := run(t, t.Context(), model, c, job.Options{Dir: dir, Workers: n})
			near(fmt.Sprintf("%d workers", n), r)
			if math.Abs(float64(r.Variation-one.Variation)) > 1e-9 {
				t.Errorf("%d workers: the load of experts varies by %g, not %g", n, r.Variation, one.Variation)
			}
			now := exported(t, dir)
			if bits != nil && !bytes.Equal(now, bits) {
				t.Errorf("%d workers come to other bits in another run", n)
			}
			bits = now
		}
	}
	dir := filepath.Join(t.TempDir(), "run")
	half := configure(t, text, append(settings, "steps=6")...)
	run(t, t.Context(), model, half, job.Options{Dir: dir, Workers: 4})
	near("resumed", run(t, t.Context(), model, c, job.Options{Dir: dir, Workers: 2, Resume: true}))
}

func TestMoreWorkersThanRows(t *testing.T) {
	model, text := write(t)
	_, err := job.Run(t.Context(), model, configure(t, text), job.Options{Dir: filepath.Join(t.TempDir(), "run"), Workers: 5})
	if err == nil || !strings.Contains(err.Error(), "a batch of 4 rows for 5 workers") {
		t.Errorf("got %v", err)
	}
}

// watcher cancels a run that has made some steps.
type watcher struct{ cancel context.CancelFunc }

func (w watcher) Write(p []byte) (int, error) {
	w.cancel()
	return len(p), nil
}

func TestWorkersAreInterrupted(t *testing.T) {
	model, text := writeMixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := filepath.Join(t.TempDir(), "run")
	c := configure(t, text, "steps=2000", "evaluate_every=0", "save_every=0")
	r := run(t, ctx, model, c, job.Options{Dir: dir, Workers: 4, Progress: watcher{cancel}})
	if !r.Interrupted || r.Steps < 1 || r.Steps >= 2000 || r.Checkpoint == "" {
		t.Errorf("got %+v", r)
	}
}
