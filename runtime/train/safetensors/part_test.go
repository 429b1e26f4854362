package safetensors_test

import (
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

func TestPart(t *testing.T) {
	whole := tensor.New(onnx.Float32, 3, 4, 5)
	x := tensor.Of[float32](whole)
	for i := range x {
		x[i] = float32(i)
	}
	for _, test := range []struct {
		name       string
		from, size []int
		runs       int
	}{
		{"whole", []int{0, 0, 0}, []int{3, 4, 5}, 1},
		{"experts", []int{1, 0, 0}, []int{2, 4, 5}, 1},
		{"rows of each", []int{0, 1, 0}, []int{3, 2, 5}, 3},
		{"columns of each", []int{0, 0, 3}, []int{3, 4, 2}, 12},
		{"within all axes", []int{1, 2, 1}, []int{2, 2, 3}, 4},
		{"one element", []int{2, 3, 4}, []int{1, 1, 1}, 1},
		{"nothing", []int{3, 0, 0}, []int{0, 4, 5}, 0},
	} {
		part := safetensors.Named{Name: "x", Tensor: tensor.New(onnx.Float32, test.size...), Part: &safetensors.Part{Shape: whole.Shape, From: test.from}}
		if err := part.TakeFrom(whole); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var want []float32
		for i := range test.size[0] {
			for j := range test.size[1] {
				for k := range test.size[2] {
					want = append(want, x[((i+test.from[0])*4+j+test.from[1])*5+k+test.from[2]])
				}
			}
		}
		if got := tensor.Of[float32](part.Tensor); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", test.name, got, want)
		}
		runs := 0
		if err := part.Ranges(func(_, _ int64, _ int) error { runs++; return nil }); err != nil || runs != test.runs {
			t.Errorf("%s: %d runs, error %v; want %d", test.name, runs, err, test.runs)
		}
	}
	beyond := safetensors.Named{Name: "x", Tensor: tensor.New(onnx.Float32, 2, 4, 5), Part: &safetensors.Part{Shape: whole.Shape, From: []int{2, 0, 0}}}
	if err := beyond.TakeFrom(whole); err == nil {
		t.Error("a part beyond the whole is taken")
	}
}
