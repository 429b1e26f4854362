package job_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/job"
)

// writeGated writes a model whose FMoE layer has a gate, and experts that are
// gated (GLU) and have biases.
func writeGated(t *testing.T, gate string, experts int, of onnx.DataType) (model, text string) {
	t.Helper()
	model, text = writeMixture(t)
	m, err := onnx.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	weight := randomWeights(rand.New(rand.NewPCG(5, 6)))
	g := m.Graph
	g.Initializers = []*onnx.Tensor{g.Initializer("embedding"), g.Initializer("head"), weight("gate", 16, experts),
		weight("fc1", experts, 7, 16), weight("fc1_bias", experts, 7), weight("fc2", experts, 16, 7), weight("fc2_bias", experts, 16),
		weight("fc3", experts, 7, 16), weight("fc3_bias", experts, 7)}
	n := g.Nodes[1]
	n.Inputs = []string{"x", "gate", "", "fc1", "fc1_bias", "fc2", "fc2_bias", "fc3", "fc3_bias"}
	k := int64(2)
	if gate == "switch" {
		k = 1
	}
	n.Attributes = []*onnx.Attribute{onnx.IntAttribute("top_k", k), onnx.StringAttribute("gate", gate), onnx.StringAttribute("activation", "silu")}
	kind, err := moe.KindOf(gate)
	if err != nil {
		t.Fatal(err)
	}
	if kind.Noisy {
		g.Initializers = append(g.Initializers, weight("noise", 16, experts))
		n.Inputs = append(n.Inputs, "noise")
	}
	if gate == "token-rounding" {
		n.Attributes = append(n.Attributes, onnx.IntAttribute("tile", 8))
	}
	g.Outputs[0].Type.ElemType = of
	for i, w := range g.Initializers {
		x, err := tensor.FromONNX(w)
		if err != nil {
			t.Fatal(err)
		}
		as := tensor.New(of, x.Shape...)
		tensor.ConvertFloat(as, x)
		g.Initializers[i] = as.ToONNX(w.Name)
	}
	model = filepath.Join(t.TempDir(), "gated.onnx")
	if err := onnx.WriteFile(model, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return model, text
}

// numbers returns what the log of a run has of each step.
func numbers(t *testing.T, dir string) (list []float64) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, job.LogFile))
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := map[string]any{}
		if err := json.Unmarshal(lines.Bytes(), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["record"] == "step" {
			for _, name := range []string{"loss", "balance_loss", "z_loss", "gradient_norm", "tokens"} {
				list = append(list, fields[name].(float64))
			}
		}
	}
	return list
}

// trained returns the weights that a run came to.
func trained(t *testing.T, dir string) map[string][]float64 {
	t.Helper()
	m, err := onnx.Decode(exported(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	list := map[string][]float64{}
	for _, x := range m.Graph.Initializers {
		v, err := tensor.FromONNX(x)
		if err != nil {
			t.Fatal(err)
		}
		if list[x.Name], err = tensor.Float64s(v); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// difference returns the norm of a − b relative to that of b.
func difference(a, b []float64) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var d, n float64
	for i := range a {
		d += (a[i] - b[i]) * (a[i] - b[i])
		n += b[i] * b[i]
	}
	return math.Sqrt(d / max(n, 1e-30))
}

// Workers come to the losses, the norms of gradients and the weights that one
// process does, however they share the work and whatever the gate.
func TestLayouts(t *testing.T) {
	for _, of := range []struct {
		t         onnx.DataType
		tolerance float64
	}{{onnx.Float32, 1e-5}, {onnx.Float64, 1e-10}} {
		t.Run(of.t.String(), func(t *testing.T) { testLayouts(t, of.t, of.tolerance) })
	}
}

func testLayouts(t *testing.T, of onnx.DataType, tolerance float64) {
	layouts := []string{"data=2", "data=3", "expert=2", "expert=4", "slice=2", "tensor=2", "data=2,expert=2", "expert=8",
		"expert=2,slice=2,tensor=2", "pipeline=2", "expert=2,pipeline=2", "data=2,tensor=2,pipeline=2", "data=2,expert=3", "data=8"}
	for _, gate := range moe.Gates() {
		t.Run(gate, func(t *testing.T) {
			model, text := writeGated(t, gate, 4, of)
			c := configure(t, text, "data.batch=8", "steps=5", "schedule.kind=constant", "accumulate=2", "save_every=0", "evaluate_every=0", "clip=0.1")
			dir := filepath.Join(t.TempDir(), "one")
			one := run(t, t.Context(), model, c, job.Options{Dir: dir})
			want, weights := numbers(t, dir), trained(t, dir)
			for i, text := range layouts {
				l, err := comm.ParseLayout(text)
				if err != nil {
					t.Fatal(err)
				}
				dir := filepath.Join(t.TempDir(), "run")
				r := run(t, t.Context(), model, c, job.Options{Dir: dir, Layout: l, ShardOptimizer: i%2 == 1})
				if math.Abs(float64(r.Held-one.Held)) > tolerance*float64(one.Held) || r.Tokens != one.Tokens {
					t.Errorf("%s: held-out loss %v, tokens %d; want %v, %d", text, r.Held, r.Tokens, one.Held, one.Tokens)
				}
				got := numbers(t, dir)
				for i := range want {
					if !(math.Abs(got[i]-want[i]) <= tolerance*(math.Abs(want[i])+1e-4)) {
						t.Errorf("%s: step %d: number %d of a step is %g, want %g", text, i/5+1, i%5, got[i], want[i])
						break
					}
				}
				for name, w := range trained(t, dir) {
					if d := difference(w, weights[name]); !(d <= tolerance) {
						t.Errorf("%s: %s differs by %g", text, name, d)
					}
				}
			}
		})
	}
}

// A run that some workers saved goes on with any others.
func TestLayoutsResume(t *testing.T) {
	model, text := writeGated(t, "gshard", 4, onnx.Float32)
	settings := []string{"data.batch=8", "steps=6", "schedule.kind=constant", "save_every=0", "evaluate_every=0"}
	c := configure(t, text, settings...)
	whole := filepath.Join(t.TempDir(), "whole")
	run(t, t.Context(), model, c, job.Options{Dir: whole})
	want := trained(t, whole)
	for _, test := range [][2]string{{"data=2,expert=2", ""}, {"expert=4", "data=2"}, {"data=2,expert=2", "expert=4,tensor=2"}, {"", "expert=2,tensor=2"}} {
		var layouts [2]comm.Layout
		for i := range layouts {
			var err error
			if layouts[i], err = comm.ParseLayout(test[i]); err != nil {
				t.Fatal(err)
			}
		}
		dir := filepath.Join(t.TempDir(), "run")
		run(t, t.Context(), model, configure(t, text, append(settings, "steps=3")...), job.Options{Dir: dir, Layout: layouts[0], ShardOptimizer: true})
		run(t, t.Context(), model, c, job.Options{Dir: dir, Layout: layouts[1], Resume: true, ShardOptimizer: true})
		for name, w := range trained(t, dir) {
			if d := difference(w, want[name]); !(d <= 1e-5) {
				t.Errorf("%s: %s differs by %g", fmt.Sprint(test), name, d)
			}
		}
	}
}

// Samples that exporters wrote, with several layers and tied weights, are cut
// into stages that come to what the whole model does.
func TestPipelineOfSamples(t *testing.T) {
	_, text := write(t)
	for _, sample := range []string{"gpt-megatron", "gpt-megatron-dynamo", "llama"} {
		t.Run(sample, func(t *testing.T) {
			path := filepath.Join("..", "..", "..", "models", sample, "model.onnx")
			moe := filepath.Join(t.TempDir(), "moe.onnx")
			rewriteSample(t, path, moe)
			for _, model := range []string{path, moe} {
				c := configure(t, text, "data.batch=4", "data.length=12", "data.tokenizer=bytes", "steps=3", "schedule.kind=constant",
					"accumulate=3", "save_every=0", "evaluate_every=0", "optimizer.learning_rate=0.001")
				dir := filepath.Join(t.TempDir(), "one")
				one := run(t, t.Context(), model, c, job.Options{Dir: dir})
				want, weights := numbers(t, dir), trained(t, dir)
				layouts := []comm.Layout{{Pipeline: 2}, {Pipeline: 2, Data: 2}}
				if model == moe {
					layouts = append(layouts, comm.Layout{Pipeline: 2, Expert: 2})
				}
				for _, l := range layouts {
					dir := filepath.Join(t.TempDir(), "run")
					r := run(t, t.Context(), model, c, job.Options{Dir: dir, Layout: l})
					if math.Abs(float64(r.Held-one.Held)) > 1e-5*float64(one.Held) {
						t.Errorf("%s: held-out loss %v, want %v", l, r.Held, one.Held)
					}
					got := numbers(t, dir)
					for i := range want {
						if !(math.Abs(got[i]-want[i]) <= 1e-4*(math.Abs(want[i])+1e-4)) {
							t.Errorf("%s: step %d: number %d of a step is %g, want %g", l, i/5+1, i%5, got[i], want[i])
							break
						}
					}
					for name, w := range trained(t, dir) {
						if d := difference(w, weights[name]); !(d <= 1e-3) {
							t.Errorf("%s: %s differs by %g", l, name, d)
						}
					}
				}
			}
		})
	}
}

// rewriteSample replaces the MLPs of a model by four experts.
func rewriteSample(t *testing.T, in, out string) {
	t.Helper()
	m, err := onnx.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 4, TopK: 2}); err != nil {
		t.Fatal(err)
	}
	if err := onnx.WriteFile(out, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
}
