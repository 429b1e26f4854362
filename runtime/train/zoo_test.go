package train

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
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
			checkParameters(t, m)
			batch, loss := example(t, m, filepath.Join(filepath.Dir(path), "test_data_set_0"))
			o := plain(loss)
			o.Runtime.Threads = 1
			if strings.HasSuffix(name, "-training") {
				dropOut(m)
			}
			if strings.HasSuffix(name, "-cache-merged") {
				_, err := New(m, o)
				if want := "(If): weights within control flow cannot be trained"; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one that says %q", err, want)
				}
				return
			}
			t.Run("steps", func(t *testing.T) { checkSteps(t, m, batch, o) })
			t.Run("float64", func(t *testing.T) { checkDerivative(t, m, batch, o) })
			o.Runtime.NoFusion = true
			t.Run("float64 unfused", func(t *testing.T) { checkDerivative(t, m, batch, o) })
		})
	}
}

// checkParameters fails where initializers of more than one number that are no
// parameters are not numbers of formulas: rotary frequencies, slopes of ALiBi,
// masks.
func checkParameters(t *testing.T, m *onnx.Model) {
	t.Helper()
	m, err := inlined(m)
	if err != nil {
		t.Fatal(err)
	}
	found := Parameters(m)
	if len(found) == 0 {
		return // all are within control flow
	}
	for _, x := range m.Graph.Initializers {
		n, err := x.ElementCount()
		if err != nil {
			t.Fatal(err)
		}
		known := slices.ContainsFunc(found, func(p Parameter) bool { return p.Name == x.Name })
		formula := strings.HasSuffix(x.Name, "inv_freq") || slices.Contains([]string{"_to_copy_2", "repeat", "unsqueeze_1", "unsqueeze_11"}, x.Name)
		if x.DataType.IsFloat() && n > 1 && known == formula {
			t.Errorf("%q of shape %v is a parameter: %t", x.Name, x.Dims, known)
		}
	}
}

// dropOut gives Dropout nodes, whose ratio is 0 in the zoo, another one.
func dropOut(m *onnx.Model) {
	m.Graph.Initializers = append(m.Graph.Initializers, tensor.Scalar[float32](0.25).ToONNX("ratio"))
	for _, n := range m.Graph.Nodes {
		if n.Is("Dropout") {
			n.Inputs[1] = "ratio"
		}
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
func checkDerivative(t *testing.T, m *onnx.Model, batch Batch, o Options) {
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
			t.Errorf("%q, a parameter, has no gradient", p.Name)
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

// Evaluation drops nothing out, also of a model in training mode.
func TestEvaluationDropsNothing(t *testing.T) {
	folder := filepath.Join(zoo, "bert-torchscript-training")
	var losses []float64
	for _, dropped := range []bool{false, true} {
		m := readModel(t, filepath.Join(folder, "model.onnx"))
		if dropped {
			dropOut(m)
		}
		batch, loss := example(t, m, filepath.Join(folder, "test_data_set_0"))
		losses = append(losses, evaluate(t, newTrainer(t, m, plain(loss)), batch))
	}
	if losses[0] != losses[1] {
		t.Errorf("loss %v, without dropout %v", losses[1], losses[0])
	}
}

// A parameter in half precision goes on from its master.
func TestRestoreOfHalfPrecision(t *testing.T) {
	folder := filepath.Join(zoo, "gpt2-torchscript-float16")
	m := readModel(t, filepath.Join(folder, "model.onnx"))
	batch, loss := example(t, m, filepath.Join(folder, "test_data_set_0"))
	o := plain(loss)
	o.Optimizer.LearningRate, o.Optimizer.Momentum = 1e-5, 0.9 // steps that float16 rounds away
	step := func(trainer *Trainer) {
		if _, err := trainer.Step(context.Background(), batch); err != nil {
			t.Fatal(err)
		}
	}
	first, second := newTrainer(t, m, o), newTrainer(t, m, o)
	step(first)
	from := func(list []Named) func([]Named) error {
		return func(into []Named) error {
			for i, n := range into {
				if n.Name != list[i].Name {
					return fmt.Errorf("%s in place of %s", n.Name, list[i].Name)
				}
				copy(n.Tensor.Data, list[i].Tensor.Data)
			}
			return nil
		}
	}
	if err := second.Restore(first.Progress(), from(must(first.Weights())), from(must(first.OptimizerState()))); err != nil {
		t.Fatal(err)
	}
	step(first)
	step(second)
	masters := 0
	for i, n := range must(second.OptimizerState()) {
		if strings.HasSuffix(n.Name, "/master") {
			masters++
		}
		if !bytes.Equal(n.Tensor.Data, must(first.OptimizerState())[i].Tensor.Data) {
			t.Errorf("%s differs", n.Name)
		}
	}
	if masters == 0 {
		t.Error("there are no masters")
	}
}

// checkSteps makes a few steps of AdamW on one batch, in the model's own types.
func checkSteps(t *testing.T, m *onnx.Model, batch Batch, o Options) {
	o.Optimizer = DefaultOptimizer(AdamW)
	o.Optimizer.LearningRate = 1e-3
	trainer := newTrainer(t, m, o)
	before := evaluate(t, trainer, batch)
	for range 4 {
		s, err := trainer.Step(context.Background(), batch)
		if err != nil {
			t.Fatal(err)
		}
		if s.NonFinite != "" {
			t.Fatalf("%s is not finite", s.NonFinite)
		}
	}
	if after := evaluate(t, trainer, batch); !(after < before) {
		t.Errorf("loss %.6g after the steps, %.6g before", after, before)
	}
}

// evaluate returns the loss of a batch.
func evaluate(t *testing.T, trainer *Trainer, batch Batch) float64 {
	t.Helper()
	batches := []Batch{batch}
	e, err := trainer.Evaluate(context.Background(), func() (Batch, error) {
		if len(batches) == 0 {
			return nil, io.EOF
		}
		batches = nil
		return batch, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return float64(e.Loss)
}
