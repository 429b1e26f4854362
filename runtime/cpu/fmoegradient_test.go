package cpu

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// training is an FMoE node and its FMoEGradient, bound to the same inputs.
type training struct {
	in, out, gradients []*tensor.Tensor
	by                 []*tensor.Tensor // the gradients by the outputs
	forward, backward  func() error
	kept               any // what the first run of one of several workers keeps
}

// bindTraining binds them for float32 or float64 inputs. The loss is Σ r·y over
// all floating-point outputs but those that are kept for the gradient, with
// random numbers r.
func bindTraining(t testing.TB, threads int, config moe.Config, in []*tensor.Tensor) *training {
	t.Helper()
	d := New(device.Options{Threads: threads})
	t.Cleanup(func() { d.Close() })
	random := rand.New(rand.NewPCG(9, 9))
	r, err := newTraining(d, config, in, func(_ int, by *tensor.Tensor) {
		wide := tensor.New(onnx.Float64, by.Shape...)
		for j := range tensor.Of[float64](wide) {
			tensor.Of[float64](wide)[j] = random.NormFloat64()
		}
		tensor.ConvertFloat(by, wide)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newTraining binds them on a device. fill fills the gradient by an output.
func newTraining(d *Device, config moe.Config, in []*tensor.Tensor, fill func(slot int, by *tensor.Tensor)) (*training, error) {
	outputs := slices.Clone(moe.OutputNames[:])
	if in[moe.InputFC3Weight] == nil {
		outputs[moe.OutputFactor] = ""
	}
	r := &training{in: in}
	var err error
	r.forward, r.out, err = bindTo(d, &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(), Outputs: outputs}, in)
	if err != nil {
		return nil, err
	}
	r.by = make([]*tensor.Tensor, moe.OutputHidden)
	for i := range r.by {
		if y := r.out[i]; y.Type.IsFloat() {
			r.by[i] = tensor.New(y.Type, y.Shape...)
			fill(i, r.by[i])
		}
	}
	inputs := make([]*tensor.Tensor, moe.GradientInputCount)
	copy(inputs, in)
	inputs[moe.GradientY] = r.by[moe.OutputY]
	inputs[moe.GradientAuxLoss], inputs[moe.GradientZLoss] = r.by[moe.OutputAuxLoss], r.by[moe.OutputZLoss]
	inputs[moe.GradientExpertScores], inputs[moe.GradientRouterLogits] = r.by[moe.OutputExpertScores], r.by[moe.OutputRouterLogits]
	inputs[moe.SavedRouterLogits], inputs[moe.SavedHidden], inputs[moe.SavedFactor] = r.out[moe.OutputRouterLogits], r.out[moe.OutputHidden], r.out[moe.OutputFactor]
	names := slices.Clone(moe.InputNames[:moe.GradientCount])
	for i := range names {
		if in[i] == nil {
			names[i] = ""
		}
	}
	n := &onnx.Node{Domain: moe.Domain, OpType: moe.GradientOpType, Attributes: config.Encode(), Inputs: make([]string, len(inputs)), Outputs: names}
	n.Inputs[moe.SavedHidden] = outputs[moe.OutputHidden]
	r.backward, r.gradients, err = bindTo(d, n, inputs)
	return r, err
}

// bindNode binds a node without constants.
func bindNode(t testing.TB, d *Device, n *onnx.Node, in []*tensor.Tensor) (run func() error, out []*tensor.Tensor) {
	t.Helper()
	run, out, err := bindTo(d, n, in)
	if err != nil {
		t.Fatal(err)
	}
	return run, out
}

// bindTo is bindNode for any goroutine. Inputs that have no name get one.
func bindTo(d *Device, n *onnx.Node, in []*tensor.Tensor) (run func() error, out []*tensor.Tensor, err error) {
	facts := make([]op.Fact, len(in))
	n.Inputs = append(n.Inputs, make([]string, len(in)-len(n.Inputs))...)
	for i, x := range in {
		if x != nil {
			n.Inputs[i], facts[i] = cmp.Or(n.Inputs[i], fmt.Sprint("in", i)), op.Fact{Type: x.Type, Shape: op.Dims(x.Shape...)}
		}
	}
	node, err := op.Resolve(n, moe.Version)
	if err != nil {
		return nil, nil, err
	}
	inferred, err := op.Infer(node, facts, &op.Symbols{})
	if err != nil {
		return nil, nil, err
	}
	kernel, err := d.Compile(node, make([]*tensor.Tensor, len(in)))
	if err != nil {
		return nil, nil, err
	}
	out = make([]*tensor.Tensor, len(inferred))
	for i, f := range inferred {
		if n.Outputs[i] != "" {
			out[i] = tensor.New(f.Type, f.Ints()...)
			for j := range out[i].Data {
				out[i].Data[j] = 0x7f // not to be relied on
			}
		}
	}
	run, err = kernel.Bind(&device.Call{In: in, Out: out, Scratch: &device.Scratch{}})
	return run, out, err
}

// run computes outputs and gradients.
func (r *training) run(t testing.TB) {
	t.Helper()
	if err := r.forward(); err != nil {
		t.Fatal(err)
	}
	if err := r.backward(); err != nil {
		t.Fatal(err)
	}
}

// loss computes the outputs, and the loss from them.
func (r *training) loss(t testing.TB) float64 {
	t.Helper()
	if err := r.forward(); err != nil {
		t.Fatal(err)
	}
	loss := 0.0
	for i, by := range r.by {
		if by != nil {
			y := floats(r.out[i])
			for j, x := range floats(by) {
				loss += x * y[j]
			}
		}
	}
	return loss
}

// wantDifferences compares gradients with central differences of the fourth
// order at some elements, wherever no choice of experts changes.
func (r *training) wantDifferences(t *testing.T) {
	t.Helper()
	const step, elements = 1e-4, 12
	r.run(t)
	chosen := slices.Clone(tensor.Of[int64](r.out[moe.OutputExpertIndices]))
	for slot, gradient := range r.gradients {
		if gradient == nil {
			continue
		}
		x, got := tensor.Of[float64](r.in[slot]), slices.Clone(tensor.Of[float64](gradient))
		largest := 1e-2
		for _, g := range got {
			largest = max(largest, math.Abs(g))
		}
		for i := 0; i < len(x); i += max(1, len(x)/elements) {
			was, want, changes := x[i], 0.0, false
			for _, p := range []struct{ at, weight float64 }{{-2, 1.0 / 12}, {-1, -8.0 / 12}, {1, 8.0 / 12}, {2, -1.0 / 12}} {
				x[i] = was + p.at*step
				want += p.weight * r.loss(t) / step
				changes = changes || !slices.Equal(chosen, tensor.Of[int64](r.out[moe.OutputExpertIndices]))
			}
			x[i] = was
			if !changes && !(math.Abs(got[i]-want) <= 1e-6*largest) {
				t.Fatalf("gradient by element %d of %s is %v, differences give %v", i, moe.InputNames[slot], got[i], want)
			}
		}
	}
}

// TestFMoEGradient compares gradients with differences, for every gate.
func TestFMoEGradient(t *testing.T) {
	for _, l := range []layer{
		{tokens: 19, experts: 8, d: 7, h: 10, bias: true, gated: true},
		{tokens: 11, experts: 8, d: 9, h: 5},
	} {
		for _, config := range gateConfigs(t, l.experts) {
			if gate, err := moe.NewGate(config, l.experts); err != nil {
				t.Fatal(err)
			} else if _, ok := gate.(moe.Differentiable); !ok {
				continue // a test's gate
			}
			config.Activation = moe.SiLU // smooth
			for _, mode := range []struct{ training, masked bool }{{false, false}, {true, true}} {
				t.Run(fmt.Sprintf("%d tokens, %+v, %+v", l.tokens, config, mode), func(t *testing.T) {
					bindTraining(t, 2, config, asFloats(onnx.Float64, l.routingInputs(config, mode.training, mode.masked))).wantDifferences(t)
				})
			}
		}
	}
}

// TestFMoEGradientActivations compares them for every activation.
func TestFMoEGradientActivations(t *testing.T) {
	for _, activation := range moe.Activations {
		for _, gated := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, gated %t", activation, gated), func(t *testing.T) {
				l := layer{tokens: 13, experts: 4, k: 2, d: 6, h: 8, bias: true, gated: gated}
				config := moe.NaiveConfig(l.k, activation)
				bindTraining(t, 2, config, asFloats(onnx.Float64, l.routingInputs(config, true, false))).wantDifferences(t)
			})
		}
	}
}

// trainingLayers are layers of many shapes: of few and many rows, narrow and
// wide experts, without tokens and without hidden values.
var trainingLayers = []layer{
	{tokens: 0, experts: 4, k: 2, d: 8, h: 16, bias: true},
	{tokens: 1, experts: 1, k: 1, d: 3, h: 5, bias: true},
	{tokens: 3, experts: 64, k: 3, d: 7, h: 9},
	{tokens: 300, experts: 3, k: 1, d: 16, h: 40},
	{tokens: 700, experts: 2, k: 2, d: 33, h: 50, bias: true, gated: true},
	{tokens: 50, experts: 8, k: 2, d: 64, h: 300, bias: true, gated: true},
	{tokens: 90, experts: 4, k: 2, d: 400, h: 31, gated: true},
	{tokens: 4, experts: 2, k: 1, d: 6, h: 0, bias: true},
	{tokens: 700, experts: 3, k: 1, d: 132, h: 388, bias: true},
}

// TestFMoEGradientFloat32 compares float32 with float64, whose gradients agree
// with differences.
func TestFMoEGradientFloat32(t *testing.T) {
	for _, l := range trainingLayers {
		t.Run(fmt.Sprintf("%+v", l), func(t *testing.T) {
			in := l.routingInputs(moe.NaiveConfig(l.k, moe.GELU), true, true)
			config := moe.NaiveConfig(l.k, moe.GELU)
			single, double := bindTraining(t, 2, config, in), bindTraining(t, 2, config, asFloats(onnx.Float64, in))
			single.run(t)
			double.run(t)
			if l.tokens < 100 {
				double.wantDifferences(t)
				double.run(t)
			}
			for i, want := range double.gradients {
				if want != nil {
					wantNear(t, moe.InputNames[i], single.gradients[i], floats(want), 1e-5)
				}
			}
		})
	}
}

// TestFMoEGradientThreads: gradients have the same bits for any number of
// threads, and a run allocates nothing.
func TestFMoEGradientThreads(t *testing.T) {
	for _, l := range trainingLayers {
		t.Run(fmt.Sprintf("%+v", l), func(t *testing.T) {
			config := moe.DefaultConfig(moe.GateNoisy)
			config.TopK, config.Activation = l.k, moe.GELU
			in := l.routingInputs(config, true, true)
			one := bindTraining(t, 1, config, in)
			one.run(t)
			for _, threads := range []int{2, 3, 4} {
				r := bindTraining(t, threads, config, in)
				r.run(t)
				for i, want := range one.gradients {
					if want != nil && !bytes.Equal(r.gradients[i].Data, want.Data) {
						t.Errorf("%d threads: the gradient by %s has other bits than one's", threads, moe.InputNames[i])
					}
				}
				if !bytes.Equal(r.out[moe.OutputY].Data, one.out[moe.OutputY].Data) {
					t.Errorf("%d threads: Y has other bits than one's", threads)
				}
				allocations := 1.0
				for try := 0; try < 4 && allocations != 0; try++ {
					allocations = testing.AllocsPerRun(2, func() { r.run(t) })
				}
				if allocations != 0 {
					t.Errorf("%d threads: a run makes %v allocations", threads, allocations)
				}
			}
		})
	}
}

// TestFMoEGradientParts: a gradient has the same bits whichever others are
// wanted, and is zero where nothing influences the loss.
func TestFMoEGradientParts(t *testing.T) {
	l := layer{tokens: 40, experts: 8, k: 2, d: 12, h: 20, bias: true, gated: true}
	config := moe.DefaultConfig(moe.GateNoisy)
	config.TopK = l.k
	in := l.routingInputs(config, true, true)
	whole := bindTraining(t, 2, config, in)
	whole.run(t)
	inputs := make([]*tensor.Tensor, moe.GradientInputCount)
	copy(inputs, in)
	inputs[moe.SavedRouterLogits], inputs[moe.SavedHidden], inputs[moe.SavedFactor] = whole.out[moe.OutputRouterLogits], whole.out[moe.OutputHidden], whole.out[moe.OutputFactor]
	d := New(device.Options{Threads: 2})
	defer d.Close()
	for slot := range moe.GradientCount {
		names := make([]string, moe.GradientCount)
		names[slot] = "gradient"
		n := func() *onnx.Node {
			return &onnx.Node{Domain: moe.Domain, OpType: moe.GradientOpType, Attributes: config.Encode(), Outputs: names}
		}
		all := slices.Clone(inputs)
		all[moe.GradientY], all[moe.GradientAuxLoss], all[moe.GradientZLoss] = whole.by[moe.OutputY], whole.by[moe.OutputAuxLoss], whole.by[moe.OutputZLoss]
		all[moe.GradientExpertScores], all[moe.GradientRouterLogits] = whole.by[moe.OutputExpertScores], whole.by[moe.OutputRouterLogits]
		run, out := bindNode(t, d, n(), all)
		if err := run(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out[slot].Data, whole.gradients[slot].Data) {
			t.Errorf("the gradient by %s alone differs", moe.InputNames[slot])
		}
		run, out = bindNode(t, d, n(), inputs)
		if err := run(); err != nil {
			t.Fatal(err)
		}
		wantNear(t, moe.InputNames[slot], out[slot], make([]float64, out[slot].Len()), 0)
	}
}

// TestFMoEGradientPyTorch compares gradients with those that PyTorch computed,
// see testdata/fmoegradient.py.
func TestFMoEGradientPyTorch(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "fmoegradient.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, Gate        string
		TopK              int
		Activation        moe.Activation
		ByY               []float64
		Shapes            map[string][]int
		Inputs, Gradients map[string][]float64
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			config := moe.DefaultConfig(c.Gate)
			config.TopK, config.Activation, config.CapacityEval = c.TopK, c.Activation, moe.Unlimited
			in := make([]*tensor.Tensor, moe.InputCount)
			for slot, name := range moe.InputNames {
				if x, ok := c.Inputs[name]; ok {
					in[slot] = tensor.FromSlice(x, c.Shapes[name]...)
				}
			}
			r := bindTraining(t, 2, config, in)
			for _, by := range r.by {
				if by != nil {
					clear(by.Data)
				}
			}
			copy(tensor.Of[float64](r.by[moe.OutputY]), c.ByY)
			tensor.Of[float64](r.by[moe.OutputAuxLoss])[0] = 3
			r.run(t)
			for slot, name := range moe.InputNames[:moe.GradientCount] {
				if want, ok := c.Gradients[name]; ok {
					wantNear(t, name, r.gradients[slot], want, 1e-12)
				}
			}
		})
	}
}
