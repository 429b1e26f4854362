package train

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"slices"
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
	Training struct {
		Inputs, Targets [][]float64
		Classes         []int64
		Clip            float64
		Weights         struct {
			W1, W2 [][]float64
			B1, B2 []float64
		}
		Runs []struct {
			Loss   string
			Config Optimizer
			Losses []float64
		}
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
				u, err := newUpdater(r, p.Type, len(shape), &Trainer{options: Options{Runtime: runtime.Options{Threads: 2}}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := u.close(); err != nil {
						t.Error(err)
					}
				})
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

// Ten steps of each optimizer on a network of two layers have PyTorch's losses.
func TestTraining(t *testing.T) {
	r := readReference(t).Training
	matrix := func(rows [][]float64) *tensor.Tensor {
		return tensor.FromSlice(slices.Concat(rows...), len(rows), len(rows[0]))
	}
	vector := func(x []float64) *tensor.Tensor { return tensor.FromSlice(x, len(x)) }
	node := func(opType, output string, inputs ...string) *onnx.Node {
		return &onnx.Node{Name: output, OpType: opType, Inputs: inputs, Outputs: []string{output}}
	}
	for _, run := range r.Runs {
		t.Run(run.Config.Kind+" "+run.Loss, func(t *testing.T) {
			m := &onnx.Model{IRVersion: 10, OpsetImports: []onnx.OpsetImport{{Version: 20}}, Graph: &onnx.Graph{Name: "network",
				Inputs:  []*onnx.ValueInfo{{Name: "x", Type: tensorType(onnx.Float64, []int64{-1, 8})}},
				Outputs: []*onnx.ValueInfo{{Name: "y", Type: tensorType(onnx.Float64, []int64{-1, 4})}},
				Initializers: []*onnx.Tensor{matrix(r.Weights.W1).ToONNX("w1"), vector(r.Weights.B1).ToONNX("b1"),
					matrix(r.Weights.W2).ToONNX("w2"), vector(r.Weights.B2).ToONNX("b2")},
				Nodes: []*onnx.Node{node("MatMul", "xw", "x", "w1"), node("Add", "a", "xw", "b1"), node("Tanh", "h", "a"),
					node("MatMul", "hw", "h", "w2"), node("Add", "y", "hw", "b2")},
			}}
			o := plain(Loss{Kind: run.Loss, IgnoreIndex: -100})
			o.Optimizer, o.Clip = run.Config, r.Clip
			trainer := newTrainer(t, m, o)
			batch := Batch{"x": matrix(r.Inputs), labelsName: tensor.FromSlice(r.Classes, len(r.Classes))}
			if run.Loss == MSE {
				batch[labelsName] = matrix(r.Targets)
			}
			for i, want := range run.Losses {
				s, err := trainer.Step(context.Background(), batch)
				if err != nil {
					t.Fatal(err)
				}
				// PyTorch adds 1e-6 to the norm by which it clips.
				if got := float64(s.Loss); !(math.Abs(got-want) <= 1e-6) {
					t.Errorf("step %d: loss %.9g, want %.9g", i+1, got, want)
				}
			}
		})
	}
}
