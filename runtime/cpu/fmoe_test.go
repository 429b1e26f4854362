package cpu

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func fmoeNode(config moe.Config, outputs int) *onnx.Node {
	return &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(),
		Outputs: []string{"y", "loss", "count"}[:outputs]}
}

// layer is the size of a mixture of experts, and which of its optional inputs
// it has.
type layer struct {
	tokens, experts, k, d, h int
	bias, gated              bool
}

func (l layer) inputs(seed uint64) []*tensor.Tensor {
	in := []*tensor.Tensor{
		moe.InputX:          random[float32](seed, l.tokens, l.d),
		moe.InputGateWeight: random[float32](seed+1, l.d, l.experts),
		moe.InputFC1Weight:  random[float32](seed+2, l.experts, l.h, l.d),
		moe.InputFC2Weight:  random[float32](seed+3, l.experts, l.d, l.h),
		moe.InputFC3Bias:    nil,
	}
	if l.gated {
		in[moe.InputFC3Weight] = random[float32](seed+4, l.experts, l.h, l.d)
	}
	if l.bias {
		in[moe.InputGateBias] = random[float32](seed+5, l.experts)
		in[moe.InputFC1Bias] = random[float32](seed+6, l.experts, l.h)
		in[moe.InputFC2Bias] = random[float32](seed+7, l.experts, l.d)
		if l.gated {
			in[moe.InputFC3Bias] = random[float32](seed+8, l.experts, l.h)
		}
	}
	return in
}

// as converts inputs to another element type.
func as(t onnx.DataType, in []*tensor.Tensor) []*tensor.Tensor {
	out := make([]*tensor.Tensor, len(in))
	for i, x := range in {
		if x != nil {
			out[i] = tensor.New(t, x.Shape...)
			tensor.ConvertFloat(out[i], x)
		}
	}
	return out
}

// reference computes FMoE with ReLU by its definition, every expert for every
// token. It returns Y and the number of rows of each expert.
func (l layer) reference(in []*tensor.Tensor, normalize bool) (y []float64, count []int64) {
	w := numbers(in)
	y, count = make([]float64, l.tokens*l.d), make([]int64, l.experts)
	for n := range l.tokens {
		x := w[moe.InputX][n*l.d:][:l.d]
		logits, order := w.logits(l, x), make([]int, l.experts)
		for e := range logits {
			order[e] = e
		}
		slices.SortStableFunc(order, func(a, b int) int { return -compareFloat(logits[a], logits[b]) })
		sum, chosen := 0.0, order[:l.k]
		over := order
		if normalize {
			over = chosen
		}
		for _, e := range over {
			sum += math.Exp(logits[e])
		}
		for _, e := range chosen {
			count[e]++
			w.addExpert(l, e, x, math.Exp(logits[e])/sum, y[n*l.d:][:l.d])
		}
	}
	return y, count
}

// layerWeights are the numbers of a layer's inputs, by slot.
type layerWeights [moe.InputCount][]float64

func numbers(in []*tensor.Tensor) (w layerWeights) {
	for i, t := range in {
		if t != nil && t.Type.IsFloat() {
			w[i] = floats(t)
		}
	}
	return w
}

// at returns an element of an input, 0 where that is absent.
func (w *layerWeights) at(slot, i int) float64 {
	if w[slot] == nil {
		return 0
	}
	return w[slot][i]
}

// logits returns the router's results for a token.
func (w *layerWeights) logits(l layer, x []float64) []float64 {
	logits := make([]float64, l.experts)
	for e := range logits {
		logits[e] = w.at(moe.InputGateBias, e)
		for i := range x {
			logits[e] += x[i] * w[moe.InputGateWeight][i*l.experts+e]
		}
	}
	return logits
}

// addExpert adds to y what an expert makes of a token, times a score.
func (w *layerWeights) addExpert(l layer, e int, x []float64, score float64, y []float64) {
	hidden := make([]float64, l.h)
	for j := range hidden {
		row := e*l.h + j
		a, b := w.at(moe.InputFC1Bias, row), w.at(moe.InputFC3Bias, row)
		for i := range x {
			a += x[i] * w[moe.InputFC1Weight][row*l.d+i]
			b += x[i] * w.at(moe.InputFC3Weight, row*l.d+i)
		}
		if hidden[j] = max(a, 0); l.gated {
			hidden[j] *= b
		}
	}
	for i := range l.d {
		row := e*l.d + i
		out := w.at(moe.InputFC2Bias, row)
		for j := range hidden {
			out += hidden[j] * w[moe.InputFC2Weight][row*l.h+j]
		}
		y[i] += out * score
	}
}

func compareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestFMoE(t *testing.T) {
	layers := []layer{
		{tokens: 0, experts: 4, k: 2, d: 8, h: 16, bias: true},
		{tokens: 1, experts: 1, k: 1, d: 3, h: 5, bias: true},
		{tokens: 1, experts: 8, k: 2, d: 24, h: 96, bias: true},
		{tokens: 3, experts: 64, k: 3, d: 7, h: 9},
		{tokens: 37, experts: 5, k: 5, d: 19, h: 33, bias: true},
		{tokens: 300, experts: 3, k: 1, d: 16, h: 40},
		{tokens: 50, experts: 8, k: 2, d: 64, h: 300, bias: true, gated: true},
		{tokens: 9, experts: 4, k: 2, d: 400, h: 31, gated: true},
		{tokens: 4, experts: 2, k: 1, d: 6, h: 0, bias: true},
	}
	for _, l := range layers {
		for _, normalize := range []bool{true, false} {
			in := l.inputs(3)
			y, count := l.reference(in, normalize)
			config := moe.NaiveConfig(l.k, moe.ReLU)
			config.Normalize = normalize
			for _, constant := range []bool{true, false} {
				t.Run(fmt.Sprintf("%+v normalize=%v constant=%v", l, normalize, constant), func(t *testing.T) {
					for _, c := range []struct {
						dtype     onnx.DataType
						tolerance float64
					}{{onnx.Float64, 1e-12}, {onnx.Float32, 1e-5}} {
						out := compute(t, 2, constant, fmoeNode(config, 3), 1, as(c.dtype, in)...)
						wantNear(t, "Y", out[moe.OutputY], y, c.tolerance)
						wantNear(t, "aux_loss", out[moe.OutputAuxLoss], []float64{0}, 0)
						if got := tensor.Of[int64](out[moe.OutputExpertCount]); !slices.Equal(got, count) {
							t.Errorf("expert_count is %v, want %v", got, count)
						}
					}
				})
			}
		}
	}
}

// TestFMoEHalf: half-precision nodes are computed in float32 on the rounded
// weights.
func TestFMoEHalf(t *testing.T) {
	l := layer{tokens: 12, experts: 4, k: 2, d: 16, h: 32, bias: true}
	config := moe.NaiveConfig(2, moe.ReLU)
	for dtype, tolerance := range map[onnx.DataType]float64{onnx.Float16: 1e-3, onnx.BFloat16: 1e-2} {
		in := as(dtype, l.inputs(3))
		y, _ := l.reference(in, true)
		for _, constant := range []bool{true, false} {
			wantNear(t, dtype.String(), compute(t, 1, constant, fmoeNode(config, 1), 1, in...)[0], y, tolerance)
		}
		// A router that stays in float32 is not rounded.
		for _, slot := range []int{moe.InputGateWeight, moe.InputGateBias} {
			in[slot] = l.inputs(3)[slot]
		}
		y, _ = l.reference(in, true)
		for _, constant := range []bool{true, false} {
			wantNear(t, dtype.String()+" with a float32 router", compute(t, 1, constant, fmoeNode(config, 1), 1, in...)[0], y, tolerance)
		}
	}
}

// quantized stores the experts' weights of inputs as integers, and returns
// the inputs with the numbers that these stand for too.
func quantized(q moe.Quantization, in []*tensor.Tensor) (stored, dense []*tensor.Tensor) {
	stored, dense = slices.Clone(in), slices.Clone(in)
	stored = append(stored, make([]*tensor.Tensor, moe.InputCount-len(in))...)
	for _, slot := range expertWeights {
		if at(in, slot) == nil {
			continue
		}
		shape := in[slot].Shape
		width, blocks := shape[2], q.Blocks(shape[2])
		packed := tensor.New(onnx.Uint8, shape[0], shape[1], blocks, q.BlockBytes())
		scales := tensor.New(onnx.Float32, shape[0], shape[1], blocks)
		dense[slot] = tensor.New(onnx.Float32, shape...)
		for row := range shape[0] * shape[1] {
			p, s := packed.Data[row*blocks*q.BlockBytes():][:blocks*q.BlockBytes()], tensor.Of[float32](scales)[row*blocks:][:blocks]
			q.Quantize(tensor.Of[float32](in[slot])[row*width:][:width], p, s)
			q.Dequantize(tensor.Of[float32](dense[slot])[row*width:][:width], p, s)
		}
		stored[slot], stored[moe.Scales(slot)] = packed, scales
	}
	return stored, dense
}

// TestFMoEQuantized: quantised experts compute what experts with the numbers
// that their integers stand for do.
func TestFMoEQuantized(t *testing.T) {
	for _, l := range []layer{
		{tokens: 1, experts: 4, k: 2, d: 24, h: 96, bias: true},
		{tokens: 6, experts: 4, k: 2, d: 64, h: 40, gated: true},
		{tokens: 90, experts: 3, k: 2, d: 130, h: 65, bias: true, gated: true},
		{tokens: 4, experts: 2, k: 1, d: 6, h: 0, bias: true},
		{tokens: 0, experts: 2, k: 1, d: 6, h: 7},
	} {
		for _, q := range []moe.Quantization{{Bits: 8, Block: 32}, {Bits: 4, Block: 16}, {Bits: 4, Block: 64}} {
			config := moe.NaiveConfig(l.k, moe.ReLU)
			config.Quantization = q
			stored, dense := quantized(q, l.inputs(3))
			y, _ := l.reference(dense, true)
			for _, constant := range []bool{true, false} {
				got := compute(t, 2, constant, fmoeNode(config, 1), 1, stored...)[0]
				wantNear(t, fmt.Sprintf("%+v %+v constant=%v", l, q, constant), got, y, 1e-5)
				if one := compute(t, 1, constant, fmoeNode(config, 1), 1, stored...)[0]; !bytes.Equal(one.Data, got.Data) {
					t.Errorf("%+v %+v: two threads give other bits than one", l, q)
				}
			}
		}
	}
}

// TestFMoEHalfWeights: experts' weights may have fewer bits than tokens.
func TestFMoEHalfWeights(t *testing.T) {
	l := layer{tokens: 12, experts: 4, k: 2, d: 16, h: 32, bias: true, gated: true}
	config := moe.NaiveConfig(2, moe.ReLU)
	for _, dtype := range []onnx.DataType{onnx.Float16, onnx.BFloat16} {
		in := l.inputs(3)
		rounded := as(dtype, in)
		dense := slices.Clone(in)
		for _, slot := range expertWeights {
			in[slot] = rounded[slot]
			dense[slot] = as(onnx.Float32, rounded)[slot]
		}
		want := compute(t, 1, true, fmoeNode(config, 1), 1, dense...)[0]
		for _, constant := range []bool{true, false} {
			got := compute(t, 2, constant, fmoeNode(config, 1), 1, in...)[0]
			if constant && !bytes.Equal(got.Data, want.Data) {
				t.Errorf("%s: other bits than with the same weights in float32", dtype)
			}
			wantNear(t, dtype.String(), got, floats(want), 1e-5)
		}
	}
}

// TestFMoEThreads: the bits do not depend on the number of threads.
func TestFMoEThreads(t *testing.T) {
	for _, l := range []layer{
		{tokens: 1, experts: 8, k: 2, d: 256, h: 1024, bias: true},
		{tokens: 200, experts: 8, k: 2, d: 96, h: 400, bias: true, gated: true},
	} {
		config := moe.NaiveConfig(l.k, moe.GELU)
		for _, constant := range []bool{true, false} {
			one := compute(t, 1, constant, fmoeNode(config, 1), 1, l.inputs(5)...)[0]
			for _, threads := range []int{2, 4} {
				many := compute(t, threads, constant, fmoeNode(config, 1), 1, l.inputs(5)...)[0]
				if !bytes.Equal(one.Data, many.Data) {
					t.Errorf("%+v: %d threads give other bits than one", l, threads)
				}
			}
		}
	}
}

// TestFMoERounds: many tokens are computed in several rounds, which changes
// nothing.
func TestFMoERounds(t *testing.T) {
	l := layer{tokens: 50, experts: 4, k: 2, d: 16, h: 48, bias: true, gated: true}
	config := moe.NaiveConfig(l.k, moe.GELU)
	want := compute(t, 2, true, fmoeNode(config, 3), 1, l.inputs(5)...)
	defer func(limit int) { fmoeLimit = limit }(fmoeLimit)
	for _, tokens := range []int{1, 7, 49} {
		fmoeLimit = tokens * l.k * (l.h + l.d)
		for i, got := range compute(t, 2, true, fmoeNode(config, 3), 1, l.inputs(5)...) {
			if !bytes.Equal(got.Data, want[i].Data) {
				t.Errorf("%d tokens a round: output %d differs", tokens, i)
			}
		}
	}
}

// TestFMoEUpcycled is the product's promise: where all experts are one dense
// layer, the mixture computes that layer, whatever the router says.
func TestFMoEUpcycled(t *testing.T) {
	dense := layer{tokens: 40, experts: 1, k: 1, d: 32, h: 128, bias: true, gated: true}
	mixed := dense
	mixed.experts, mixed.k = 8, 2
	for _, activation := range moe.Activations {
		config := moe.NaiveConfig(1, activation)
		in := dense.inputs(9)
		want := compute(t, 1, true, fmoeNode(config, 1), 1, in...)[0]

		router := mixed.inputs(11)
		for slot, x := range in {
			if slot >= moe.InputFC1Weight && x != nil {
				router[slot] = repeat(x, mixed.experts)
			}
		}
		router[moe.InputX] = in[moe.InputX]
		config.TopK = mixed.k
		got := compute(t, 1, true, fmoeNode(config, 1), 1, router...)[0]
		wantNear(t, string(activation), got, floats(want), 1e-6)
	}
}

// TestFMoEPermutedExperts: the order of the experts does not matter.
func TestFMoEPermutedExperts(t *testing.T) {
	l := layer{tokens: 30, experts: 6, k: 3, d: 20, h: 50, bias: true}
	config := moe.NaiveConfig(l.k, moe.SiLU)
	in := l.inputs(13)
	order := []int{4, 2, 0, 5, 1, 3}
	permuted := slices.Clone(in)
	for slot, x := range in {
		switch {
		case slot == moe.InputGateWeight:
			permuted[slot] = permuteColumns(x, order)
		case slot != moe.InputX && x != nil:
			permuted[slot] = permuteRows(x, order)
		}
	}
	a := compute(t, 2, true, fmoeNode(config, 1), 1, in...)[0]
	b := compute(t, 2, true, fmoeNode(config, 1), 1, permuted...)[0]
	if !bytes.Equal(a.Data, b.Data) {
		t.Error("permuting the experts changes the output")
	}
}

func repeat(x *tensor.Tensor, times int) *tensor.Tensor {
	y := tensor.New(x.Type, append([]int{times}, x.Shape[1:]...)...)
	for i := range times {
		copy(y.Data[i*len(x.Data):], x.Data)
	}
	return y
}

func permuteRows(x *tensor.Tensor, order []int) *tensor.Tensor {
	y, width := tensor.New(x.Type, x.Shape...), len(x.Data)/x.Shape[0]
	for i, from := range order {
		copy(y.Data[i*width:][:width], x.Data[from*width:])
	}
	return y
}

func permuteColumns(x *tensor.Tensor, order []int) *tensor.Tensor {
	y := tensor.New(x.Type, x.Shape...)
	from, to := tensor.Of[float32](x), tensor.Of[float32](y)
	for i := range to {
		to[i] = from[i/len(order)*len(order)+order[i%len(order)]]
	}
	return y
}
