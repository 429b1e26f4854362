package fmoefy

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Options say how Rewrite builds mixtures of experts. Zero values stand for
// the defaults.
type Options struct {
	// NumExperts is the number of experts of a block in all. It may be given
	// as ExpertsPerWorker × Workers instead.
	NumExperts                int
	ExpertsPerWorker, Workers int

	// TopK is the number of experts for each token. The default is what the
	// gate allows, or else 2, or 1 where there is one expert.
	TopK int

	GateOptions

	// Include and Exclude select blocks by index ("3"), by a range of indices
	// ("0-5") or by name, in which "*" and "?" stand for any characters. With
	// no Include every block is taken; Exclude wins. A doubtful block is taken
	// where Include has its index or its whole name.
	Include, Exclude []string

	// EveryN takes the n-th, 2n-th … of the selected blocks of each graph.
	EveryN int

	// Dequantize replaces blocks with quantised weights too: their experts have
	// the floating-point numbers that those stand for. Otherwise such blocks
	// are refused.
	Dequantize bool

	// SeparateShared gives blocks of one graph that share their weights, as
	// the layers of an ALBERT do, experts of their own instead of one set.
	SeparateShared bool

	Init Init // default Copy, or FromModels where there are Models

	// Models are the fine-tuned models of FromModels, by the expert that their
	// MLPs become. They must stay open until the model is written. NumExperts is
	// by default as large as the experts' numbers need.
	Models map[int]ExpertModel

	// Rest says where everything else is from; the default is RestBase.
	Rest Rest

	// NoiseScale is the standard deviation of Noise in units of that of the
	// tensor that it is added to. The default is 0.01.
	NoiseScale float64

	// DropRatio is the share of the hidden columns that start anew in each expert
	// of Drop. The default is 0.5.
	DropRatio float64

	// Granularity is the number of experts in a group of VirtualGroup, each of
	// which is one of as many shards of the MLP. The default is 2. TopK is a
	// multiple of it, by default two groups.
	Granularity int

	// Calibration are inputs of the dense model that are typical of its use, to
	// which Split fits experts and routers, for the top-k of the options.
	Calibration []map[string]*tensor.Tensor

	// RandomStd is the σ of Random. The default is 0.02.
	RandomStd float64

	// Hidden is the experts' hidden width where that is not the MLP's; it
	// needs the init Random.
	Hidden int

	// SharedExpert leaves the dense MLP beside the routed experts, always on,
	// with SharedWeight α: the result is α·MLP + (1−α)·experts. The default of α
	// is 0.5.
	SharedExpert bool
	SharedWeight float64

	// ExpertWeights is how the experts' weights are stored; the default is the
	// type that a block computes in. Biases and routers have that type, and
	// experts compute in it, however they are stored. Except for the default
	// the rewritten model is equal to the dense one only approximately. "f16"
	// and "bf16" are short for two of the storages.
	ExpertWeights Storage

	// BlockSize is how many weights of a row share a scale, where they are
	// integers: a power of two from 16, by default 32.
	BlockSize int

	GateInit  GateInit // default GateNormal, or GatePrompts where there are Prompts
	GateStd   float64  // of GateNormal, default 0.02
	GateScale float64  // of GateOrthogonal and GatePrompts, default 1

	// Prompts are, for each expert, inputs of the dense model that it shall be
	// chosen for. PromptsContrast takes off what all of them have in common.
	Prompts         [][]map[string]*tensor.Tensor
	PromptsContrast bool

	// Run computes the outputs of a model for prompts or calibration, which are
	// all of one model.
	Run func(m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error)

	// Seed makes the random numbers of weights. Equal seeds give equal bytes.
	Seed uint64

	// Target and AllowGELUApproximation are those of ExportOptions.
	Target                 Target
	AllowGELUApproximation bool

	DryRun bool // report only
}

// Check reports what is wrong with the options, whatever the model. The error
// is one line that says what to change.
func (o Options) Check() error {
	_, err := o.complete()
	return err
}

// complete fills in the defaults, or fails as Check does.
func (o Options) complete() (Options, error) {
	if len(o.Models) > 0 {
		setDefault(&o.Init, FromModels)
	}
	setDefault(&o.Init, Copy)
	setDefault(&o.Gate, moe.GateNaive)
	setDefault(&o.Target, Portable)
	setDefault(&o.EveryN, 1)
	if err := o.completeExperts(); err != nil {
		return o, err
	}
	switch {
	case o.EveryN < 1:
		return o, fmt.Errorf("every-n is %d, must be at least 1", o.EveryN)
	case o.Hidden < 0 || o.Hidden > math.MaxInt32:
		return o, fmt.Errorf("hidden width %d must be at least 1", o.Hidden)
	}
	if err := o.completeGateInit(); err != nil {
		return o, err
	}
	if err := o.completeShared(); err != nil {
		return o, err
	}
	if err := o.completeStorage(); err != nil {
		return o, err
	}
	if err := o.export().Check(); err != nil {
		return o, err
	}
	for _, pattern := range slices.Concat(o.Include, o.Exclude) {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return o, fmt.Errorf("pattern %q of block names is malformed", pattern)
		}
	}
	return o, nil
}

// checkPositive fails for a number that is no positive one.
func checkPositive(what string, x float64) error {
	if !(x > 0) || math.IsInf(x, 0) {
		return fmt.Errorf("the %s is %v, must be positive", what, x)
	}
	return nil
}

// export returns the options of what follows the rewriting.
func (o Options) export() ExportOptions { return ExportOptions{o.Target, o.AllowGELUApproximation} }

func setDefault[T comparable](at *T, value T) {
	var zero T
	if *at == zero {
		*at = value
	}
}

// maxExperts bounds the experts of a block; published models have a few
// thousand.
const maxExperts = 1 << 16

// completeExperts settles how many experts there are and what they are made
// of.
func (o *Options) completeExperts() error {
	product := o.ExpertsPerWorker * max(o.Workers, 1)
	switch {
	case o.NumExperts < 0 || o.ExpertsPerWorker < 0 || o.Workers < 0:
		return fmt.Errorf("numbers of experts and workers must be at least 1")
	case o.NumExperts > maxExperts || o.ExpertsPerWorker > maxExperts || o.Workers > maxExperts || product > maxExperts:
		return fmt.Errorf("more than %d experts", maxExperts)
	case o.NumExperts > 0 && o.ExpertsPerWorker > 0 && o.NumExperts != product:
		return fmt.Errorf("%d experts in all are not %d for each of %d workers", o.NumExperts, o.ExpertsPerWorker, max(o.Workers, 1))
	}
	kind, err := kindOf(o)
	if err != nil {
		return err
	}
	setDefault(&o.NumExperts, product)
	if kind.complete != nil {
		if err := kind.complete(o); err != nil {
			return err
		}
	}
	setDefault(&o.Workers, 1)
	switch {
	case o.NumExperts == 0:
		return fmt.Errorf("the number of experts is missing: give it in all, or per worker with the number of workers")
	case o.NumExperts%o.Workers != 0:
		return fmt.Errorf("%d experts cannot be divided among %d workers", o.NumExperts, o.Workers)
	}
	o.ExpertsPerWorker = o.NumExperts / o.Workers
	if o.TopK == 0 {
		o.TopK = o.defaultTopK()
	}
	_, err = o.gateConfig()
	return err
}

// defaultTopK returns the largest top-k up to 2 that the gate takes.
func (o Options) defaultTopK() int {
	most := min(2, o.NumExperts)
	for o.TopK = most; o.TopK > 0; o.TopK-- {
		if _, err := o.gateConfig(); err == nil {
			return o.TopK
		}
	}
	return most
}

// gateConfig returns what an FMoE node with the options' gate says, as far as
// it does not depend on the block.
func (o *Options) gateConfig() (moe.Config, error) {
	c := moe.DefaultConfig(o.Gate)
	c.TopK = o.TopK
	return o.GateOptions.configure(c, o.Workers, o.NumExperts)
}

// choose returns for each block why it is not replaced, "" for those that
// are.
func (o Options) choose(blocks []Block) ([]string, error) {
	reasons := make([]string, len(blocks))
	counted := map[*scope]int{}
	matched := map[string]bool{}
	selected := func(patterns []string, b *Block) (matches, exactly bool) {
		for _, p := range patterns {
			if ok, exact := selects(p, b); ok {
				matched[p] = true
				matches, exactly = true, exactly || exact
			}
		}
		return matches, exactly
	}
	for i := range blocks {
		b := &blocks[i]
		included, named := selected(o.Include, b)
		excluded, _ := selected(o.Exclude, b)
		switch {
		case b.Refused != "" && !(b.Doubtful && named && !excluded):
			reasons[i] = b.Refused
		case excluded:
			reasons[i] = "excluded"
		case len(o.Include) > 0 && !included:
			reasons[i] = "not included"
		default:
			if counted[b.scope]++; counted[b.scope]%o.EveryN != 0 {
				reasons[i] = fmt.Sprintf("not one of every %d", o.EveryN)
			}
		}
	}
	for _, p := range slices.Concat(o.Include, o.Exclude) {
		if !matched[p] {
			return nil, fmt.Errorf("pattern %q selects none of the %d blocks", p, len(blocks))
		}
	}
	return reasons, nil
}

// selects reports whether a pattern selects a block, and whether it names this
// one block and no other.
func selects(pattern string, b *Block) (ok, exactly bool) {
	if pattern == b.Name || pattern == strconv.Itoa(b.Index) {
		return true, true
	}
	if from, to, isRange := strings.Cut(pattern, "-"); isRange {
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 == nil && err2 == nil {
			return first <= b.Index && b.Index <= last, false
		}
	}
	// Names are matched as one path element, so that "*" runs over all of it.
	ok, _ = path.Match(pattern, strings.ReplaceAll(b.Name, "/", "."))
	return ok, false
}
