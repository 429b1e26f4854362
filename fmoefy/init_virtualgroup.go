package fmoefy

import (
	"fmt"
	"io"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// VirtualGroup makes fine-grained experts: the MLP's hidden columns are cut into
// as many shards as the granularity says, and a group of experts, one for each
// shard, is the MLP. The router scores all experts of a group alike, so that a
// token gets whole groups and the function is kept (He et al., "Upcycling Large
// Language Models into Mixture of Experts", arXiv 2410.07524).
//
// A token's scores sum to one over all experts that it gets, so that each expert
// of a group of G counts 1/G of what the MLP does. The second projections'
// weights are multiplied by G to make up for that; their biases add up to the
// MLP's as they are.
const VirtualGroup Init = "virtual-group"

var initVirtualGroup = initKind{
	name:  VirtualGroup,
	about: "shards of the MLP, a group of which is the whole MLP",
	given: func(o *Options) string {
		if o.Granularity != 0 {
			return "a granularity"
		}
		return ""
	},
	complete: func(o *Options) error {
		setDefault(&o.Granularity, 2)
		g := o.Granularity
		if g < 1 || g > maxExperts {
			return fmt.Errorf("the granularity is %d, must be 1 to the number of experts", g)
		}
		setDefault(&o.TopK, g*min(2, o.NumExperts/g))
		switch {
		case o.NumExperts%g != 0:
			return fmt.Errorf("%d experts are no multiple of the granularity, %d", o.NumExperts, g)
		case o.TopK%g != 0:
			return fmt.Errorf("top-k is %d, must be a multiple of the granularity, %d, so that a token gets whole copies of the MLP", o.TopK, g)
		}
		return nil
	},
	begin: eachAlone(virtualGroups),
}

func virtualGroups(s *site) (*expertPlan, error) {
	shards, groups := int64(s.options.Granularity), s.options.NumExperts/s.options.Granularity
	if s.DHidden%shards != 0 {
		return nil, fmt.Errorf("its hidden width %d cannot be cut into %d equal shards: the granularity must divide it", s.DHidden, shards)
	}
	m := s.each(func(slot int, dense *constant) stack {
		// Groups follow one another: of experts with equal logits those that
		// come first are chosen.
		switch slot {
		case moe.InputFC2Weight:
			return stacked(dense.times(float64(shards)).shards(1, shards), groups)
		case moe.InputFC2Bias:
			return copies(dense, s.options.NumExperts)
		}
		return stacked(dense.shards(0, shards), groups)
	})
	router, err := s.router(groups)
	if err != nil {
		return nil, err
	}
	m.slots[moe.InputGateWeight] = newStack(router.elementType, []int64{s.DModel, int64(s.options.NumExperts)},
		repeatedElements{router.source, router.elementType.Bits() / 8, int(shards)})
	m.promise = func(c moe.Config) promise {
		if !slices.Contains([]string{moe.GateNaive, moe.GateNoisy, moe.GateSwipe, moe.GateSigmoid}, c.Gate) || c.Groups > 0 {
			return promise{changed, "the gate may choose a part of a group of experts"}
		}
		return ifScoresSumToOne(c, fmt.Sprintf("every group of %d experts is the MLP, a token gets whole groups", shards))
	}
	return m, nil
}

// repeatedElements is a source each element of which, a number of bytes, comes
// several times.
type repeatedElements struct {
	source onnx.Source
	width  int
	times  int
}

func (s repeatedElements) Size() int64 { return s.source.Size() * int64(s.times) }

// WriteTo implements [onnx.Source].
func (s repeatedElements) WriteTo(w io.Writer) (int64, error) {
	elements, err := elementsOf(s.source)
	if err != nil {
		return 0, err
	}
	written := int64(0)
	for piece := range slices.Chunk(elements, chunk*s.width) {
		repeated := make([]byte, 0, len(piece)*s.times)
		for element := range slices.Chunk(piece, s.width) {
			for range s.times {
				repeated = append(repeated, element...)
			}
		}
		n, err := w.Write(repeated)
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}
