package fmoefy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// FromModels makes the MLPs of fine-tuned models experts, as branch-train-mix
// does (Sukhbaatar et al., arXiv 2403.07816). The models are those of
// Options.Models; experts without one are copies of the MLP.
const FromModels Init = "models"

// ExpertModel is a fine-tuned model. It must have the base model's blocks: in
// the same graphs and order, with the same names, shapes, activations and
// element types.
type ExpertModel struct {
	Name  string // for errors, such as the file's name
	Model *onnx.Model
}

// Rest says where everything but the experts is from.
type Rest string

// The rests.
const (
	RestBase    Rest = "base"    // the model that is rewritten
	RestAverage Rest = "average" // the mean over the experts' models
)

var initModels = initKind{
	name:  FromModels,
	about: "the MLPs of the fine-tuned models that --expert names",
	given: func(o *Options) string {
		switch {
		case len(o.Models) > 0:
			return "a model for an expert"
		case o.Rest != "":
			return fmt.Sprintf("the rest from %s", o.Rest)
		}
		return ""
	},
	complete: completeModels,
	begin: func(r *rewriter, blocks []*Block) (expertMaker, error) {
		if err := r.matchModels(blocks); err != nil {
			return nil, err
		}
		if r.options.Rest == RestAverage {
			r.rest = r.averageRest
		}
		return expertsFromModels, nil
	},
}

func completeModels(o *Options) error {
	setDefault(&o.Rest, RestBase)
	if !slices.Contains([]Rest{RestBase, RestAverage}, o.Rest) {
		return fmt.Errorf("the rest %q is not known; there are base and average", o.Rest)
	}
	if len(o.Models) == 0 {
		return errors.New("expert init models needs a model for one expert at least (--expert 0=FILE)")
	}
	experts := slices.Sorted(maps.Keys(o.Models))
	first, last := experts[0], experts[len(experts)-1]
	setDefault(&o.NumExperts, min(last, maxExperts-1)+1)
	if first < 0 || last >= o.NumExperts {
		return fmt.Errorf("models are given for experts %d to %d, but there are experts 0 to %d", first, last, o.NumExperts-1)
	}
	return nil
}

func expertsFromModels(s *site) (*expertPlan, error) {
	m := s.each(func(slot int, dense *constant) stack {
		experts := make(modelExperts, s.options.NumExperts)
		for e := range experts {
			experts[e] = dense
			if b := s.counterparts[e]; b != nil {
				experts[e] = (&site{Block: b}).dense(slot)
			}
		}
		return newStack(dense.elementType(), slices.Insert(slices.Clone(dense.dims), 0, int64(len(experts))), experts)
	})
	same := true
	for _, b := range s.withCounterparts() {
		same = same && s.rewriter.weightsKey(b) == s.rewriter.weightsKey(s.Block)
	}
	m.promise = func(c moe.Config) promise {
		switch {
		case s.options.Rest == RestAverage:
			return promise{changed, "experts are the MLPs of other models and the rest is their average; only where all of those equal this one is it the same"}
		case same:
			return ifScoresSumToOne(c, "every expert has the MLP's weights")
		}
		return promise{changed, "experts are the MLPs of other models"}
	}
	return m, nil
}

// modelExperts is a source of experts, what each has in one slot.
type modelExperts []*constant

func (s modelExperts) Size() int64 { return int64(len(s)) * s[0].size() }

// WriteTo implements [onnx.Source].
func (s modelExperts) WriteTo(w io.Writer) (int64, error) {
	written := int64(0)
	for _, c := range s {
		n, err := view{c}.WriteTo(w)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// matchModels finds each block in each of the models that become experts.
func (r *rewriter) matchModels(blocks []*Block) error {
	r.others = map[int]*onnx.Model{}
	for _, b := range blocks {
		b.counterparts = map[int]*Block{}
	}
	for _, e := range slices.Sorted(maps.Keys(r.options.Models)) {
		x := r.options.Models[e]
		if err := r.matchModel(e, x.Model, blocks); err != nil {
			return fmt.Errorf("the model for expert %d, %s: %w", e, x.Name, err)
		}
	}
	return nil
}

func (r *rewriter) matchModel(e int, m *onnx.Model, blocks []*Block) error {
	if m == nil {
		return errors.New("there is no model")
	}
	if err := onnx.Check(m); err != nil {
		return fmt.Errorf("it is not valid: %w", err)
	}
	if hasCalls(m) {
		m = m.Clone()
		if err := inline(m); err != nil {
			return err
		}
	}
	found := find(m, r.dequantizer)
	for _, b := range blocks {
		if b.Index >= len(found) {
			return fmt.Errorf("block %d, %s, is missing: it has %d blocks", b.Index, b.Name, len(found))
		}
		other := &found[b.Index]
		if difference := b.differs(other); difference != "" {
			return fmt.Errorf("block %d, %s: %s", b.Index, b.Name, difference)
		}
		b.counterparts[e] = other
	}
	r.others[e] = m
	return nil
}

// differs says in what a block of another model differs from b, "" where its
// weights fit.
func (b *Block) differs(other *Block) string {
	switch {
	case other.Refused != "":
		return "there it cannot be replaced: " + other.Refused
	case other.Graph != b.Graph:
		return fmt.Sprintf("it is in graph %s, not %s", other.Graph, b.Graph)
	case other.Name != b.Name:
		return fmt.Sprintf("it has the name %s there", other.Name)
	case other.Kind != b.Kind || other.Activation != b.Activation:
		return fmt.Sprintf("it is %s with %s, not %s with %s", other.Kind, other.Activation, b.Kind, b.Activation)
	case other.DModel != b.DModel || other.DHidden != b.DHidden:
		return fmt.Sprintf("its d_model is %d and d_hidden %d, not %d and %d", other.DModel, other.DHidden, b.DModel, b.DHidden)
	case other.ElementType != b.ElementType:
		return fmt.Sprintf("it computes in %s, not %s", other.ElementType, b.ElementType)
	}
	theirs := other.biases()
	for i, bias := range b.biases() {
		if (bias == nil) != (theirs[i] == nil) {
			return "one of the two has a bias that the other lacks"
		}
	}
	return ""
}

// withCounterparts returns b and the blocks of other models that become its
// experts.
func (b *Block) withCounterparts() []*Block {
	all := []*Block{b}
	for _, e := range slices.Sorted(maps.Keys(b.counterparts)) {
		all = append(all, b.counterparts[e])
	}
	return all
}
