package train

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

const zoo = "../../models/zoo"

// Every export of the zoo trains: in float64 its gradients agree with a
// central difference, and in its own type steps lower the loss.
func TestZooTrains(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(zoo, "*", "model.onnx"))
	if err != nil || len(folders) < 60 {
		t.Fatalf("%d exports: %v", len(folders), err)
	}
	for _, path := range folders {
		name := filepath.Base(filepath.Dir(path))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := readModel(t, path)
			batch, loss := example(t, m, filepath.Join(filepath.Dir(path), "test_data_set_0"))
			_, err := New(m, plain(loss))
			if strings.HasSuffix(name, "-cache-merged") {
				if want := "(If): weights within control flow cannot be trained"; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one that says %q", err, want)
				}
				return
			}
			if err != nil && strings.Contains(err.Error(), "the operator has no gradient") {
				t.Skip(err)
			}
			t.Run("float64", func(t *testing.T) { checkDerivative(t, m, batch, loss) })
			t.Run("steps", func(t *testing.T) { checkSteps(t, m, batch, loss) })
		})
	}
}

// example returns a batch of a model's test data and a loss for its first
// output: of logits the cross-entropy of random classes, of anything else the
// mean squared distance from random numbers.
func example(t *testing.T, m *onnx.Model, folder string) (Batch, Loss) {
	t.Helper()
	var inputs []*onnx.ValueInfo
	for _, v := range m.Graph.Inputs {
		if m.Graph.Initializer(v.Name) == nil {
			inputs = append(inputs, v)
		}
	}
	batch, err := dataset.ReadInputs(folder, inputs)
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := dataset.ReadOutputs(folder, m.Graph.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	loss := Loss{Kind: MSE, Output: m.Graph.Outputs[0].Name, IgnoreIndex: -100}
	shape := outputs[loss.Output].Shape
	if !strings.HasPrefix(loss.Output, "logits") {
		labels := tensor.New(onnx.Float32, shape...)
		for i := range tensor.Of[float32](labels) {
			tensor.Of[float32](labels)[i] = float32(random.NormFloat64())
		}
		batch[labelsName] = labels
		return batch, loss
	}
	loss.Kind = Classification
	last := len(shape) - 1
	labels := tensor.New(onnx.Int64, shape[:last]...)
	for i := range tensor.Of[int64](labels) {
		tensor.Of[int64](labels)[i] = random.Int64N(int64(shape[last]))
	}
	batch[labelsName] = labels
	return batch, loss
}

// checkDerivative compares the derivative along a random direction of all
// parameters with a central difference.
func checkDerivative(t *testing.T, m *onnx.Model, batch Batch, loss Loss) {
	o := plain(loss)
	o.Runtime = runtime.Options{Threads: 1, NoFusion: true}
	trainer := newTrainer(t, widened(t, m), o)
	wide := Batch{}
	for name, x := range batch {
		if x.Type.IsFloat() {
			w := tensor.New(onnx.Float64, x.Shape...)
			tensor.ConvertFloat(w, x)
			x = w
		}
		wide[name] = x
	}
	_, gradients, err := trainer.gradients(wide)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	want := 0.0
	start, direction := map[string][]float64{}, map[string][]float64{}
	for _, p := range trainer.parameters {
		if gradients[p.Name] == nil {
			t.Logf("%s has no gradient", p.Name)
			continue
		}
		w := tensor.Of[float64](p.weight)
		size := 0.0
		for _, x := range w {
			size += x * x
		}
		size = math.Sqrt(size/float64(len(w))) + 0.01
		d := make([]float64, len(w))
		for i, g := range tensor.Of[float64](gradients[p.Name]) {
			d[i] = size * random.NormFloat64()
			want += g * d[i]
		}
		start[p.Name], direction[p.Name] = slices.Clone(w), d
	}
	at := func(step float64) float64 {
		for _, p := range trainer.parameters {
			w := tensor.Of[float64](p.weight)
			for i, d := range direction[p.Name] {
				w[i] = start[p.Name][i] + step*d
			}
		}
		s, _, err := trainer.gradients(wide)
		if err != nil {
			t.Fatal(err)
		}
		return float64(s.Total)
	}
	// A step may cross a kink, as ReLU has them; a smaller one is less likely to.
	var got float64
	for _, step := range []float64{1e-6, 1e-7, 1e-8} {
		got = (at(step) - at(-step)) / (2 * step)
		if math.Abs(got-want) <= 1e-6*max(1, math.Abs(want)) {
			return
		}
	}
	t.Errorf("derivative %.9g, central difference %.9g", want, got)
}

// checkSteps makes a few steps of AdamW on one batch.
func checkSteps(t *testing.T, m *onnx.Model, batch Batch, loss Loss) {
	o := plain(loss)
	o.Runtime = runtime.Options{Threads: 1, NoFusion: true}
	o.Optimizer = DefaultOptimizer(AdamW)
	o.Optimizer.LearningRate = 1e-3
	trainer := newTrainer(t, m, o)
	var losses []float64
	for range 4 {
		s, err := trainer.Step(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		if s.NonFinite != "" {
			t.Fatalf("%s is not finite", s.NonFinite)
		}
		losses = append(losses, float64(s.Loss))
	}
	if !(losses[3] < losses[0]) {
		t.Errorf("losses %v", losses)
	}
}
