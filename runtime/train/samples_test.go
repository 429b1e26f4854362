package train

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

// sample is a sample model in training, which models/gradients.py rebuilt in
// PyTorch.
type sample struct {
	Name    string
	Model   string          // folder of models
	Rewrite *fmoefy.Options // nil for the dense model
	Loss    Loss
}

// sampleBatch is a batch of tokens. Without labels, they are sin i for the
// i-th element of the output.
type sampleBatch struct {
	Inputs map[string][][]int64
	Labels [][]int64
}

// sampleGradients is what PyTorch computed, in float64.
type sampleGradients struct {
	sample
	sampleBatch
	Task, Total float64
	Gradients   []sampleGradient
}

// sampleGradient is that of an initializer: its norm, its sum, and some of its
// elements.
type sampleGradient struct {
	Name      string
	Norm, Sum float64
	At        []int
	Values    []float64
}

// sampleSteps is a training by PyTorch, in float64.
type sampleSteps struct {
	sample
	Optimizer Optimizer
	Schedule  Schedule
	Clip      float64
	Batches   []sampleBatch
	Losses    []struct{ Task, Total, Norm float64 }
}

func readJSON[T any](t *testing.T, name string) (v T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// open reads the model, rewritten where that is wanted.
func (s *sample) open(t *testing.T) *onnx.Model {
	t.Helper()
	m := readModel(t, filepath.Join("..", "..", "models", s.Model, "model.onnx"))
	if s.Rewrite == nil {
		return m
	}
	if _, err := fmoefy.Rewrite(m, *s.Rewrite); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := onnx.WriteFile(path, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return readModel(t, path)
}

func readModel(t *testing.T, path string) *onnx.Model {
	t.Helper()
	m, err := onnx.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (b *sampleBatch) tensors(t onnx.DataType, width int) Batch {
	batch := Batch{}
	for name, rows := range b.Inputs {
		batch[name] = matrix(rows)
	}
	if b.Labels != nil {
		batch[labelsName] = matrix(b.Labels)
		return batch
	}
	labels := tensor.New(t, append(slices.Clone(batch["input_ids"].Shape), width)...)
	x := make([]float64, labels.Len())
	for i := range x {
		x[i] = math.Sin(float64(i))
	}
	tensor.ConvertFloat(labels, tensor.FromSlice(x, labels.Shape...))
	batch[labelsName] = labels
	return batch
}

func matrix(rows [][]int64) *tensor.Tensor {
	return tensor.FromSlice(slices.Concat(rows...), len(rows), len(rows[0]))
}

// widened returns a copy of a model without function calls that computes in
// float64.
func widened(t *testing.T, m *onnx.Model) *onnx.Model {
	t.Helper()
	m, err := inlined(m)
	if err != nil {
		t.Fatal(err)
	}
	widen := func(x *onnx.Tensor) *onnx.Tensor {
		v, err := tensor.FromONNX(x)
		if err != nil {
			t.Fatal(err)
		}
		if !v.Type.IsFloat() {
			return x
		}
		wide := tensor.New(onnx.Float64, v.Shape...)
		tensor.ConvertFloat(wide, v)
		return wide.ToONNX(x.Name)
	}
	err = m.Graph.Walk(func(g *onnx.Graph) error {
		for i, x := range g.Initializers {
			g.Initializers[i] = widen(x)
		}
		g.ValueInfo = nil
		for _, v := range slices.Concat(g.Inputs, g.Outputs) {
			if v.Type != nil && v.Type.ElemType.IsFloat() {
				v.Type.ElemType = onnx.Float64
			}
		}
		for _, n := range g.Nodes {
			if n.Is("ConstantOfShape") && n.Attribute("value") == nil {
				n.Attributes = append(n.Attributes, onnx.TensorAttribute("value", tensor.Scalar[float32](0).ToONNX("")))
			}
			for i, a := range n.Attributes {
				switch {
				case a.Tensor != nil:
					n.Attributes[i] = onnx.TensorAttribute(a.Name, widen(a.Tensor))
				case n.Is("Constant") && a.Name == "value_float":
					n.Attributes[i] = onnx.TensorAttribute("value", tensor.Scalar(float64(a.Float)).ToONNX(""))
				case n.Is("Cast") && a.Name == "to" && onnx.DataType(a.Int).IsFloat():
					n.Attributes[i] = onnx.IntAttribute("to", int64(onnx.Float64))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newTrainer(t *testing.T, m *onnx.Model, o Options) *Trainer {
	t.Helper()
	trainer, err := New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { trainer.Close() })
	return trainer
}

// gradients returns the losses and gradients of a batch, which hold until the
// trainer's next run.
func (t *Trainer) gradients(b Batch) (*Step, map[string]*tensor.Tensor, error) {
	if err := t.objective.supply(t.inputs, t.feeds, b); err != nil {
		return nil, nil, err
	}
	if t.stepInput != nil {
		tensor.Of[int64](t.stepInput)[0] = t.step
	}
	tensor.ConvertFloat(t.scale, tensor.Scalar(1.0))
	out, err := t.runner.Run(context.Background(), t.inputs)
	if err != nil {
		return nil, nil, err
	}
	s := newStep(t.objective)
	if err := t.objective.read(s, out, t.at, 1); err != nil {
		return nil, nil, err
	}
	s.finish(t.options.Loss)
	list := map[string]*tensor.Tensor{}
	for _, p := range t.parameters {
		if p.updater != nil {
			list[p.Name] = out[p.gradient]
		}
	}
	return s, list, nil
}

func plain(l Loss) Options {
	return Options{Loss: l, Optimizer: Optimizer{Kind: SGD, LearningRate: 1e-3}, Schedule: Schedule{Kind: Constant}, Steps: 1, Precision: "float32",
		Runtime: runtime.Options{Threads: 2}}
}

// The gradients of the samples, dense and rewritten, are PyTorch's.
func TestGradientsOfSamples(t *testing.T) {
	for _, c := range readJSON[[]sampleGradients](t, "gradients.json") {
		o := plain(c.Loss)
		t.Run(c.Name+"/float32", func(t *testing.T) { c.compare(t, c.open(t), o, 1e-4) })
		if c.Model == "t5" {
			continue // rounds distances of positions to buckets, in float32 other ones
		}
		t.Run(c.Name+"/float64", func(t *testing.T) { c.compare(t, widened(t, c.open(t)), o, 1e-6) })
		o.Runtime.NoFusion = true
		t.Run(c.Name+"/float64 unfused", func(t *testing.T) { c.compare(t, widened(t, c.open(t)), o, 1e-6) })
	}
}

// compare fails where gradients differ by more than tolerance, relative to
// their root mean square.
func (c *sampleGradients) compare(t *testing.T, m *onnx.Model, o Options, tolerance float64) {
	trainer := newTrainer(t, m, o)
	s, gradients, err := trainer.gradients(c.tensors(trainer.parameters[0].Type, 64))
	if err != nil {
		t.Fatal(err)
	}
	if got := float64(s.Loss); !(math.Abs(got-c.Task) <= tolerance*c.Task) {
		t.Errorf("loss %.9g, want %.9g", got, c.Task)
	}
	if got := float64(s.Total); !(math.Abs(got-c.Total) <= tolerance*c.Total) {
		t.Errorf("loss with those of routers %.9g, want %.9g", got, c.Total)
	}
	for _, p := range trainer.parameters {
		if !slices.ContainsFunc(c.Gradients, func(g sampleGradient) bool { return g.Name == p.Name }) {
			t.Errorf("%q is no parameter of PyTorch's model", p.Name)
		}
	}
	squares := 0.0
	for _, g := range c.Gradients {
		squares += g.Norm * g.Norm
	}
	// Gradients that are zero but for rounding, as those of biases of keys and
	// of routers of equal experts, have no relative error.
	least := 1e-4 * math.Sqrt(squares)
	for _, want := range c.Gradients {
		g := gradients[want.Name]
		if g == nil {
			t.Errorf("%q has no gradient", want.Name)
			continue
		}
		x, err := tensor.Float64s(g)
		if err != nil {
			t.Fatal(err)
		}
		if d := want.difference(x, least); !(d <= tolerance) {
			t.Errorf("the gradient of %q differs by %.2g, want at most %.2g", want.Name, d, tolerance)
		}
	}
}

// difference returns how far a gradient is from g, in units of the norm or,
// where that is greater, of least.
func (g *sampleGradient) difference(x []float64, least float64) float64 {
	squares, sum := 0.0, 0.0
	for _, v := range x {
		squares += v * v
		sum += v
	}
	unit := max(g.Norm, least)
	size := unit / math.Sqrt(float64(len(x))) // of an element
	errors := 0.0
	for i, at := range g.At {
		errors += (x[at] - g.Values[i]) * (x[at] - g.Values[i])
	}
	return max(math.Abs(math.Sqrt(squares)-g.Norm)/unit, math.Abs(sum-g.Sum)/unit/math.Sqrt(float64(len(x))),
		math.Sqrt(errors/float64(len(g.At)))/size)
}

// Ten steps of AdamW have PyTorch's losses, where batches are divided too, and
// nearly with products in bfloat16.
func TestStepsOfSamples(t *testing.T) {
	for _, c := range readJSON[[]sampleSteps](t, "steps.json") {
		t.Run(c.Name, func(t *testing.T) {
			c.compare(t, "float32", 1e-4, func(b sampleBatch) []Batch { return []Batch{b.tensors(onnx.Float32, 0)} })
		})
		if c.Rewrite == nil {
			continue
		}
		t.Run(c.Name+"/divided", func(t *testing.T) {
			c.compare(t, "float32", 1e-4, func(b sampleBatch) []Batch {
				first, rest := b.part(0, 1), b.part(1, len(b.Labels))
				return []Batch{first.tensors(onnx.Float32, 0), rest.tensors(onnx.Float32, 0)}
			})
		})
		t.Run(c.Name+"/bfloat16", func(t *testing.T) {
			c.compare(t, "bfloat16", 0.02, func(b sampleBatch) []Batch { return []Batch{b.tensors(onnx.Float32, 0)} })
		})
	}
}

func (c *sampleSteps) compare(t *testing.T, precision string, tolerance float64, batches func(sampleBatch) []Batch) {
	o := plain(c.Loss)
	o.Optimizer, o.Schedule, o.Clip, o.Steps, o.Precision = c.Optimizer, c.Schedule, c.Clip, int64(len(c.Batches)), precision
	trainer := newTrainer(t, c.open(t), o)
	for i, b := range c.Batches {
		s, err := trainer.Step(context.Background(), batches(b)...)
		if err != nil {
			t.Fatal(err)
		}
		want := c.Losses[i]
		for _, x := range []struct {
			name      string
			got, want float64
		}{{"loss", float64(s.Loss), want.Task}, {"total loss", float64(s.Total), want.Total}, {"gradient norm", float64(s.GradientNorm), want.Norm}} {
			if !(math.Abs(x.got-x.want) <= tolerance*max(1, x.want)) {
				t.Errorf("step %d: %s %.7g, want %.7g", i+1, x.name, x.got, x.want)
			}
		}
	}
}

// part returns some sequences.
func (b *sampleBatch) part(lo, hi int) *sampleBatch {
	part := &sampleBatch{Inputs: map[string][][]int64{}, Labels: b.Labels[lo:hi]}
	for name, rows := range b.Inputs {
		part.Inputs[name] = rows[lo:hi]
	}
	return part
}

// Recomputing activations gives the same bits in less memory, and so does any
// number of threads.
func TestRecomputeOfSamples(t *testing.T) {
	for _, c := range readJSON[[]sampleSteps](t, "steps.json") {
		t.Run(c.Name, func(t *testing.T) {
			batch := Batch{"input_ids": tensor.New(onnx.Int64, 2, 256), labelsName: tensor.New(onnx.Int64, 2, 256)}
			for i := range 2 * 256 {
				tensor.Of[int64](batch["input_ids"])[i] = int64(i * i % 251)
				tensor.Of[int64](batch[labelsName])[i] = int64((i + 1) * (i + 1) % 251)
			}
			run := func(recompute bool, threads int) (*Trainer, report.Number, map[string]*tensor.Tensor) {
				o := plain(c.Loss)
				o.Recompute, o.Runtime.Threads = recompute, threads
				trainer := newTrainer(t, c.open(t), o)
				s, gradients, err := trainer.gradients(batch)
				if err != nil {
					t.Fatal(err)
				}
				return trainer, s.Total, gradients
			}
			kept, loss, gradients := run(false, 3)
			for _, threads := range []int{1, 3} {
				again, total, list := run(true, threads)
				if total != loss || len(list) != len(gradients) {
					t.Errorf("%d threads: loss %v and %d gradients, without recomputing %v and %d", threads, total, len(list), loss, len(gradients))
				}
				for name, g := range gradients {
					if !bytes.Equal(list[name].Data, g.Data) {
						t.Errorf("%d threads: the gradient of %q has other bits", threads, name)
					}
				}
				if before, after := kept.session.Memory().Plan, again.session.Memory().Plan; after >= before || c.Rewrite == nil && after >= before*3/4 {
					t.Errorf("%d bytes, without recomputing %d", after, before)
				}
			}
		})
	}
}
