package train

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// reference is what testdata/optimizers.py computed with PyTorch.
type reference struct {
	Optimizers []struct {
		Name    string
		Config  Optimizer
		Shapes  [][]int
		Weights [][]float64
		Steps   []struct {
			Rate               float64
			Gradients, Weights [][]float64
		}
	}
	Total     int64
	Schedules []struct {
		Schedule
		Factors []float64
	}
}

func readReference(t *testing.T) (r reference) {
	text, err := os.ReadFile("testdata/optimizers.json")
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Each optimizer changes weights as PyTorch's does.
func TestOptimizers(t *testing.T) {
	for _, c := range readReference(t).Optimizers {
		t.Run(c.Name, func(t *testing.T) {
			for i, shape := range c.Shapes {
				p := Parameter{Shape: shape, Type: onnx.Float64, Kind: Matrix}
				r := newRule(c.Config, &p)
				u, err := newUpdater(r, p.Type, len(shape), runtime.Options{Threads: 2})
				if err != nil {
					t.Fatal(err)
				}
				defer u.close()
				weight := tensor.FromSlice(append([]float64{}, c.Weights[i]...), shape...)
				var states []*tensor.Tensor
				for _, s := range r.states(shape) {
					states = append(states, tensor.New(p.Type, s.shape...))
				}
				for n, step := range c.Steps {
					// Twice the gradient, halved as clipping does.
					gradient := tensor.New(p.Type, shape...)
					for j, g := range step.Gradients[i] {
						tensor.Of[float64](gradient)[j] = 2 * g
					}
					h := hyper{step: int64(n + 1), rate: step.Rate, weightDecay: c.Config.WeightDecay}
					if err := u.apply(weight, gradient, states, 0.5, h); err != nil {
						t.Fatal(err)
					}
					for j, want := range step.Weights[i] {
						if got := tensor.Of[float64](weight)[j]; math.Abs(got-want) > 1e-9 {
							t.Fatalf("shape %v, step %d, element %d: %v, want %v", shape, n+1, j, got, want)
						}
					}
				}
			}
		})
	}
}

// Each schedule has PyTorch's factors.
func TestSchedules(t *testing.T) {
	r := readReference(t)
	for _, s := range r.Schedules {
		for step, want := range s.Factors {
			if got := s.Factor(int64(step), r.Total); math.Abs(got-want) > 1e-9 {
				t.Errorf("%s, step %d: %v, want %v", s.Kind, step, got, want)
			}
		}
	}
}
