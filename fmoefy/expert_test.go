package fmoefy

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// written returns the elements that a tensor writes.
func written(t *testing.T, x *onnx.Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := x.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Fatalf("WriteTo says %d bytes and wrote %d", n, b.Len())
	}
	return b.Bytes()
}

// ramp returns a tensor with elements 0, 1, 2 …
func ramp(kind onnx.DataType, dims ...int64) *onnx.Tensor {
	n, _ := onnx.ElementCount(dims)
	values := make([]float64, n)
	for i := range values {
		values[i] = float64(i)
	}
	return onnx.NewTensor("dense", kind, dims, narrow(kind, values))
}

func TestCopies(t *testing.T) {
	for _, kind := range []onnx.DataType{onnx.Float16, onnx.Float32, onnx.Float64} {
		dense := newConstant(ramp(kind, 2, 3))
		if err := dense.transpose(nil); err != nil {
			t.Fatal(err)
		}
		x := copies(dense.times(2), 2).whole("e")
		if !slices.Equal(x.Dims, []int64{2, 3, 2}) {
			t.Errorf("dims %v", x.Dims)
		}
		want := []float64{0, 6, 2, 8, 4, 10, 0, 6, 2, 8, 4, 10}
		if got := widen(kind, written(t, x)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", kind, got, want)
		}
	}
}

// TestNoise: the noise has the standard deviation that was asked for, relative
// to the tensor's, over more elements than are converted at a time, and no
// two experts have the same.
func TestNoise(t *testing.T) {
	dense := newConstant(ramp(onnx.Float64, 2, chunk/2+100))
	std := deviation(onnx.Float64, written(t, dense.tensor))
	if want := float64(dense.elements()) / math.Sqrt(12); math.Abs(std-want) > 1e-3*want {
		t.Fatalf("the standard deviation of a ramp is %g, want %g", std, want)
	}
	x := widen(onnx.Float64, written(t, noisyCopies(dense, 3, 0.1, newNormals(1, "e")).whole("e")))
	n := int(dense.elements())
	var noise [3][]float64
	for e := range noise {
		squares := 0.0
		for i, v := range x[e*n : (e+1)*n] {
			noise[e] = append(noise[e], v-float64(i))
			squares += noise[e][i] * noise[e][i]
		}
		if got := math.Sqrt(squares / float64(n)); math.Abs(got-0.1*std) > 0.01*std {
			t.Errorf("expert %d: noise of standard deviation %g, want %g", e, got, 0.1*std)
		}
	}
	if slices.Equal(noise[0], noise[1]) || slices.Equal(noise[1], noise[2]) || noise[0][0] == noise[0][chunk] {
		t.Error("the noise repeats")
	}

	constant := newConstant(onnx.NewTensor("zeros", onnx.Float32, []int64{4}, make([]byte, 16)))
	if got := written(t, noisyCopies(constant, 2, 0.1, newNormals(1, "e")).whole("e")); !bytes.Equal(got, make([]byte, 32)) {
		t.Error("a tensor without deviation got noise")
	}
}

func TestGaussian(t *testing.T) {
	x := widen(onnx.Float32, written(t, gaussian(onnx.Float32, []int64{chunk + 5, 2}, 3, newNormals(1, "e")).whole("e")))
	squares := 0.0
	for _, v := range x {
		squares += v * v
	}
	if got := math.Sqrt(squares / float64(len(x))); math.Abs(got-3) > 0.05 {
		t.Errorf("standard deviation %g, want 3", got)
	}
	if x[0] == x[chunk] {
		t.Error("the numbers repeat")
	}
	if got := written(t, gaussian(onnx.Float16, []int64{3}, 0, normals{}).whole("e")); !bytes.Equal(got, make([]byte, 6)) {
		t.Errorf("standard deviation 0 gives %v", got)
	}
}

// TestViews compares strided views with plain indexing.
func TestViews(t *testing.T) {
	view := func(change func(c *constant) error) []float64 {
		c := newConstant(ramp(onnx.Float32, 150, 70))
		if err := change(c); err != nil {
			t.Fatal(err)
		}
		b, err := c.bytes()
		if err != nil {
			t.Fatal(err)
		}
		return widen(c.elementType(), b)
	}
	for i, v := range view(func(c *constant) error { return c.transpose([]int64{1, 0}) }) {
		if row, column := i/150, i%150; v != float64(column*70+row) {
			t.Fatalf("transposed: element %d is %g", i, v)
		}
	}
	rows := view(func(c *constant) error { *c = *c.part(part{start: 3, step: 2, count: 5}); return nil })
	if len(rows) != 5*70 || rows[0] != 3*70 || rows[70] != 5*70 {
		t.Errorf("part: %d elements, the first %g", len(rows), rows[0])
	}
	cast := view(func(c *constant) error {
		if err := c.cast(onnx.Float16); err != nil {
			return err
		}
		return c.cast(onnx.Float64)
	})
	if cast[4099] != 4100 { // half precision has even numbers here
		t.Errorf("cast to half precision and on: 4099 became %g", cast[4099])
	}
	c := newConstant(ramp(onnx.Float32, 2, 3))
	if c.transpose([]int64{0, 0}) == nil || c.transpose([]int64{0}) == nil || c.reshape([]int64{4}) == nil {
		t.Error("a wrong permutation or shape was accepted")
	}
	if v := newConstant(ramp(onnx.Float32, 1, 1, 4)).vector(4); v == nil || len(v.dims) != 1 {
		t.Error("[1, 1, 4] is no vector of 4")
	}
	if newConstant(ramp(onnx.Float32, 2, 4)).vector(4) != nil {
		t.Error("[2, 4] is a vector of 4")
	}
	repeated, err := newConstant(onnx.NewTensor("c", onnx.Float32, nil, narrow(onnx.Float32, []float64{7}))).vector(3).bytes()
	if err != nil || !slices.Equal(widen(onnx.Float32, repeated), []float64{7, 7, 7}) {
		t.Errorf("a scalar as a vector: %v %v", repeated, err)
	}
}
