package cpu

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// numbered makes a tensor whose element i is marked by the number i, as far as
// its width holds it.
func numbered(t onnx.DataType, shape ...int) *tensor.Tensor {
	x := tensor.New(t, shape...)
	for i := range x.Strings {
		x.Strings[i] = strconv.Itoa(i & 0xff)
	}
	width := t.Bits() / 8
	for i := 0; i < x.Len() && width > 0; i++ {
		copy(x.Data[i*width:(i+1)*width], []byte{byte(i), byte(i >> 8)})
	}
	return x
}

// numberOf returns the low byte of element i's mark, 0 where it is zero.
func numberOf(x *tensor.Tensor, i int) int {
	if x.Type == onnx.String {
		n, _ := strconv.Atoi(x.Strings[i])
		return n
	}
	return int(x.Data[i*x.Type.Bits()/8])
}

// TestMoves checks every operator that only moves elements against its
// definition, for every width of elements.
func TestMoves(t *testing.T) {
	list := func(v ...int64) *tensor.Tensor { return tensor.FromSlice(v) }
	intsAttribute, stringAttribute, intAttribute := onnx.IntsAttribute, onnx.StringAttribute, onnx.IntAttribute
	axis := func(v int64) *onnx.Attribute { return intAttribute("axis", v) }
	for _, c := range []struct {
		name   string
		op     string
		attrs  []*onnx.Attribute
		shape  []int
		params []*tensor.Tensor
		// from returns the place in the input of an output element, or nil
		// for a zero.
		from func(at []int) []int
	}{
		{"matrix", "Transpose", nil, []int{70, 91}, nil, func(at []int) []int { return []int{at[1], at[0]} }},
		{"keys", "Transpose", []*onnx.Attribute{intsAttribute("perm", 0, 2, 3, 1)}, []int{2, 37, 3, 40}, nil,
			func(at []int) []int { return []int{at[0], at[3], at[1], at[2]} }},
		{"heads", "Transpose", []*onnx.Attribute{intsAttribute("perm", 0, 2, 1, 3)}, []int{2, 5, 3, 8}, nil,
			func(at []int) []int { return []int{at[0], at[2], at[1], at[3]} }},
		{"rank 8", "Transpose", nil, []int{2, 3, 1, 2, 3, 2, 1, 5}, nil,
			func(at []int) []int { return []int{at[7], at[6], at[5], at[4], at[3], at[2], at[1], at[0]} }},
		{"scalar", "Transpose", nil, []int{}, nil, func(at []int) []int { return at }},
		{"no elements", "Transpose", nil, []int{3, 0}, nil, func(at []int) []int { return []int{at[1], at[0]} }},

		{"steps", "Slice", nil, []int{9, 10}, []*tensor.Tensor{list(8, 1), list(-100, 100), list(0, 1), list(-3, 4)},
			func(at []int) []int { return []int{8 - 3*at[0], 1 + 4*at[1]} }},
		{"rows", "Slice", nil, []int{9, 10, 4}, []*tensor.Tensor{list(-7), list(-2), list(0)},
			func(at []int) []int { return []int{2 + at[0], at[1], at[2]} }},

		{"new and old axes", "Expand", nil, []int{3, 1, 5}, []*tensor.Tensor{list(2, 1, 4, 5)},
			func(at []int) []int { return []int{at[1], 0, at[3]} }},
		{"last axis", "Expand", nil, []int{40, 1}, []*tensor.Tensor{list(40, 300)}, func(at []int) []int { return []int{at[0], 0} }},
		{"scalar", "Expand", nil, []int{}, []*tensor.Tensor{list(3)}, func(at []int) []int { return []int{} }},
		{"both axes", "Tile", nil, []int{3, 5}, []*tensor.Tensor{list(4, 2)}, func(at []int) []int { return []int{at[0] % 3, at[1] % 5} }},
		{"no copies", "Tile", nil, []int{3}, []*tensor.Tensor{list(0)}, nil},

		{"constant", "Pad", nil, []int{3, 5}, []*tensor.Tensor{list(2, -1, 1, 3)}, func(at []int) []int {
			if at[0] < 2 || at[0] > 4 || at[1] > 3 {
				return nil
			}
			return []int{at[0] - 2, at[1] + 1}
		}},
		{"only cut", "Pad", nil, []int{30, 5}, []*tensor.Tensor{list(-2, -1, -3, 0)}, func(at []int) []int { return []int{at[0] + 2, at[1] + 1} }},
		{"edge", "Pad", []*onnx.Attribute{stringAttribute("mode", "edge")}, []int{3, 5}, []*tensor.Tensor{list(2, 0, 9, 1)},
			func(at []int) []int { return []int{min(max(at[0]-2, 0), 2), min(at[1], 4)} }},
		{"reflect more than once", "Pad", []*onnx.Attribute{stringAttribute("mode", "reflect")}, []int{3, 2}, []*tensor.Tensor{list(6, 0, 0, 0)},
			func(at []int) []int { return []int{[]int{2, 1, 0, 1, 2, 1, 0, 1, 2}[at[0]], at[1]} }},
		{"wrap more than once", "Pad", []*onnx.Attribute{stringAttribute("mode", "wrap")}, []int{3, 2}, []*tensor.Tensor{list(4, 0, 2, 0)},
			func(at []int) []int { return []int{(at[0] + 2) % 3, at[1]} }},
		{"reflect what is left", "Pad", []*onnx.Attribute{stringAttribute("mode", "reflect")}, []int{5}, []*tensor.Tensor{list(-2, 2)},
			func(at []int) []int { return []int{[]int{2, 3, 4, 3, 2}[at[0]]} }},
		{"odd differences", "CenterCropPad", nil, []int{4, 7}, []*tensor.Tensor{list(7, 4)}, func(at []int) []int {
			if at[0] < 1 || at[0] > 4 {
				return nil
			}
			return []int{at[0] - 1, at[1] + 1}
		}},

		{"rows", "Gather", nil, []int{6, 4}, []*tensor.Tensor{list(5, -1, 0)}, func(at []int) []int { return []int{[]int{5, 5, 0}[at[0]], at[1]} }},
		{"columns", "Gather", []*onnx.Attribute{axis(-1)}, []int{6, 4}, []*tensor.Tensor{list(3, 1)},
			func(at []int) []int { return []int{at[0], []int{3, 1}[at[1]]} }},
		{"int32", "Gather", []*onnx.Attribute{axis(1)}, []int{2, 4, 3}, []*tensor.Tensor{tensor.FromSlice([]int32{-4, 2}, 1, 2)},
			func(at []int) []int { return []int{at[0], []int{0, 2}[at[2]], at[3]} }},
		{"fewer rows", "GatherElements", []*onnx.Attribute{axis(1)}, []int{3, 4}, []*tensor.Tensor{tensor.FromSlice([]int64{0, 3, -1, 1}, 2, 2)},
			func(at []int) []int { return []int{at[0], [][]int{{0, 3}, {3, 1}}[at[0]][at[1]]} }},
		{"batches", "GatherND", []*onnx.Attribute{intAttribute("batch_dims", 1)}, []int{2, 3, 4}, []*tensor.Tensor{tensor.FromSlice([]int64{2, 0}, 2, 1)},
			func(at []int) []int { return []int{at[0], []int{2, 0}[at[0]], at[1]} }},
		{"chosen", "Compress", []*onnx.Attribute{axis(1)}, []int{2, 5}, []*tensor.Tensor{tensor.FromSlice([]bool{false, true, false, true})},
			func(at []int) []int { return []int{at[0], []int{1, 3}[at[1]]} }},
		{"batch first", "ReverseSequence", []*onnx.Attribute{intAttribute("batch_axis", 0), intAttribute("time_axis", 1)}, []int{2, 4, 3},
			[]*tensor.Tensor{list(3, 0)}, func(at []int) []int {
				if at[0] == 0 && at[1] < 3 {
					return []int{0, 2 - at[1], at[2]}
				}
				return at
			}},

		{"crd", "DepthToSpace", []*onnx.Attribute{intAttribute("blocksize", 2), stringAttribute("mode", "CRD")}, []int{2, 8, 3, 5}, nil,
			func(at []int) []int { return []int{at[0], at[1]*4 + at[2]%2*2 + at[3]%2, at[2] / 2, at[3] / 2} }},
		{"dcr", "SpaceToDepth", []*onnx.Attribute{intAttribute("blocksize", 2)}, []int{2, 3, 4, 6}, nil,
			func(at []int) []int { return []int{at[0], at[1] % 3, at[2]*2 + at[1]/3/2, at[3]*2 + at[1]/3%2} }},
		{"crd", "SpaceToDepth", []*onnx.Attribute{intAttribute("blocksize", 2), stringAttribute("mode", "CRD")}, []int{2, 3, 4, 6}, nil,
			func(at []int) []int { return []int{at[0], at[1] / 4, at[2]*2 + at[1]/2%2, at[3]*2 + at[1]%2} }},
		{"upper", "Trilu", nil, []int{2, 4, 3}, []*tensor.Tensor{tensor.Scalar(int64(1))}, func(at []int) []int {
			if at[2] < at[1]+1 {
				return nil
			}
			return at
		}},
		{"lower, far away", "Trilu", []*onnx.Attribute{intAttribute("upper", 0)}, []int{4, 3}, []*tensor.Tensor{tensor.Scalar(int64(-1) << 63)},
			func(at []int) []int { return nil }},
	} {
		for _, dtype := range []onnx.DataType{onnx.Uint8, onnx.BFloat16, onnx.Float32, onnx.Int64, onnx.Complex128, onnx.String} {
			t.Run(fmt.Sprintf("%s/%s/%s", c.op, c.name, dtype), func(t *testing.T) {
				in := numbered(dtype, c.shape...)
				for threads := 1; threads <= 3; threads += 2 {
					n := &onnx.Node{OpType: c.op, Attributes: c.attrs, Outputs: []string{"y"}}
					out := compute(t, threads, false, n, 28, append([]*tensor.Tensor{in}, c.params...)...)[0]
					i := 0
					indices(out.Shape, func(at []int) {
						want := 0
						if from := c.from(at); from != nil {
							want = place(c.shape, from) & 0xff
						}
						if got := numberOf(out, i); got != want {
							t.Fatalf("element %v is %d, want %d", at, got, want)
						}
						i++
					})
				}
			})
		}
	}
}

// place returns where an element lies in a row-major tensor.
func place(shape, at []int) int {
	i := 0
	for axis, v := range at {
		i = i*shape[axis] + v
	}
	return i
}

// TestConcatSplit: what is split and concatenated again is what it was.
func TestConcatSplit(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		shape := []int{1 + r.IntN(4), 1 + r.IntN(40), 1 + r.IntN(4), 1 + r.IntN(40)}
		axis := r.IntN(4)
		first := r.IntN(shape[axis] + 1)
		lengths := tensor.FromSlice([]int64{int64(first), 0, int64(shape[axis] - first)})
		in := numbered(onnx.Int32, shape...)
		axisAttribute := []*onnx.Attribute{onnx.IntAttribute("axis", int64(axis-4))}
		parts := compute(t, 2, false, &onnx.Node{OpType: "Split", Attributes: axisAttribute, Outputs: []string{"a", "b", "c"}}, 18, in, lengths)
		whole := compute(t, 2, false, &onnx.Node{OpType: "Concat", Attributes: axisAttribute, Outputs: []string{"y"}}, 18, parts...)[0]
		if string(whole.Data) != string(in.Data) {
			t.Errorf("shape %v split at %d of axis %d", shape, first, axis)
		}
	}
}

func BenchmarkTranspose(b *testing.B) {
	for _, c := range []struct {
		name        string
		shape, perm []int
	}{
		{"matrix", []int{1, 1024, 1024}, []int{0, 2, 1}},
		{"heads", []int{512, 12, 64}, []int{1, 0, 2}},
		{"keys", []int{512, 12, 64}, []int{1, 2, 0}},
	} {
		b.Run(c.name, func(b *testing.B) {
			perm := make([]int64, len(c.perm))
			for i, p := range c.perm {
				perm[i] = int64(p)
			}
			n := &onnx.Node{OpType: "Transpose", Attributes: []*onnx.Attribute{onnx.IntsAttribute("perm", perm...)}, Inputs: []string{"x"}, Outputs: []string{"y"}}
			in := tensor.New(onnx.Float32, c.shape...)
			run := bound(b, n, in)
			b.SetBytes(int64(len(in.Data)))
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
