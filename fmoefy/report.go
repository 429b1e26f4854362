package fmoefy

import (
	"fmt"
	"math"
	"strings"

	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Report says what Rewrite did.
type Report struct {
	Blocks []BlockReport `json:"blocks"`

	NumExperts       int    `json:"num_experts"`
	ExpertsPerWorker int    `json:"experts_per_worker"`
	Workers          int    `json:"workers"`
	TopK             int    `json:"top_k"`
	Gate             string `json:"gate"`
	Init             Init   `json:"init"`
	Target           Target `json:"target"`
	Seed             uint64 `json:"seed"`

	SharedWeight float64 `json:"shared_weight,omitempty"` // of the shared expert

	// ExpertWeights and BlockSize are how the options want the experts'
	// weights stored.
	ExpertWeights Storage `json:"expert_weights,omitempty"`
	BlockSize     int     `json:"block_size,omitempty"`

	// NoBody says why the FMoE nodes have no function as their body, so that
	// other runtimes cannot run them; it is empty where they have one.
	NoBody string `json:"no_body,omitempty"`

	// Parameters of the model, in floating-point initializers and experts'
	// weights: before, after, and after as far as one token uses them.
	ParametersBefore int64 `json:"parameters_before"`
	ParametersAfter  int64 `json:"parameters_after"`
	ParametersActive int64 `json:"parameters_active"`

	// Equal promises that the rewritten model computes the same function as
	// the dense one, up to rounding, and Approximate that it nearly does. Why
	// gives the reason for that, or for neither. Where storing the experts'
	// weights changes them, WeightError is the root of the mean square of the
	// differences, over that of the weights.
	Equal       bool    `json:"equal"`
	Approximate bool    `json:"approximate,omitempty"`
	Why         string  `json:"why"`
	WeightError float64 `json:"weight_error,omitempty"`
}

// BlockReport describes a block that Find found and what became of it.
type BlockReport struct {
	Index       int            `json:"index"`
	Name        string         `json:"name"`
	Graph       string         `json:"graph"`
	Kind        Kind           `json:"kind,omitempty"`
	Activation  moe.Activation `json:"activation,omitempty"`
	DModel      int64          `json:"d_model,omitempty"`
	DHidden     int64          `json:"d_hidden,omitempty"`
	ElementType string         `json:"element_type,omitempty"`
	Parameters  int64          `json:"parameters_before,omitempty"` // of the MLP

	Replaced bool   `json:"replaced"`
	Reason   string `json:"reason,omitempty"` // why it was not replaced

	// Of the mixture of experts with its router and shared expert: in all, and
	// as far as one token uses them.
	ParametersAfter  int64 `json:"parameters_after,omitempty"`
	ParametersActive int64 `json:"parameters_active,omitempty"`

	// SharesWith is the name of the block before whose experts this one uses.
	SharesWith string `json:"shares_with,omitempty"`
}

// Describe returns a block as a report has it, without what became of it.
func (b *Block) Describe() BlockReport {
	r := BlockReport{Index: b.Index, Name: b.Name, Graph: b.Graph, Kind: b.Kind, Activation: b.Activation,
		DModel: b.DModel, DHidden: b.DHidden, Parameters: b.Parameters, Reason: b.Refused}
	if b.ElementType.Valid() {
		r.ElementType = b.ElementType.String()
	}
	return r
}

// report describes the blocks and what was done with them. The model's
// parameters are left to the caller.
func (r *rewriter) report(blocks []Block, reasons []string) Report {
	o := r.options
	report := Report{NumExperts: o.NumExperts, ExpertsPerWorker: o.ExpertsPerWorker, Workers: o.Workers,
		TopK: o.TopK, Gate: o.Gate, Init: o.Init, Seed: o.Seed, Target: o.Target,
		SharedWeight: o.SharedWeight, ExpertWeights: o.ExpertWeights, BlockSize: o.BlockSize}
	for i := range blocks {
		d := blocks[i].Describe()
		d.Replaced, d.Reason = reasons[i] == "", reasons[i]
		report.Blocks = append(report.Blocks, d)
	}
	elements, errors := 0.0, 0.0
	owner := map[*expertSet]string{}
	for _, p := range r.replaced {
		d := &report.Blocks[p.block.Index]
		d.ParametersAfter = p.set.parameters
		if o.SharedExpert {
			d.ParametersAfter += p.block.Parameters
		}
		d.ParametersActive = d.ParametersAfter - p.set.idle(o)
		d.SharesWith = owner[p.set]
		if owner[p.set] == "" {
			owner[p.set] = p.block.Name
			elements, errors = elements+p.set.elements, errors+p.set.errors
		}
	}
	if errors > 0 {
		report.WeightError = math.Sqrt(errors / elements)
	}
	function := o.whenWritten(r.replaced[0], report.WeightError)
	for _, p := range r.replaced[1:] {
		function = function.worse(o.whenWritten(p, report.WeightError))
	}
	if r.noBody != nil && o.Target == Portable {
		report.NoBody = r.noBody.Error()
	}
	report.Equal, report.Approximate, report.Why = function.kept == equal, function.kept == nearly, function.why
	return report
}

// whenWritten returns what is promised of a block once its experts are stored
// with an error and the target's operators compute them.
func (o Options) whenWritten(p replacement, weightError float64) promise {
	function := p.set.promise
	if function.kept == changed {
		return function
	}
	if o.SharedExpert {
		function.why = "the shared expert is the MLP, " + function.why
	}
	var but []string
	if p.block.Activation == moe.GELU && o.Target == ONNXRuntime {
		but = append(but, "an approximation of GELU changes hidden values by up to 0.0005")
	}
	if p.set.stored.elementType != p.block.ElementType {
		but = append(but, fmt.Sprintf("storing weights changes them by %.2g %% (root mean square)", 100*weightError))
	}
	if len(but) > 0 {
		return promise{nearly, function.why + ", but " + strings.Join(but, " and ")}
	}
	return function
}

// idle returns the number of parameters that a token does not use.
func (s *expertSet) idle(o Options) int64 { return int64(o.NumExperts-o.TopK) * s.perExpert }

// hidden returns the parameters of quantised weights beyond their scales.
func (r *rewriter) hidden() int64 {
	n := int64(0)
	for _, s := range r.sets {
		n += s.hidden
	}
	return n
}

func (r *rewriter) idle() int64 {
	n := int64(0)
	for _, s := range r.sets {
		n += s.idle(r.options)
	}
	return n
}
