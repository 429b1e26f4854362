package cpu

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func castTo(t onnx.DataType) *onnx.Node { return nodeOf("Cast", onnx.IntAttribute("to", int64(t))) }

func TestCast(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		name string
		in   *tensor.Tensor
		want *tensor.Tensor
	}{
		{"towards zero", tensor.FromSlice([]float32{1.9, -1.9, 0}), tensor.FromSlice([]int64{1, -1, 0})},
		{"higher bits dropped", tensor.FromSlice([]int16{200, -200, 256}), tensor.FromSlice([]int8{-56, 56, 0})},
		{"sign reread", tensor.FromSlice([]int64{-1}), tensor.FromSlice([]uint64{math.MaxUint64})},
		{"large unsigned", tensor.FromSlice([]uint64{math.MaxUint64}), tensor.FromSlice([]float32{0x1p64})},
		{"large float", tensor.FromSlice([]float64{0x1.8p63}), tensor.FromSlice([]uint64{3 << 62})},
		{"truth", tensor.FromSlice([]float64{0.1, 0, math.Copysign(0, -1), math.NaN()}), tensor.FromSlice([]bool{true, false, false, true})},
		{"from truth", tensor.FromSlice([]bool{true, false}), tensor.FromSlice([]float32{1, 0})},
		{"double rounding", tensor.FromSlice([]float64{1 + 0x1p-11 + 0x1p-40}), &tensor.Tensor{Type: onnx.Float16, Shape: []int{1}, Data: []byte{0x01, 0x3c}}},
		{"64 bits to 4", tensor.FromSlice([]int64{1<<60 + 5, -3}), &tensor.Tensor{Type: onnx.Int4, Shape: []int{2}, Data: []byte{0xd5}}},
		{"half to bfloat16", &tensor.Tensor{Type: onnx.Float16, Shape: []int{1}, Data: []byte{0, 0x3c}}, &tensor.Tensor{Type: onnx.BFloat16, Shape: []int{1}, Data: []byte{0x80, 0x3f}}},

		{"parse", tensor.FromStrings([]string{"3.14", "1e-5", " -INF", "inf", "+Inf", "1E400"}), tensor.FromSlice([]float64{3.14, 1e-5, -inf, inf, inf, inf})},
		{"parse integers", tensor.FromStrings([]string{"100.5", "-7", "9007199254740993"}), tensor.FromSlice([]int64{100, -7, 9007199254740993})},
		{"parse unsigned", tensor.FromStrings([]string{"18446744073709551615"}), tensor.FromSlice([]uint64{math.MaxUint64})},
		{"parse 4 bits", tensor.FromStrings([]string{"1", "2", "3", "4", "5", "6", "7", "-8", "-1"}), &tensor.Tensor{Type: onnx.Int4, Shape: []int{9}, Data: []byte{0x21, 0x43, 0x65, 0x87, 0x0f}}},
		{"format", tensor.FromSlice([]float32{0.1, 1e20, -3, float32(inf)}), tensor.FromStrings([]string{"0.1", "100000000000000000000", "-3", "INF"})},
		{"format integers", tensor.FromSlice([]int64{math.MinInt64}), tensor.FromStrings([]string{"-9223372036854775808"})},
		{"format 2 bits", &tensor.Tensor{Type: onnx.Int2, Shape: []int{3}, Data: []byte{0x39}}, tensor.FromStrings([]string{"1", "-2", "-1"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := castOnce(t, c.in, c.want.Type)
			if got.String() != c.want.String() || !slices.Equal(got.Data, c.want.Data) || !slices.Equal(got.Strings, c.want.Strings) {
				t.Errorf("got %v %v %q, want %v %v %q", got, got.Data, got.Strings, c.want, c.want.Data, c.want.Strings)
			}
		})
	}
	for _, s := range []string{"Hello World!", "", "0x", "1,5"} {
		if _, err := tryCast(t, tensor.FromStrings([]string{"1", s}), onnx.Float32); err == nil || !strings.Contains(err.Error(), "element 1") {
			t.Errorf("cast of %q: error is %v, want one that names the element", s, err)
		}
	}
	if _, err := tryCast(t, tensor.FromStrings([]string{"NaN"}), onnx.Int32); err == nil {
		t.Error("NaN became an integer")
	}
}

func castOnce(t *testing.T, in *tensor.Tensor, to onnx.DataType) *tensor.Tensor {
	t.Helper()
	out, err := tryCast(t, in, to)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryCast(t *testing.T, in *tensor.Tensor, to onnx.DataType) (*tensor.Tensor, error) {
	t.Helper()
	d := New(device.Options{Threads: 2})
	defer d.Close()
	n := castTo(to)
	n.Inputs = []string{"in"}
	node, err := op.Resolve(n, 25)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := d.Compile(node, []*tensor.Tensor{nil})
	if err != nil {
		t.Fatal(err)
	}
	out := tensor.New(to, in.Shape...)
	for i := range out.Data {
		out.Data[i] = 0xaa // what reused memory may hold
	}
	run, err := kernel.Bind(&device.Call{In: []*tensor.Tensor{in}, Out: []*tensor.Tensor{out}, Scratch: &device.Scratch{}})
	if err != nil {
		t.Fatal(err)
	}
	return out, run()
}

// TestCastInPieces casts more elements than one piece has, between packed
// types among others, with any number of threads.
func TestCastInPieces(t *testing.T) {
	const n = 30001
	bytes := tensor.New(onnx.Uint8, n)
	for i := range bytes.Data {
		bytes.Data[i] = byte(i*7) & 3
	}
	for _, via := range []onnx.DataType{onnx.Uint2, onnx.Uint4, onnx.Int4, onnx.Float4E2M1, onnx.Float8E4M3FN, onnx.Float16, onnx.Int64, onnx.Float64} {
		for _, threads := range []int{1, 4} {
			there := compute(t, threads, false, castTo(via), 25, bytes)[0]
			back := compute(t, threads, false, castTo(onnx.Uint8), 25, there)[0]
			if !slices.Equal(back.Data, bytes.Data) {
				t.Errorf("uint8 is another after %s with %d threads", via, threads)
			}
		}
	}
}
