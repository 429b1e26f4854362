package runtime_test

import (
	"context"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestRemoteONNXCases runs ONNX's operator cases partly on a device with memory
// of its own.
func TestRemoteONNXCases(t *testing.T) {
	for _, c := range devicetest.ONNXCases(t) {
		if devicetest.Exception(c) != "" {
			continue
		}
		if outcome, err := devicetest.Run(c, runtime.Options{Device: devicetest.Faraway}); outcome == devicetest.Failed {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

// TestRemoteSamples expects of the sample models the bits that the CPU gives,
// whether its operators are fused or not, several times in memory that is kept,
// so that the device plays what it has recorded, and for another shape.
func TestRemoteSamples(t *testing.T) {
	for _, sample := range []string{"bert", "gpt-megatron", "t5"} {
		t.Run(sample, func(t *testing.T) {
			path := "../models/" + sample + "/model.onnx"
			want, err := runtime.Open(path, runtime.Options{NoFusion: true})
			if err != nil {
				t.Skip(err)
			}
			defer want.Close()
			got, err := runtime.Open(path, runtime.Options{Device: devicetest.Faraway, NoFusion: true})
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			runner := got.NewRunner()
			for _, length := range []int{4, 4, 4, 9, 4} {
				inputs := sampleInputs(t, want, length)
				expected, err := want.NewRunner().Run(context.Background(), inputs)
				if err != nil {
					t.Fatal(err)
				}
				out, err := runner.Run(context.Background(), inputs)
				if err != nil {
					t.Fatal(err)
				}
				for i := range expected {
					if string(out[i].Data) != string(expected[i].Data) {
						t.Errorf("output %d of length %d differs", i, length)
					}
				}
			}
			if counts, ok := got.Counts(); !ok || counts.Graphs == 0 {
				t.Errorf("nothing is recorded: %+v", counts)
			}
		})
	}
}

// sampleInputs makes ones of the shapes that a model declares, with symbols
// for the batch 2 and others for the given length.
func sampleInputs(t *testing.T, s *runtime.Session, length int) (list []*tensor.Tensor) {
	for _, v := range s.Inputs() {
		var shape []int
		for i, d := range v.Type.Shape.Dims {
			switch {
			case d.Known:
				shape = append(shape, int(d.Value))
			case i == 0:
				shape = append(shape, 2)
			default:
				shape = append(shape, length)
			}
		}
		x := tensor.New(v.Type.ElemType, shape...)
		if v.Type.ElemType == onnx.Int64 {
			for i := range tensor.Of[int64](x) {
				tensor.Of[int64](x)[i] = int64(i % 2)
			}
		}
		list = append(list, x)
	}
	return list
}

// TestResident changes a weight in place, in the device's memory, as optimizers
// do, and lets a second session read it there. A steady run waits for nothing
// and takes no memory.
func TestResident(t *testing.T) {
	for _, device := range []string{"cpu", devicetest.Faraway} {
		t.Run(device, func(t *testing.T) {
			update, err := runtime.New(twoNodes("Sub", "Div"), runtime.Options{Device: device, NoFusion: true, Resident: []string{"a", "b", "y"}})
			if err != nil {
				t.Fatal(err)
			}
			defer update.Close()
			reader, err := runtime.New(twoNodes("Add", "Add"), runtime.Options{Device: device, Resident: []string{"a"}, Beside: update})
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			var list []*tensor.Tensor
			for _, x := range [][]float32{{1, 2, 3}, {0.5, 0.5, 1}} {
				r, err := update.NewTensor(onnx.Float32, 3)
				if err == nil {
					err = update.Upload(r, tensor.FromSlice(x, 3))
				}
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, r)
			}
			runner, ctx := update.NewRunner(), context.Background()
			defer runner.Close()
			want := []float32{1, 2, 3}
			before, counted := update.Counts()
			for step := range 5 {
				if err := runner.RunInto(ctx, list, list[:1]); err != nil { // a = (a − b) / b
					t.Fatal(err)
				}
				for i, b := range []float32{0.5, 0.5, 1} {
					want[i] = (want[i] - b) / b
				}
				now, _ := update.Counts()
				if d := now.Minus(before); counted && step > 0 && (d.Waits != 0 || d.Allocations != 0) {
					t.Errorf("step %d: %+v", step, d)
				}
				before = now
			}
			got := tensor.New(onnx.Float32, 3)
			if err := update.Download(got, list[0]); err != nil {
				t.Fatal(err)
			}
			wait, err := update.Fetch(list[0])
			if err != nil {
				t.Fatal(err)
			}
			fetched, err := wait()
			if err != nil {
				t.Fatal(err)
			}
			sums, err := reader.Run(ctx, map[string]*tensor.Tensor{"a": list[0], "b": tensor.FromSlice([]float32{1, 1, 1}, 3)})
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range want {
				if g, f, s := tensor.Of[float32](got)[i], tensor.Of[float32](fetched)[i], tensor.Of[float32](sums["y"])[i]; g != x || f != x || s != x+2 {
					t.Errorf("element %d is %v, %v, and with 2 more %v; want %v", i, g, f, s, x)
				}
			}
		})
	}
}

// twoNodes computes y = second(first(a, b), b).
func twoNodes(first, second string) *onnx.Model {
	value := func(name string) *onnx.ValueInfo {
		return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32, Shape: &onnx.Shape{Dims: []onnx.Dim{{Param: "n"}}}}}
	}
	return &onnx.Model{IRVersion: 10, OpsetImports: []onnx.OpsetImport{{Version: 20}}, Graph: &onnx.Graph{Name: "model",
		Inputs: []*onnx.ValueInfo{value("a"), value("b")}, Outputs: []*onnx.ValueInfo{value("y")},
		Nodes: []*onnx.Node{
			{Name: "first", OpType: first, Inputs: []string{"a", "b"}, Outputs: []string{"x"}},
			{Name: "second", OpType: second, Inputs: []string{"x", "b"}, Outputs: []string{"y"}},
		}}}
}
