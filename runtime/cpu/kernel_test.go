package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// compute runs one node, its inputs all constants or all not, as a runtime
// does: inference, compilation, binding, and the computation several times, all
// but the first without allocating.
func compute(t *testing.T, threads int, constant bool, n *onnx.Node, opset int64, in ...*tensor.Tensor) []*tensor.Tensor {
	t.Helper()
	d := New(device.Options{Threads: threads})
	defer d.Close()
	for i, x := range in {
		name := ""
		if x != nil {
			name = fmt.Sprint("in", i)
		}
		n.Inputs = append(n.Inputs[:i:i], name)
	}
	node, err := op.Resolve(n, opset)
	if err != nil {
		t.Fatal(err)
	}
	facts, constants := make([]op.Fact, len(in)), make([]*tensor.Tensor, len(in))
	for i, x := range in {
		if x != nil {
			facts[i] = op.FactOf(x)
		}
		if constant {
			constants[i] = x
		}
	}
	outputs, err := op.Infer(node, facts, &op.Symbols{})
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := d.Compile(node, constants)
	if err != nil {
		t.Fatal(err)
	}
	call := &device.Call{In: in, Out: make([]*tensor.Tensor, len(outputs)), Scratch: &device.Scratch{}}
	for i := range outputs {
		if n.Outputs[i] == "" {
			continue
		}
		if !outputs[i].Concrete() {
			t.Fatalf("output %d is not known: %v", i, outputs[i])
		}
		call.Out[i] = tensor.New(outputs[i].Type, outputs[i].Ints()...)
		for j := range call.Out[i].Data {
			call.Out[i].Data[j] = 0x7f // not to be relied on
		}
	}
	run, err := kernel.Bind(call)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	// A thread that had nothing to do before may still take memory of its own.
	allocations := 1.0
	for try := 0; try < 4 && allocations != 0; try++ {
		allocations = testing.AllocsPerRun(5, func() {
			if err := run(); err != nil {
				t.Error(err)
			}
		})
	}
	if allocations != 0 {
		t.Errorf("a run makes %v allocations", allocations)
	}
	return call.Out
}

// random makes a tensor of normally distributed elements.
func random[T float32 | float64](seed uint64, shape ...int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(seed, 7))
	x := make([]T, tensor.Count(shape))
	for i := range x {
		x[i] = T(r.NormFloat64())
	}
	t := tensor.FromSlice(x)
	t.Shape = append([]int{}, shape...)
	return t
}

// floats returns the elements of a tensor as float64.
func floats(t *tensor.Tensor) []float64 {
	wide := tensor.New(onnx.Float64, t.Shape...)
	tensor.ConvertFloat(wide, t)
	return tensor.Of[float64](wide)
}

// wantNear fails where an element differs from the wanted one by more than
// the tolerance, relative to the largest wanted element.
func wantNear(t *testing.T, what string, got *tensor.Tensor, want []float64, tolerance float64) {
	t.Helper()
	if got.Len() != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, got.Len(), len(want))
	}
	largest := 1.0
	for _, x := range want {
		largest = max(largest, math.Abs(x))
	}
	for i, x := range floats(got) {
		if d := math.Abs(x - want[i]); !(d <= tolerance*largest) {
			t.Fatalf("%s: element %d is %v, want %v", what, i, x, want[i])
		}
	}
}
