package cpu

import (
	"bytes"
	"math"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestRandomDistributions compares mean and standard deviation of many numbers
// with the distribution's.
func TestRandomDistributions(t *testing.T) {
	const n = 1 << 18
	seed := onnx.FloatAttribute("seed", 5)
	shape := onnx.IntsAttribute("shape", 512, 512)
	probabilities := tensor.New(onnx.Float32, 512, 512)
	for i := range tensor.Of[float32](probabilities) {
		tensor.Of[float32](probabilities)[i] = 0.25
	}
	for _, c := range []struct {
		node            *onnx.Node
		in              []*tensor.Tensor
		mean, deviation float64
	}{
		{nodeOf("RandomNormal", shape, seed), nil, 0, 1},
		{nodeOf("RandomNormal", shape, seed, onnx.FloatAttribute("mean", 3), onnx.FloatAttribute("scale", 0.5)), nil, 3, 0.5},
		{nodeOf("RandomUniform", shape, seed, onnx.FloatAttribute("low", -1), onnx.FloatAttribute("high", 3)), nil, 1, 4 / math.Sqrt(12)},
		{nodeOf("RandomNormalLike", seed), []*tensor.Tensor{probabilities}, 0, 1},
		{nodeOf("Bernoulli", seed), []*tensor.Tensor{probabilities}, 0.25, math.Sqrt(0.25 * 0.75)},
	} {
		out := compute(t, 2, false, c.node, 22, c.in...)[0]
		sum, squares := 0.0, 0.0
		for _, x := range floats(out) {
			sum += x
			squares += x * x
		}
		mean := sum / n
		deviation := math.Sqrt(squares/n - mean*mean)
		// Five standard errors.
		if limit := 5 * c.deviation / math.Sqrt(n); math.Abs(mean-c.mean) > limit || math.Abs(deviation-c.deviation) > limit {
			t.Errorf("%s: mean %v and deviation %v, want %v and %v", c.node.OpType, mean, deviation, c.mean, c.deviation)
		}
	}
}

// TestDropout checks that training keeps the right share of elements and their
// mean, that runs differ from one another and a second kernel with the same
// seed repeats them, whatever the number of threads.
func TestDropout(t *testing.T) {
	const n, ratio = 1 << 18, 0.25
	x := tensor.New(onnx.Float32, n)
	for i := range tensor.Of[float32](x) {
		tensor.Of[float32](x)[i] = float32(i%7) + 1
	}
	twoRuns := func(threads int) (outputs, masks [2]*tensor.Tensor) {
		d := New(device.Options{Threads: threads})
		defer d.Close()
		node, err := op.Resolve(&onnx.Node{OpType: "Dropout", Inputs: []string{"x", "ratio", "training"}, Outputs: []string{"y", "mask"},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("seed", 1)}}, 22)
		if err != nil {
			t.Fatal(err)
		}
		kernel, err := d.Compile(node, make([]*tensor.Tensor, 3))
		if err != nil {
			t.Fatal(err)
		}
		call := &device.Call{In: []*tensor.Tensor{x, tensor.Scalar[float32](ratio), tensor.Scalar(true)},
			Out: []*tensor.Tensor{tensor.New(onnx.Float32, n), tensor.New(onnx.Bool, n)}, Scratch: &device.Scratch{}}
		run, err := kernel.Bind(call)
		if err != nil {
			t.Fatal(err)
		}
		for i := range outputs {
			if err := run(); err != nil {
				t.Fatal(err)
			}
			outputs[i], masks[i] = call.Out[0].Clone(), call.Out[1].Clone()
		}
		return outputs, masks
	}
	outputs, masks := twoRuns(1)
	kept := 0
	for i, k := range tensor.Of[bool](masks[0]) {
		want := float32(0)
		if k {
			kept++
			want = tensor.Of[float32](x)[i] / (1 - ratio)
		}
		if got := tensor.Of[float32](outputs[0])[i]; math.Abs(float64(got-want)) > 1e-6 {
			t.Fatalf("element %d with mask %v is %v, want %v", i, k, got, want)
		}
	}
	if share := float64(kept) / n; math.Abs(share-(1-ratio)) > 0.005 {
		t.Errorf("%v of the elements were kept, want %v", share, 1-ratio)
	}
	if bytes.Equal(masks[0].Data, masks[1].Data) {
		t.Error("two runs dropped the same elements")
	}
	again, _ := twoRuns(3)
	for i := range outputs {
		if !bytes.Equal(again[i].Data, outputs[i].Data) {
			t.Errorf("run %d differs with another number of threads", i)
		}
	}
}
