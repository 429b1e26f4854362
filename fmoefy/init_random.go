package fmoefy

import (
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Random makes experts that know nothing of the dense MLP: N(0, σ), and
// σ/√(2·layers) for the second projection, as Megatron initialises it; biases
// are zero. They may have another hidden width.
const Random Init = "random"

var initRandom = initKind{
	name:  Random,
	about: "random numbers, in experts of any hidden width",
	given: func(o *Options) string {
		switch {
		case o.Hidden > 0:
			return fmt.Sprintf("hidden width %d", o.Hidden)
		case o.RandomStd != 0:
			return "a standard deviation of experts"
		}
		return ""
	},
	complete: func(o *Options) error {
		setDefault(&o.RandomStd, 0.02)
		return checkPositive("standard deviation of experts", o.RandomStd)
	},
	begin: eachAlone(func(s *site) (*expertPlan, error) {
		m := s.each(func(slot int, dense *constant) stack {
			return gaussian(s.ElementType, s.randomDims(slot, dense), s.randomStd(slot), s.normals(slot))
		})
		m.promise = func(moe.Config) promise { return promise{changed, "the experts are random"} }
		return m, nil
	}),
}

// randomStd returns the standard deviation of a slot of random experts.
func (s *site) randomStd(slot int) float64 {
	switch {
	case !isWeight(slot):
		return 0
	case slot == moe.InputFC2Weight:
		return s.options.RandomStd / math.Sqrt(2*float64(max(s.layers, 1)))
	}
	return s.options.RandomStd
}

// randomDims returns the dims of a slot of random experts: those of the dense
// tensor, with the hidden width that the options ask for.
func (s *site) randomDims(slot int, dense *constant) []int64 {
	dims := slices.Insert(slices.Clone(dense.dims), 0, int64(s.options.NumExperts))
	if s.options.Hidden == 0 {
		return dims
	}
	switch slot {
	case moe.InputFC2Weight:
		dims[2] = int64(s.options.Hidden)
	case moe.InputFC2Bias:
	default: // what gives the hidden values has them first
		dims[1] = int64(s.options.Hidden)
	}
	return dims
}
