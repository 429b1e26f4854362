package cpu

import (
	"math"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// plainAttention is attention as it is written down, for dense tensors
// [batch, heads, length, size]; sees says which keys a query attends, and a
// softcap of 0 does nothing.
func plainAttention(q, k, v *tensor.Tensor, softcap float64, sees func(i, j int) bool) []float64 {
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
					dot /= math.Sqrt(float64(size))
					if softcap > 0 {
						dot = softcap * math.Tanh(dot/softcap)
					}
					scores[j] = math.Exp(dot)
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
		{"several tiles", []int{2, 3, 150, 16}, []int{2, 3, 370, 16}, []int{2, 3, 370, 24}, nil, nil},
		{"odd sizes", []int{1, 3, 7, 13}, []int{1, 3, 131, 13}, []int{1, 3, 131, 5}, nil, nil},
		{"few queries, long tiles", []int{2, 2, 3, 8}, []int{2, 2, 1500, 8}, []int{2, 2, 1500, 8},
			[]*onnx.Attribute{number("left_window_size", 1300)}, func(i, j int) bool { return j >= i-1300 }},
		{"softcap", []int{1, 2, 70, 8}, []int{1, 2, 150, 8}, []int{1, 2, 150, 8},
			[]*onnx.Attribute{onnx.FloatAttribute("softcap", 1.5)}, nil},
		{"shared keys", []int{1, 6, 70, 8}, []int{1, 2, 40, 8}, []int{1, 2, 40, 8}, nil, nil},
		{"one query", []int{2, 12, 1, 8}, []int{2, 3, 90, 8}, []int{2, 3, 90, 8}, nil, nil},
		{"causal", []int{1, 2, 200, 8}, []int{1, 2, 200, 8}, []int{1, 2, 200, 8},
			[]*onnx.Attribute{number("is_causal", 1)}, func(i, j int) bool { return j <= i }},
		{"window", []int{1, 2, 130, 8}, []int{1, 2, 100, 8}, []int{1, 2, 100, 8},
			[]*onnx.Attribute{number("left_window_size", 9), number("right_window_size", 3)}, func(i, j int) bool { return j >= i-9 && j <= i+3 }},
		{"window far behind", []int{1, 2, 600, 8}, []int{1, 2, 600, 8}, []int{1, 2, 600, 8},
			[]*onnx.Attribute{number("left_window_size", 40), number("is_causal", 1)}, func(i, j int) bool { return j >= i-40 && j <= i }},
		{"queries that see nothing", []int{1, 2, 80, 8}, []int{1, 2, 20, 8}, []int{1, 2, 20, 8},
			[]*onnx.Attribute{number("left_window_size", 5)}, func(i, j int) bool { return j >= i-5 }},
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
			softcap := 0.0
			for _, a := range c.attributes {
				softcap += float64(a.Float)
			}
			wantNear(t, "attention", y, plainAttention(q, k, v, softcap, c.sees), 1e-5)
		})
	}
}

// TestAttentionMasks: keys are hidden by masks of all types and shapes, for
// queries that see many keys, a few, or none.
func TestAttentionMasks(t *testing.T) {
	const heads, keys, size = 3, 300, 8
	inf := math.Inf(-1)
	hides := func(i, j int) bool { return i%7 == 3 || (i*31+j*17)%5 == 0 || i%7 == 4 && j != 290 }
	for _, queries := range []int{1, 4, 60} {
		q, k, v := random[float32](1, 1, heads, queries, size), random[float32](2, 1, heads, keys, size), random[float32](3, 1, heads, keys, size)
		kept, bias := make([]bool, queries*keys), make([]float32, queries*keys)
		for i := range queries {
			for j := range keys {
				if kept[i*keys+j] = !hides(i, j); !kept[i*keys+j] {
					bias[i*keys+j] = float32(inf)
				}
			}
		}
		want := plainAttention(q, k, v, 0, func(i, j int) bool { return !hides(i, j) })
		for _, mask := range []*tensor.Tensor{
			tensor.FromSlice(kept, queries, keys), tensor.FromSlice(bias, queries, keys), tensor.FromSlice(bias, 1, 1, queries, keys),
		} {
			node := func() *onnx.Node { return &onnx.Node{OpType: "Attention", Outputs: []string{"y"}} }
			wantNear(t, mask.String(), onEveryPool(t, node, 24, q, k, v, mask)[0], want, 1e-5)
		}
		// A mask of fewer keys hides the others.
		short := tensor.FromSlice(make([]float32, 200), 1, 200)
		want = plainAttention(q, k, v, 0, func(_, j int) bool { return j < 200 })
		node := func() *onnx.Node { return &onnx.Node{OpType: "Attention", Outputs: []string{"y"}} }
		wantNear(t, "a short mask", onEveryPool(t, node, 24, q, k, v, short)[0], want, 1e-5)
	}
}

// TestAttentionPast: keys and values of the past, and those that follow them,
// are as good as all in one.
func TestAttentionPast(t *testing.T) {
	const heads, past, added, size = 2, 150, 5, 8
	q := random[float32](1, 1, 2*heads, added, size)
	k, v := random[float32](2, 1, heads, past+added, size), random[float32](3, 1, heads, past+added, size)
	cut := func(x *tensor.Tensor, from, to int) *tensor.Tensor {
		var part []float32
		for h := range heads {
			part = append(part, tensor.Of[float32](x)[(h*(past+added)+from)*size:][:(to-from)*size]...)
		}
		return tensor.FromSlice(part, 1, heads, to-from, size)
	}
	node := func() *onnx.Node {
		return &onnx.Node{OpType: "Attention", Outputs: []string{"y", "k", "v"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("is_causal", 1)}}
	}
	out := onEveryPool(t, node, 23, q, cut(k, past, past+added), cut(v, past, past+added), nil, cut(k, 0, past), cut(v, 0, past))
	wantNear(t, "attention", out[0], plainAttention(q, k, v, 0, func(i, j int) bool { return j <= past+i }), 1e-5)
	wantNear(t, "keys", out[1], floats(k), 0)
	wantNear(t, "values", out[2], floats(v), 0)
}

// TestAttentionNumbers: what is not a number is not hidden by accident.
func TestAttentionNumbers(t *testing.T) {
	nan := float32(math.NaN())
	for _, k := range [][]float32{{nan, nan}, {1, nan}} {
		y := compute(t, 1, false, &onnx.Node{OpType: "Attention", Outputs: []string{"y"}}, 24,
			tensor.FromSlice([]float32{1}, 1, 1, 1, 1), tensor.FromSlice(k, 1, 1, 2, 1), tensor.FromSlice([]float32{3, 4}, 1, 1, 2, 1))[0]
		if got := tensor.Of[float32](y)[0]; got == got {
			t.Errorf("attention to keys %v is %v", k, got)
		}
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

// TestAttentionGradient compares float32 with float64, which central
// differences prove right, and asks for the same bits from any number of
// threads.
func TestAttentionGradient(t *testing.T) {
	attributes := []*onnx.Attribute{onnx.IntAttribute("is_causal", 1), onnx.FloatAttribute("softcap", 3)}
	for _, c := range []struct{ batch, heads, kvHeads, length, size int }{
		{1, 1, 1, 200, 24},
		{1, 6, 2, 130, 16},
		{3, 8, 8, 50, 64},
	} {
		q, kv := []int{c.batch, c.heads, c.length, c.size}, []int{c.batch, c.kvHeads, c.length, c.size}
		in := []*tensor.Tensor{random[float64](1, q...), random[float64](2, kv...), random[float64](3, kv...),
			random[float64](4, c.length, c.length), nil, nil, nil, random[float64](5, q...)}
		n := func() *onnx.Node {
			return &onnx.Node{Domain: moe.Domain, OpType: "AttentionGradient", Outputs: []string{"dq", "dk", "dv", "dscores"}, Attributes: attributes}
		}
		want := compute(t, 1, false, n(), 1, in...)
		narrow := as(onnx.Float32, in)
		first := compute(t, 1, false, n(), 1, narrow...)
		for i, x := range first {
			wantNear(t, n().Outputs[i], x, floats(want[i]), 3e-6)
		}
		for _, threads := range []int{2, 4} {
			wantSameBits(t, threads, compute(t, threads, false, n(), 1, narrow...), first)
		}
	}
}
