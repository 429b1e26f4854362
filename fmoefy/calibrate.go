package fmoefy

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// calibrationTokens runs the dense model on the calibration data and returns
// the inputs of all blocks: tokens [n, d_model + 1], each with a 1 behind it, by
// splitKey.
func (r *rewriter) calibrationTokens(blocks []*Block) (map[string][]float32, error) {
	if r.options.Run == nil {
		return nil, errors.New("calibration needs something that runs the model")
	}
	var values []string
	readers := map[string][]*Block{}
	for _, b := range blocks {
		if b.scope.parent != nil {
			return nil, fmt.Errorf("block %s is in %s, where calibration does not see it: exclude it", b.Name, b.Graph)
		}
		values = append(values, b.Input)
		readers[b.Input] = append(readers[b.Input], b)
	}
	dense := r.showing(values)
	tokens := map[string][]float32{}
	for _, inputs := range r.options.Calibration {
		err := r.watch(dense, inputs, func(value string, x *tensor.Tensor) error {
			if !computable(x.Type) {
				return fmt.Errorf("value %q is %s", value, x.Type)
			}
			single := tensor.New(onnx.Float32, x.Shape...)
			tensor.ConvertFloat(single, x)
			for _, b := range readers[value] {
				if x.Shape[x.Rank()-1] != int(b.DModel) {
					return fmt.Errorf("value %q is %s, not tokens of %d numbers", value, x, b.DModel)
				}
				key := r.splitKey(b)
				for row := range slices.Chunk(tensor.Of[float32](single), int(b.DModel)) {
					tokens[key] = append(append(tokens[key], row...), 1)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("calibration: %w", err)
		}
	}
	for _, b := range blocks {
		if len(tokens[r.splitKey(b)]) == 0 {
			return nil, fmt.Errorf("calibration: block %s gets no tokens from the data", b.Name)
		}
	}
	return tokens, nil
}

// splitKey is equal for blocks that have one split.
func (r *rewriter) splitKey(b *Block) string {
	if r.options.SeparateShared {
		return b.Name
	}
	return r.sharingKey(b)
}

// calibratedSplit divides a block by what its neurons do on tokens.
func (r *rewriter) calibratedSplit(b *Block, tokens []float32) (*split, error) {
	groups, err := b.clusters(r.options.NumExperts)
	if err != nil {
		return nil, err
	}
	s, err := b.activity(tokens)
	if err != nil {
		return nil, err
	}
	return s.fit(groups, r.options.NumExperts, r.options.TopK)
}

// activity computes what the block's neurons do on tokens [n, d_model + 1].
func (b *Block) activity(tokens []float32) (*activity, error) {
	d, h := int(b.DModel), int(b.DHidden)
	s := &activity{tokens: len(tokens) / (d + 1), width: d, hidden: h, x: tokens}
	var err error
	if s.a, err = b.project(b.fc1, tokens); err != nil {
		return nil, err
	}
	apply := activations[b.Activation]
	eachShare(len(s.a), chunk, func(lo, hi int) {
		for i, x := range s.a[lo:hi] {
			s.a[lo+i] = float32(apply(float64(x)))
		}
	})
	if b.fc3 != nil {
		linear, err := b.project(b.fc3, tokens)
		if err != nil {
			return nil, err
		}
		simd.Mul(s.a, s.a, linear)
	}
	s.second, err = b.matrix(b.fc2.weight.permuted(1, 0))
	return s, err
}

// project applies a linear layer to tokens [n, in + 1].
func (b *Block) project(l *linear, tokens []float32) ([]float32, error) {
	weight, err := b.matrix(l.weight)
	if err != nil {
		return nil, err
	}
	bias, err := b.matrix(l.bias)
	if err != nil {
		return nil, err
	}
	in, out := int(l.in()), int(l.out())
	n := len(tokens) / (in + 1)
	y := make([]float32, n*out)
	x := simd.RowMajor(tokens, n, in+1)
	x.Cols = in
	multiply(y, x, simd.Transposed(weight, in, out))
	if bias != nil {
		for row := range slices.Chunk(y, out) {
			simd.Axpy(1, bias, row)
		}
	}
	return y, nil
}

// activations are what experts apply between their projections.
var activations = map[moe.Activation]func(x float64) float64{
	moe.Identity: func(x float64) float64 { return x },
	moe.ReLU:     func(x float64) float64 { return max(x, 0) },
	moe.ReLU2:    func(x float64) float64 { return max(x, 0) * max(x, 0) },
	moe.GELU:     func(x float64) float64 { return x * 0.5 * (1 + math.Erf(x/math.Sqrt2)) },
	moe.GELUTanh: func(x float64) float64 {
		return x * 0.5 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	},
	moe.QuickGELU: func(x float64) float64 { return x / (1 + math.Exp(-1.702*x)) },
	moe.SiLU:      func(x float64) float64 { return x / (1 + math.Exp(-x)) },
	moe.Mish:      func(x float64) float64 { return x * math.Tanh(math.Log1p(math.Exp(x))) },
	moe.HardSwish: func(x float64) float64 { return x * max(0, min(1, x/6+0.5)) },
	moe.Sigmoid:   func(x float64) float64 { return 1 / (1 + math.Exp(-x)) },
	moe.Tanh:      math.Tanh,
}
