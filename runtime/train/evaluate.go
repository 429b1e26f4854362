package train

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

// evaluation is the model without what is done in training only.
type evaluation struct {
	objective *objective
	session   *runtime.Session // nil in a pipeline stage that is not the last one
	forward   *passage         // there
	in        []int            // where among inputs those from the stage before are
	inputs    []*tensor.Tensor
	feeds     []feed
	at        map[string]int
}

// Evaluate returns the loss of the task over batches, of which next returns
// one after the other and at last io.EOF. Each worker may have other batches.
// Gates behave as they do when the model is used, and dropout drops nothing.
func (t *Trainer) Evaluate(ctx context.Context, next func() (Batch, error)) (report.Evaluation, error) {
	e, err := t.evaluator()
	result := report.Evaluation{Step: t.step}
	if err != nil {
		return result, err
	}
	var runner *runtime.Runner // whose memory is not kept
	if e.session != nil {
		runner = e.session.NewRunner()
	}
	loss, weight := 0.0, 0.0
	for {
		batch, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return result, err
		}
		w, err := t.options.Loss.weight(batch)
		if err != nil {
			return result, err
		}
		if w == 0 && t.options.Workers.Alone() { // rows of padding
			continue
		}
		weight += w
		if e.forward != nil {
			if err := t.pass(ctx, e, batch); err != nil {
				return result, err
			}
			continue
		}
		if err := e.objective.supply(e.inputs, e.feeds, batch); err != nil {
			return result, err
		}
		if t.pipeline != nil {
			in, err := t.pipeline.arrive(ctx)
			if err != nil {
				return result, err
			}
			put(e.inputs, e.in, in)
		}
		out, err := runner.Run(ctx, e.inputs)
		if err != nil {
			return result, err
		}
		s := newStep(e.objective)
		if err := e.objective.read(s, out, e.at, 1); err != nil {
			return result, err
		}
		if w > 0 { // else the loss is not a number, but other workers wait for this one
			loss += w * float64(s.Loss)
		}
		result.Tokens += s.Labels
	}
	if err := sumEvaluation(ctx, &t.options, &loss, &weight, &result); err != nil {
		return result, err
	}
	classes := int64(0)
	if e.objective.count != "" {
		classes = 1
	}
	if p := t.pipeline; p != nil { // the last stage knows
		if err := errors.Join(p.settle(), sumOver(ctx, p.group, &loss), sumOver(ctx, p.group, &result.Tokens, &classes)); err != nil {
			return result, err
		}
	}
	result.Loss, result.Perplexity = report.Number(loss/weight), report.Number(math.NaN())
	if classes > 0 {
		result.Perplexity = report.Number(math.Exp(float64(result.Loss)))
	}
	return result, nil
}

// pass lets a batch go on to the next stage.
func (t *Trainer) pass(ctx context.Context, e *evaluation, batch Batch) error {
	in, err := t.pipeline.arrive(ctx)
	if err != nil {
		return err
	}
	out, err := e.forward.run(ctx, e.objective, batch, in)
	if err != nil {
		return err
	}
	return t.pipeline.send(ctx, t.pipeline.rank+1, out)
}

func (t *Trainer) evaluator() (*evaluation, error) {
	if t.evaluation != nil {
		return t.evaluation, nil
	}
	parameters := make([]Parameter, len(t.parameters))
	for i, p := range t.parameters {
		parameters[i] = p.Parameter
	}
	// Labels are not smoothed, and nothing but the task counts.
	l := t.options.Loss
	l.LabelSmoothing, l.ZLoss, l.Balance, l.RouterZ = 0, 0, 0, 0
	o, err := newObjective(t.source, l, parameters, false, &t.options, t.stage())
	if err != nil {
		return nil, err
	}
	for _, b := range t.biases {
		makeInput(o.model.Graph, b)
		if o.forward != nil {
			makeInput(o.forward.Graph, b)
		}
	}
	e := &evaluation{objective: o}
	options := t.options.sessions()
	options.Gradient, options.Beside = nil, t.session
	for _, p := range parameters {
		options.Resident = append(options.Resident, p.Name)
	}
	if o.forward != nil {
		e.forward, err = newPassage(o, t.stage(), options, t.fixed())
		t.evaluation = e
		return e, err
	}
	if e.session, err = runtime.New(o.model, options); err != nil {
		return nil, err
	}
	e.at = places(e.session)
	e.inputs, e.feeds = connected(e.session, t.fixed())
	if t.pipeline != nil {
		e.in = t.stage().among(e.session)
	}
	t.evaluation = e
	return e, nil
}

func (e *evaluation) close() error {
	err := e.forward.close()
	if e.session != nil {
		err = errors.Join(err, e.session.Close())
	}
	return err
}
