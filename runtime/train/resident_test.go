package train

import (
	"context"
	"errors"
	"io"
	"math"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// must returns a value that a test cannot do without.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A device with memory of its own trains as the CPU does, from a state that was
// restored, too. It computes with fewer fused operators, hence not bit for bit.
func TestFarawayTrains(t *testing.T) {
	m := must(onnx.ReadFile(filepath.Join("..", "..", "models", "gpt-megatron", "model.onnx")))
	defer m.Close()
	must(fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 4, TopK: 2, GateOptions: fmoefy.GateOptions{Gate: "gshard"}}))
	ids := tensor.New(onnx.Int64, 2, 12)
	labels := tensor.New(onnx.Int64, 2, 12)
	for i := range ids.Len() {
		tensor.Of[int64](ids)[i], tensor.Of[int64](labels)[i] = int64(i*7%50), int64(i*5%50)
	}
	batch := Batch{"input_ids": ids, "labels": labels}
	for _, kind := range []string{AdamW, Muon} {
		for _, batches := range []int{1, 2} {
			weights := map[string][]Named{}
			losses := map[string]float64{}
			for _, device := range []string{"cpu", devicetest.Faraway} {
				o := DefaultOptions()
				o.Optimizer, o.Steps, o.Clip = DefaultOptimizer(kind), 4, 0.5
				o.Runtime = runtime.Options{Device: device, Threads: 2}
				trainer := must(New(m, o))
				step := func(trainer *Trainer) {
					must(trainer.Step(context.Background(), []Batch{batch, batch}[:batches]...))
				}
				step(trainer)
				step(trainer)
				w, s := must(trainer.Weights()), must(trainer.OptimizerState())
				second := must(New(m, o))
				copyOf := func(list []Named) func(into []Named) error {
					return func(into []Named) error {
						for i, n := range into {
							copy(n.Data, list[i].Data)
						}
						return nil
					}
				}
				if err := second.Restore(trainer.Progress(), copyOf(w), copyOf(s)); err != nil {
					t.Fatal(err)
				}
				step(second)
				done := false
				e := must(second.Evaluate(context.Background(), func() (Batch, error) {
					if done {
						return nil, io.EOF
					}
					done = true
					return batch, nil
				}))
				losses[device] = float64(e.Loss)
				for _, n := range must(second.Weights()) {
					weights[device] = append(weights[device], Named{Name: n.Name, Tensor: n.Clone()})
				}
				if err := errors.Join(trainer.Close(), second.Close()); err != nil {
					t.Error(err)
				}
			}
			if got, want := losses[devicetest.Faraway], losses["cpu"]; !(math.Abs(got-want) <= 1e-5*want) {
				t.Errorf("%s, %d batches: the loss is %v, on the CPU %v", kind, batches, losses[devicetest.Faraway], losses["cpu"])
			}
			for i, n := range weights["cpu"] {
				want, got := must(tensor.Float64s(n.Tensor)), must(tensor.Float64s(weights[devicetest.Faraway][i].Tensor))
				var d, norm float64
				for j := range want {
					d += (got[j] - want[j]) * (got[j] - want[j])
					norm += want[j] * want[j]
				}
				if d = math.Sqrt(d / (norm + 1e-12)); !(d <= 1e-3) {
					t.Errorf("%s, %d batches: %s differs by %.3g from the CPU's", kind, batches, n.Name, d)
				}
			}
		}
	}
}
