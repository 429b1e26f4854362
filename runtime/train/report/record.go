// Package report is what a training run tells its user: records of its steps
// and evaluations, and the places that they go to. A log of JSON lines keeps
// all of them; TensorBoard, a line on the terminal and a page of HTML show
// them.
package report

import (
	"errors"
	"time"

	"github.com/fmoe-go/fmoe/runtime/routing"
)

// Number is a number that JSON has as null where it is infinite or not a
// number, as the loss of a step that was skipped.
type Number = routing.Number

// Run says what is trained, how, and on what.
type Run struct {
	Model      string    `json:"model"`      // file
	Parameters int64     `json:"parameters"` // that are trained
	Steps      int64     `json:"steps"`      // that the run will have; 0 where that is not known
	Config     string    `json:"config"`     // the whole of it, as the user may write it
	Machine    string    `json:"machine"`    // processor, threads
	Version    string    `json:"version"`    // of the program
	Started    time.Time `json:"started"`
}

// Step is what is known of a step of the optimizer. What is not known is not a
// number.
type Step struct {
	Step   int64 `json:"step"`   // 1 is the first
	Tokens int64 `json:"tokens"` // of this step and all before

	// Loss is that of the task. BalanceLoss and ZLoss are the sums over
	// Layers, before they are weighted, and Total is what the step minimises:
	// Loss and the other losses with their weights.
	Loss        Number `json:"loss"`
	BalanceLoss Number `json:"balance_loss"`
	ZLoss       Number `json:"z_loss"`
	Total       Number `json:"total_loss"`

	GradientNorm  Number            `json:"gradient_norm"`  // before it is clipped
	LearningRates map[string]Number `json:"learning_rates"` // of the parameter groups by name
	Skipped       int64             `json:"skipped"`        // steps so far whose loss or gradients were not finite

	TokensPerSecond Number `json:"tokens_per_second"`
	Memory          int64  `json:"memory"`  // bytes that the process has had in memory at most; 0 where that is not known
	Seconds         Number `json:"seconds"` // of training so far, with what was before a resumption

	Layers []Layer `json:"layers"` // of FMoE
}

// Layer is what an FMoE layer of a model did in a step.
type Layer struct {
	Name string `json:"name"`
	routing.Balance
	BalanceLoss Number `json:"balance_loss"` // before it is weighted; 0 where the gate has none
	ZLoss       Number `json:"z_loss"`       // likewise
}

// Evaluation is what is known of the model on the held-out data after a step.
type Evaluation struct {
	Step       int64  `json:"step"`
	Loss       Number `json:"loss"`       // the mean over Tokens
	Perplexity Number `json:"perplexity"` // exp(Loss); not a number where the loss is no cross-entropy
	Tokens     int64  `json:"tokens"`     // held-out ones
}

// Sink is a place where records go, in the order of their steps; the
// evaluation after a step follows the step. Close ends it, whatever failed
// before. A sink is used by one goroutine at a time and keeps nothing of what
// it is given.
type Sink interface {
	Step(Step) error
	Evaluation(Evaluation) error
	Close() error
}

// Sinks is a sink that hands records to each of its own, whether another one
// fails or not.
type Sinks []Sink

// Step implements [Sink].
func (s Sinks) Step(r Step) error {
	return s.each(func(k Sink) error { return k.Step(r) })
}

// Evaluation implements [Sink].
func (s Sinks) Evaluation(r Evaluation) error {
	return s.each(func(k Sink) error { return k.Evaluation(r) })
}

// Close implements [Sink].
func (s Sinks) Close() error { return s.each(Sink.Close) }

func (s Sinks) each(do func(Sink) error) error {
	var errs []error
	for _, k := range s {
		errs = append(errs, do(k))
	}
	return errors.Join(errs...)
}
