package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// bound returns the function that computes a node of opset 28 on one thread.
// Outputs of open shape are left to it.
func bound(t testing.TB, n *onnx.Node, in ...*tensor.Tensor) func() error {
	run, _ := boundOutputs(t, n, in...)
	return run
}

func boundOutputs(t testing.TB, n *onnx.Node, in ...*tensor.Tensor) (func() error, []*tensor.Tensor) {
	t.Helper()
	n.Inputs = nil
	facts := make([]op.Fact, len(in))
	for i := range in {
		n.Inputs = append(n.Inputs, string(rune('a'+i)))
	}
	node, err := op.Resolve(n, 28)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range in {
		if facts[i] = op.FactOf(x); !slices.Contains(node.Operator.Parameters, i) {
			facts[i].Value = nil
		}
	}
	outputs, err := op.Infer(node, facts, &op.Symbols{})
	if err != nil {
		t.Fatal(err)
	}
	d := New(device.Options{Threads: 1})
	t.Cleanup(func() { d.Close() })
	kernel, err := d.Compile(node, make([]*tensor.Tensor, len(in)))
	if err != nil {
		t.Fatal(err)
	}
	call := &device.Call{In: in, Out: make([]*tensor.Tensor, len(outputs)), Scratch: &device.Scratch{}}
	for i, f := range outputs {
		switch {
		case n.Outputs[i] == "":
		case f.Concrete():
			call.Out[i] = tensor.New(f.Type, f.Ints()...)
		default:
			call.Out[i] = &tensor.Tensor{Type: f.Type}
		}
	}
	run, err := kernel.Bind(call)
	if err != nil {
		t.Fatal(err)
	}
	return run, call.Out
}

// TestTopK compares with a stable sort, over lines with many equal elements
// and some NaN, along every axis.
func TestTopK(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		shape := []int{1 + r.IntN(3), 1 + r.IntN(30), 1 + r.IntN(3)}
		axis, largest := r.IntN(3), r.IntN(2)
		k := r.IntN(shape[axis] + 1)
		x := make([]float32, tensor.Count(shape))
		for i := range x {
			if x[i] = float32(r.IntN(6)); x[i] == 5 {
				x[i] = float32(math.NaN())
			}
		}
		n := &onnx.Node{OpType: "TopK", Outputs: []string{"values", "indices"},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", int64(axis)), onnx.IntAttribute("largest", int64(largest))}}
		out := compute(t, 1+r.IntN(3), false, n, 24, tensor.FromSlice(x, shape...), tensor.FromSlice([]int64{int64(k)}))
		values, chosen := tensor.Of[float32](out[0]), tensor.Of[int64](out[1])

		outer, length, inner := splitAt(shape, axis)
		for line := range outer * inner {
			at := func(i int) float32 { return x[line/inner*length*inner+line%inner+i*inner] }
			order := make([]int, length)
			for i := range order {
				order[i] = i
			}
			slices.SortStableFunc(order, func(a, b int) int {
				c := compareNaNLast(at(a), at(b))
				if largest == 1 {
					c = -c
				}
				return c
			})
			for j := range k {
				got := line/inner*k*inner + line%inner + j*inner
				if chosen[got] != int64(order[j]) || compareNaNLast(values[got], at(order[j])) != 0 {
					t.Fatalf("shape %v axis %d k %d largest %d: line %d, element %d is %v at %d, want index %d",
						shape, axis, k, largest, line, j, values[got], chosen[got], order[j])
				}
			}
		}
	}
}

func TestTopKOneOutput(t *testing.T) {
	x, k := tensor.FromSlice([]int64{3, 9, 9, 1}), tensor.FromSlice([]int64{2})
	for _, names := range [][]string{{"values", ""}, {"", "indices"}, {"values"}} {
		run, out := boundOutputs(t, &onnx.Node{OpType: "TopK", Outputs: names}, x, k)
		if err := run(); err != nil {
			t.Fatal(err)
		}
		if names[0] != "" && !slices.Equal(tensor.Of[int64](out[0]), []int64{9, 9}) {
			t.Errorf("outputs %q: values are %v", names, tensor.Of[int64](out[0]))
		}
		if names[0] == "" && !slices.Equal(tensor.Of[int64](out[1]), []int64{1, 2}) {
			t.Errorf("outputs %q: indices are %v", names, tensor.Of[int64](out[1]))
		}
	}
}

func TestArgMax(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		op   string
		last int64
		x    []float32
		want int64
	}{
		{"ArgMax", 0, []float32{1, 3, 3, 2}, 1},
		{"ArgMax", 1, []float32{1, 3, 3, 2}, 2},
		{"ArgMin", 0, []float32{2, 1, 3, 1}, 1},
		{"ArgMin", 1, []float32{2, 1, 3, 1}, 3},
		{"ArgMax", 0, []float32{1, nan, 3, nan}, 1},
		{"ArgMin", 0, []float32{1, nan, -3, nan}, 1},
		{"ArgMax", 1, []float32{1, nan, 3, nan}, 3},
	} {
		n := &onnx.Node{OpType: c.op, Attributes: []*onnx.Attribute{onnx.IntAttribute("select_last_index", c.last)}, Outputs: []string{"y"}}
		if got := tensor.Of[int64](compute(t, 1, false, n, 13, tensor.FromSlice(c.x))[0])[0]; got != c.want {
			t.Errorf("%s of %v with select_last_index %d is %d, want %d", c.op, c.x, c.last, got, c.want)
		}
	}
}

// TestOpenShapes: outputs whose shapes depend on content, twice with one
// binding.
func TestOpenShapes(t *testing.T) {
	condition := tensor.FromSlice([]bool{true, false, true})
	data := tensor.FromSlice([]float32{0, 1, 2, 3, 0, 5}, 2, 3)
	run, out := boundOutputs(t, &onnx.Node{OpType: "Compress", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", 1)}, Outputs: []string{"y"}}, data, condition)
	check := func(step string, err error, got *tensor.Tensor, shape []int, want ...float32) {
		t.Helper()
		if err != nil || !slices.Equal(got.Shape, shape) || !slices.Equal(tensor.Of[float32](got), want) {
			t.Errorf("%s: got %v %v (error %v), want %v %v", step, got.Shape, tensor.Of[float32](got), err, shape, want)
		}
	}
	check("two columns", run(), out[0], []int{2, 2}, 0, 2, 3, 5)
	copy(condition.Data, []byte{0, 1, 0})
	check("one column", run(), out[0], []int{2, 1}, 1, 0)

	run, out = boundOutputs(t, &onnx.Node{OpType: "NonZero", Outputs: []string{"y"}}, data)
	if err := run(); err != nil || !slices.Equal(out[0].Shape, []int{2, 4}) ||
		!slices.Equal(tensor.Of[int64](out[0]), []int64{0, 0, 1, 1, 1, 2, 0, 2}) {
		t.Errorf("NonZero is %v %v (error %v)", out[0].Shape, tensor.Of[int64](out[0]), err)
	}
	run, out = boundOutputs(t, &onnx.Node{OpType: "NonZero", Outputs: []string{"y"}}, tensor.Scalar(float32(5)))
	if err := run(); err != nil || !slices.Equal(out[0].Shape, []int{0, 1}) {
		t.Errorf("NonZero of a scalar is %v (error %v)", out[0].Shape, err)
	}

	words := tensor.FromStrings([]string{"b", "a", "b", "c"})
	run, out = boundOutputs(t, &onnx.Node{OpType: "Unique", Attributes: []*onnx.Attribute{onnx.IntAttribute("sorted", 0)},
		Outputs: []string{"y", "indices", "inverse", "counts"}}, words)
	if err := run(); err != nil || !slices.Equal(out[0].Strings, []string{"b", "a", "c"}) || !slices.Equal(tensor.Of[int64](out[1]), []int64{0, 1, 3}) ||
		!slices.Equal(tensor.Of[int64](out[2]), []int64{0, 1, 0, 2}) || !slices.Equal(tensor.Of[int64](out[3]), []int64{2, 1, 1}) {
		t.Errorf("Unique is %v %v %v %v (error %v)", out[0].Strings, tensor.Of[int64](out[1]), tensor.Of[int64](out[2]), tensor.Of[int64](out[3]), err)
	}
}

// TestIndexErrors: indices outside their axis are errors, never panics.
func TestIndexErrors(t *testing.T) {
	float := func(shape ...int) *tensor.Tensor { return tensor.New(onnx.Float32, shape...) }
	list := func(shape []int, v ...int64) *tensor.Tensor { return tensor.FromSlice(v, shape...) }
	for _, c := range []struct {
		op   string
		in   []*tensor.Tensor
		want string
	}{
		{"Gather", []*tensor.Tensor{float(3), list([]int{2}, 0, 3)}, "index 3 (element 1 of the indices) is outside an axis of length 3"},
		{"Gather", []*tensor.Tensor{float(3), list([]int{1}, math.MinInt64)}, "outside an axis of length 3"},
		{"Gather", []*tensor.Tensor{float(0, 2), list([]int{1}, 0)}, "outside an axis of length 0"},
		{"GatherElements", []*tensor.Tensor{float(3), list([]int{2}, 0, -4)}, "index -4"},
		{"GatherND", []*tensor.Tensor{float(3, 2), list([]int{1, 2}, 0, 2)}, "index 2"},
		{"ScatterElements", []*tensor.Tensor{float(3), list([]int{1}, 5), float(1)}, "index 5"},
		{"ScatterND", []*tensor.Tensor{float(3, 2), list([]int{1, 1}, 3), float(1, 2)}, "index 3"},
		{"TensorScatter", []*tensor.Tensor{float(1, 4, 2), float(1, 2, 2), list([]int{1}, 3)}, "do not fit a cache of length 4"},
		{"TensorScatter", []*tensor.Tensor{float(1, 4, 2), float(1, 2, 2), list([]int{1}, math.MaxInt64)}, "do not fit"},
		{"ReverseSequence", []*tensor.Tensor{float(3, 1), list([]int{1}, 4)}, "has the length 4"},
		{"Compress", []*tensor.Tensor{float(2), tensor.FromSlice([]bool{false, false, true})}, "element 2 of an axis of length 2"},
	} {
		run := bound(t, &onnx.Node{OpType: c.op, Outputs: []string{"y"}}, c.in...)
		for range 2 { // an error leaves nothing behind
			if err := run(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error is %v, want one with %q", c.op, err, c.want)
			}
		}
	}
}

// TestScatterDuplicates: updates of one place take effect in their order, with
// any number of threads.
func TestScatterDuplicates(t *testing.T) {
	const rows, width, updates = 7, 5000, 40
	r := rand.New(rand.NewPCG(8, 9))
	at := make([]int64, updates)
	for i := range at {
		at[i] = int64(r.IntN(rows))
	}
	data, changes := random[float32](1, rows, width), random[float32](2, updates, width)
	for _, reduction := range []string{"none", "add", "mul", "max", "min"} {
		want := slices.Clone(tensor.Of[float32](data))
		for i, row := range at {
			for j := range width {
				old, change := &want[int(row)*width+j], tensor.Of[float32](changes)[i*width+j]
				switch reduction {
				case "none":
					*old = change
				case "add":
					*old += change
				case "mul":
					*old *= change
				case "max":
					*old = max(*old, change)
				case "min":
					*old = min(*old, change)
				}
			}
		}
		for threads := 1; threads <= 4; threads++ {
			n := &onnx.Node{OpType: "ScatterND", Attributes: []*onnx.Attribute{onnx.StringAttribute("reduction", reduction)}, Outputs: []string{"y"}}
			got := compute(t, threads, false, n, 18, data, tensor.FromSlice(at, updates, 1), changes)[0]
			if !slices.Equal(tensor.Of[float32](got), want) {
				t.Errorf("reduction %s with %d threads differs", reduction, threads)
			}
		}
	}
}

// TestCumulative: a reversed running sum is that of the reversed line, and an
// exclusive one is shifted.
func TestCumulative(t *testing.T) {
	for _, c := range []struct {
		op                 string
		exclusive, reverse int64
		want               []int32
	}{
		{"CumSum", 0, 0, []int32{1, 2, 4, 6, 9, 12}},
		{"CumSum", 1, 0, []int32{0, 0, 1, 2, 4, 6}},
		{"CumSum", 0, 1, []int32{9, 12, 8, 10, 5, 6}},
		{"CumSum", 1, 1, []int32{8, 10, 5, 6, 0, 0}},
		{"CumProd", 0, 0, []int32{1, 2, 3, 8, 15, 48}},
		{"CumProd", 1, 1, []int32{15, 24, 5, 6, 1, 1}},
	} {
		n := &onnx.Node{OpType: c.op, Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("exclusive", c.exclusive), onnx.IntAttribute("reverse", c.reverse)}}
		x := tensor.FromSlice([]int32{1, 2, 3, 4, 5, 6}, 3, 2)
		if got := tensor.Of[int32](compute(t, 2, false, n, 26, x, tensor.Scalar(int64(-2)))[0]); !slices.Equal(got, c.want) {
			t.Errorf("%s exclusive %d reverse %d is %v, want %v", c.op, c.exclusive, c.reverse, got, c.want)
		}
	}
}

func BenchmarkTopK(b *testing.B) {
	x := random[float32](1, 64, 8192)
	for _, k := range []int64{2, 50} {
		b.Run(fmt.Sprint("k=", k), func(b *testing.B) {
			run := bound(b, &onnx.Node{OpType: "TopK", Outputs: []string{"values", "indices"}}, x, tensor.FromSlice([]int64{k}))
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
