package cpu

import (
	"math"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// plainAttention is attention as it is written down, for dense tensors
// [batch, heads, length, size]; sees says which keys a query attends.
func plainAttention(q, k, v *tensor.Tensor, sees func(i, j int) bool) []float64 {
	batch, heads, queries, size := q.Shape[0], q.Shape[1], q.Shape[2], q.Shape[3]
	shared, keys, width := k.Shape[1], k.Shape[2], v.Shape[3]
	x, y, z := floats(q), floats(k), floats(v)
	out := make([]float64, 0, batch*heads*queries*width)
	for b := range batch {
		for h := range heads {
			base := (b*shared + h*shared/heads) * keys
			for i := range queries {
				scores, total := make([]float64, keys), 0.0
				for j := range keys {
					if !sees(i, j) {
						continue
					}
					dot := 0.0
					for l := range size {
						dot += x[((b*heads+h)*queries+i)*size+l] * y[(base+j)*size+l]
					}
					scores[j] = math.Exp(dot / math.Sqrt(float64(size)))
					total += scores[j]
				}
				for l := range width {
					sum := 0.0
					for j, s := range scores {
						sum += s * z[(base+j)*width+l]
					}
					if total > 0 {
						sum /= total
					}
					out = append(out, sum)
				}
			}
		}
	}
	return out
}

func TestAttention(t *testing.T) {
	number := onnx.IntAttribute
	for _, c := range []struct {
		name       string
		q, k, v    []int
		attributes []*onnx.Attribute
		sees       func(i, j int) bool
	}{
		{"several blocks", []int{2, 3, 150, 16}, []int{2, 3, 170, 16}, []int{2, 3, 170, 24}, nil, nil},
		{"shared keys", []int{1, 6, 70, 8}, []int{1, 2, 40, 8}, []int{1, 2, 40, 8}, nil, nil},
		{"one query", []int{2, 12, 1, 8}, []int{2, 3, 90, 8}, []int{2, 3, 90, 8}, nil, nil},
		{"causal", []int{1, 2, 200, 8}, []int{1, 2, 200, 8}, []int{1, 2, 200, 8},
			[]*onnx.Attribute{number("is_causal", 1)}, func(i, j int) bool { return j <= i }},
		{"window", []int{1, 2, 130, 8}, []int{1, 2, 100, 8}, []int{1, 2, 100, 8},
			[]*onnx.Attribute{number("left_window_size", 9), number("right_window_size", 3)}, func(i, j int) bool { return j >= i-9 && j <= i+3 }},
		{"no keys", []int{1, 2, 3, 8}, []int{1, 2, 0, 8}, []int{1, 2, 0, 8}, nil, nil},
		{"no queries", []int{1, 2, 0, 8}, []int{1, 2, 4, 8}, []int{1, 2, 4, 8}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, k, v := random[float32](1, c.q...), random[float32](2, c.k...), random[float32](3, c.v...)
			if c.sees == nil {
				c.sees = func(i, j int) bool { return true }
			}
			node := func() *onnx.Node {
				return &onnx.Node{OpType: "Attention", Attributes: c.attributes, Outputs: []string{"y"}}
			}
			y := onEveryPool(t, node, 25, q, k, v)[0]
			wantNear(t, "attention", y, plainAttention(q, k, v, c.sees), 1e-5)
		})
	}
}

// TestAttentionHidesInfinity: keys that a mask hides do not matter, whatever
// their scores.
func TestAttentionHidesInfinity(t *testing.T) {
	inf := float32(math.Inf(1))
	q := tensor.FromSlice([]float32{1, 1}, 1, 1, 2, 1)
	k := tensor.FromSlice([]float32{0, inf}, 1, 1, 2, 1)
	v := tensor.FromSlice([]float32{3, 4}, 1, 1, 2, 1)
	for _, mask := range []*tensor.Tensor{
		tensor.FromSlice([]bool{true, false, false, false}, 2, 2),
		tensor.FromSlice([]float32{0, -inf, -inf, -inf}, 2, 2),
	} {
		y := compute(t, 1, false, &onnx.Node{OpType: "Attention", Outputs: []string{"y"}}, 24, q, k, v, mask)[0]
		if got := tensor.Of[float32](y); !slices.Equal(got, []float32{3, 0}) {
			t.Errorf("%s: got %v, want the first value, then nothing", mask, got)
		}
	}
}

// TestPackedHeads: where queries, keys and values lie does not change the
// outcome.
func TestPackedHeads(t *testing.T) {
	const batch, length, heads, size = 2, 5, 3, 4
	packed := random[float32](5, batch, length, heads, 3, size)
	part := func(parts ...int) *tensor.Tensor {
		var x []float32
		all := tensor.Of[float32](packed)
		for i := range batch * length * heads {
			for _, p := range parts {
				x = append(x, all[(i*3+p)*size:][:size]...)
			}
		}
		if len(parts) == 1 {
			return tensor.FromSlice(x, batch, length, heads*size)
		}
		return tensor.FromSlice(x, batch, length, heads, len(parts), size)
	}
	run := func(in ...*tensor.Tensor) *tensor.Tensor {
		n := &onnx.Node{Domain: "com.microsoft", OpType: "MultiHeadAttention", Outputs: []string{"y"},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("num_heads", heads)}}
		return compute(t, 2, false, n, 1, in...)[0]
	}
	want := floats(run(part(0), part(1), part(2)))
	wantNear(t, "all in one", run(packed), want, 0)
	wantNear(t, "keys and values in one", run(part(0), part(1, 2)), want, 0)
}
