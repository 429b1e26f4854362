package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// runNode runs a node of fmoe's own on tensors.
func runNode(t *testing.T, threads int, opType string, in, out []*tensor.Tensor) {
	t.Helper()
	d := New(device.Options{Threads: threads})
	defer d.Close()
	names := slices.Repeat([]string{"x"}, len(in))
	n, err := op.Resolve(&onnx.Node{Domain: moe.Domain, OpType: opType, Inputs: names, Outputs: names[:len(out)]}, 1)
	if err != nil {
		t.Fatal(err)
	}
	k, err := d.Compile(n, make([]*tensor.Tensor, len(in)))
	if err != nil {
		t.Fatal(err)
	}
	run, err := k.Bind(&device.Call{In: in, Out: out, Scratch: &device.Scratch{}})
	if err == nil {
		err = run()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Sums of squares are those of float64 arithmetic, whatever the lengths and the
// number of threads.
func TestSumOfSquares(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var in []*tensor.Tensor
	var want []float64
	for _, n := range []int{0, 1, 1000, squaresPiece + 1, squaresGrain, 2*squaresGrain + 77} {
		x, sum := make([]float32, n), 0.0
		for i := range x {
			x[i] = float32(r.NormFloat64())
			sum += float64(x[i]) * float64(x[i])
		}
		in, want = append(in, tensor.FromSlice(x, n)), append(want, sum)
	}
	got := tensor.New(onnx.Float32, len(in))
	runNode(t, 1, "SumOfSquares", in, []*tensor.Tensor{got})
	for i, x := range tensor.Of[float32](got) {
		if math.Abs(float64(x)-want[i]) > 1e-6*want[i] {
			t.Errorf("sum %d is %v, want %v", i, x, want[i])
		}
	}
	again := tensor.New(onnx.Float32, len(in))
	runNode(t, 3, "SumOfSquares", in, []*tensor.Tensor{again})
	if string(got.Data) != string(again.Data) {
		t.Errorf("%v with three threads, %v with one", again, got)
	}
}

// An update that is not to be applied leaves everything as it was, even where
// the gradient is not a number.
func TestAdamUpdateNotApplied(t *testing.T) {
	in := make([]*tensor.Tensor, op.AdamInputs)
	for i := range in {
		in[i] = tensor.FromSlice([]float32{float32(i) + 0.5}, 1)
	}
	in[op.AdamGradient] = tensor.FromSlice([]float32{float32(math.NaN())}, 1)
	for _, apply := range []bool{false, true} {
		in[op.AdamApply] = tensor.FromSlice([]bool{apply}, 1)
		out := []*tensor.Tensor{tensor.New(onnx.Float32, 1), tensor.New(onnx.Float32, 1), tensor.New(onnx.Float32, 1)}
		runNode(t, 1, "AdamUpdate", in, out)
		for i, from := range []int{op.AdamWeight, op.AdamFirst, op.AdamSecond} {
			if kept := string(out[i].Data) == string(in[from].Data); kept == apply {
				t.Errorf("apply %v: output %d is %v", apply, i, tensor.Of[float32](out[i]))
			}
		}
	}
}
