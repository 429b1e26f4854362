package fmoefy

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Drop makes experts copies of the dense MLP in which a share of the hidden
// columns starts anew, other columns in every expert: their weights and biases
// are drawn from N(μ, σ), μ and σ being those of the weights that they replace,
// or of the biases (Nakamura et al., "Drop-Upcycling", arXiv 2502.19261).
const Drop Init = "drop"

var initDrop = initKind{
	name:  Drop,
	about: "copies of the MLP, in which a share of the hidden columns starts anew",
	given: func(o *Options) string {
		if o.DropRatio != 0 {
			return "a drop ratio"
		}
		return ""
	},
	complete: func(o *Options) error {
		setDefault(&o.DropRatio, 0.5)
		if !(o.DropRatio > 0 && o.DropRatio <= 1) {
			return fmt.Errorf("the drop ratio is %v, must be above 0 and at most 1", o.DropRatio)
		}
		return nil
	},
	begin: eachAlone(func(s *site) (*expertPlan, error) {
		m := s.each(func(slot int, dense *constant) stack {
			if slot == moe.InputFC2Bias {
				return copies(dense, s.options.NumExperts) // it belongs to no hidden column
			}
			return s.dropped(slot, dense)
		})
		m.promise = func(moe.Config) promise {
			return promise{changed, fmt.Sprintf("%g %% of every expert's hidden columns start anew", 100*s.options.DropRatio)}
		}
		return m, nil
	}),
}

// dropped returns copies of c in which each expert's dropped columns are random
// numbers with the mean and the standard deviation of the values there.
func (s *site) dropped(slot int, c *constant) stack {
	column := func(place int64) int64 { return place / (c.elements() / s.DHidden) } // of fc1 and fc3, which have a row for each
	if slot == moe.InputFC2Weight {
		column = func(place int64) int64 { return place % s.DHidden }
	}
	columns := newNormals(s.options.Seed, s.name(moe.InputFC1Weight)+".columns") // the same ones in all slots
	count := max(1, int(math.Round(s.options.DropRatio*float64(s.DHidden))))
	return changedCopies(c, s.options.NumExperts, s.normals(slot), func(elements []byte) func(int) change {
		of := make([]moments, s.DHidden)
		place := int64(0)
		for values := range pieces(c.elementType(), elements) {
			for _, x := range values {
				of[column(place)].add(x)
				place++
			}
		}
		return func(expert int) change {
			isDropped := columns.choose(expert, count, int(s.DHidden))
			var m moments
			for i, dropped := range isDropped {
				if dropped {
					m.merge(of[i])
				}
			}
			std := m.deviation()
			return func(start int64, values, normals []float64) {
				for i := range values {
					if isDropped[column(start+int64(i))] {
						values[i] = m.mean + float64(std*normals[i]) // not fused: the same bytes on every machine
					}
				}
			}
		}
	})
}

// choose draws count of n things without replacement, for one of several
// draws.
func (g normals) choose(draw, count, n int) (chosen []bool) {
	keys, order := make([]uint64, n), make([]int, n)
	for i := range n {
		r := g.bits(uint64(draw)<<32 | uint64(i))
		keys[i], order[i] = uint64(r[0])<<32|uint64(r[1]), i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(keys[a], keys[b]) })
	chosen = make([]bool, n)
	for _, i := range order[:count] {
		chosen[i] = true
	}
	return chosen
}
