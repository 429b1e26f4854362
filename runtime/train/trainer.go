package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	goruntime "runtime"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/routing"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/report"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// Options say how a model is trained.
type Options struct {
	Loss      Loss
	Optimizer Optimizer
	Schedule  Schedule
	// Groups give parameters other settings; the last one that matches counts.
	Groups []Group
	// Steps is the number of steps of the whole training, for the schedule.
	Steps int64
	// Clip bounds the norm of all gradients together; 0 does not.
	Clip float64
	// BiasRate is the step by which selection biases of FMoE layers are moved
	// to balance experts (arXiv 2408.15664); 0 leaves them.
	BiasRate float64
	// Precision is "float32", or "bfloat16" for products of that type, with
	// weights and everything else in float32.
	Precision string
	// Recompute computes activations a second time instead of keeping them.
	Recompute bool
	// Seed is the key of all random numbers.
	Seed int64
	// Workers are the groups of those that train together; nil is one worker.
	// Those with different tokens make steps over their own batches, and all
	// come to the weights that one would. Their options, models and numbers of
	// steps must be the same.
	Workers *comm.Groups
	// ShardOptimizer divides the optimizer's state among workers that have the
	// same parameters.
	ShardOptimizer bool
	// Runtime are the options of the sessions.
	Runtime runtime.Options
}

// DefaultOptions are good for continuing the training of a language model.
func DefaultOptions() Options {
	return Options{Loss: DefaultLoss(), Optimizer: DefaultOptimizer(AdamW), Schedule: Schedule{Kind: Cosine, Minimum: 0.1},
		Steps: 1000, Clip: 1, BiasRate: 0.001, Precision: precisions[0]}
}

var precisions = []string{"float32", "bfloat16"}

// Check fails where options contradict each other.
func (o *Options) Check() error {
	checks := []error{o.Loss.check(), o.Optimizer.check(), o.Schedule.check()}
	for i := range o.Groups {
		checks = append(checks, o.Groups[i].check())
	}
	switch {
	case !slices.Contains(precisions, o.Precision):
		checks = append(checks, fmt.Errorf("precision %q is not known; there are %q", o.Precision, precisions))
	case o.Steps < 1:
		checks = append(checks, fmt.Errorf("steps %d must be 1 or more", o.Steps))
	case !(o.Clip >= 0):
		checks = append(checks, fmt.Errorf("clip %g must be 0 or more", o.Clip))
	case !(o.BiasRate >= 0):
		checks = append(checks, fmt.Errorf("bias_rate %g must be 0 or more", o.BiasRate))
	}
	return errors.Join(checks...)
}

// sessions returns the options of sessions that run the model.
func (o *Options) sessions() runtime.Options {
	r := o.Runtime
	r.Workers = o.Workers
	if o.Precision == "bfloat16" {
		r.Precision = onnx.BFloat16
	}
	return r
}

// Trainer trains a model step by step. One goroutine at a time may use it.
type Trainer struct {
	options    Options
	source     *onnx.Model // without function calls
	objective  *objective
	session    *runtime.Session
	runner     *runtime.Runner
	evaluation *evaluation
	parameters []*parameter
	biases     []*selectionBias
	updaters   map[updaterKey]*updater
	inputs     []*tensor.Tensor // of the session
	feeds      []feed           // which of them a batch supplies
	at         map[string]int   // where outputs are
	scale      *tensor.Tensor   // the gradient of the loss
	stepInput  *tensor.Tensor
	shared     []*reduction // gradients of several workers
	pipeline   *pipeline    // nil where the model is whole
	squaring   *besideSession
	adding     map[onnx.DataType]*besideSession
	size       int64 // elements of the parameters of all workers
	step       int64 // updates done
	skipped    int64
}

// parameter is a parameter in training.
type parameter struct {
	Parameter
	setting
	weight   *tensor.Tensor
	master   *tensor.Tensor // the weight in float32, where it is narrower; else nil
	states   []*tensor.Tensor
	names    []string // of states
	updater  *updater // nil where nothing depends on it, or another worker updates it
	sum      *tensor.Tensor
	gradient int            // the output that has its gradient, −1 where nothing depends on it
	summed   *tensor.Tensor // the gradient of a step

	// Of several workers:
	part      *safetensors.Part // which part of the parameter this one has, nil for all
	expert    bool              // workers with other experts have other gradients
	undivided bool              // though experts' hidden width is
	owner     int               // who updates it, where the state of the optimizer is divided
	elsewhere bool              // another one does
}

// wide returns the weight as it is updated.
func (p *parameter) wide() *tensor.Tensor {
	if p.master != nil {
		return p.master
	}
	return p.weight
}

// selectionBias is a selection bias of FMoE layers, which counts of rows
// change.
type selectionBias struct {
	name   string
	value  *tensor.Tensor
	layers []int
}

type feed struct {
	input int
	info  *onnx.ValueInfo
}

type updaterKey struct {
	rule rule
	t    onnx.DataType
	rank int
}

// New prepares the training of a model, which must stay open and unchanged for
// as long as the trainer is used.
func New(m *onnx.Model, o Options) (*Trainer, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	m, err := inlined(m)
	if err != nil {
		return nil, err
	}
	t := &Trainer{options: o, source: m, updaters: map[updaterKey]*updater{}}
	layers, _ := findExperts(m)
	var parts map[string]*safetensors.Part
	if !o.Workers.Alone() {
		if parts, err = divide(m, layers, o.Workers); err != nil {
			return nil, err
		}
	}
	found := Parameters(m)
	if len(found) == 0 {
		return nil, noParameters(m)
	}
	list, err := settings(o.Groups, o.Optimizer, found)
	if err != nil {
		return nil, err
	}
	if !o.Workers.Alone() && o.Workers.Layout.Pipeline > 1 {
		s, err := cut(m, found, o.Workers.Layout.Pipeline, o.Workers.Pipeline.Rank())
		if err != nil {
			return nil, err
		}
		m = s.model
		t.source, t.pipeline = m, &pipeline{stage: s, group: o.Workers.Pipeline}
	}
	trained := []Parameter{}
	for i, p := range found {
		if list[i].freeze {
			continue
		}
		whole := p.Shape
		if part := parts[p.Name]; part != nil {
			whole = part.Shape
		}
		t.size += int64(tensor.Count(whole))
		if t.pipeline == nil || m.Graph.Initializer(p.Name) != nil {
			trained = append(trained, p)
			slot, expert := layers[p.Name]
			t.parameters = append(t.parameters, &parameter{Parameter: p, setting: list[i], part: parts[p.Name], expert: expert, undivided: slot == moe.InputFC2Bias})
		}
	}
	if t.objective, err = newObjective(m, o.Loss, trained, true, &o, t.stage()); err != nil {
		return nil, err
	}
	if err := t.open(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func noParameters(m *onnx.Model) error {
	for _, n := range m.Graph.Nodes {
		if len(n.Subgraphs()) > 0 {
			return fmt.Errorf("node %q (%s): weights within control flow cannot be trained; export the model without it", n.Name, n.OpType)
		}
	}
	return errors.New("the model has no parameters that could be trained")
}

// inlined returns a copy of a model without function calls.
func inlined(m *onnx.Model) (*onnx.Model, error) {
	if err := onnx.Check(m); err != nil {
		return nil, err
	}
	m = m.Clone()
	m.Functions = slices.DeleteFunc(m.Functions, func(f *onnx.Function) bool {
		return f.Domain == moe.Domain && f.Name == moe.OpType
	})
	return m, m.Inline(func(*onnx.Node) bool { return false })
}

func (t *Trainer) open() error {
	if err := t.takeBiases(); err != nil {
		return err
	}
	var err error
	if t.session, err = runtime.New(t.objective.model, t.gradientOptions()); err != nil {
		return err
	}
	t.runner = t.session.NewRunner()
	t.at = places(t.session)
	for _, p := range t.parameters {
		if err := t.load(p); err != nil {
			return fmt.Errorf("parameter %q: %w", p.Name, err)
		}
	}
	if !t.options.Workers.Alone() {
		t.shared = t.reductions()
	}
	if err := t.checkPipeline(); err != nil {
		return err
	}
	for _, p := range t.parameters {
		if err := t.prepare(p); err != nil {
			return fmt.Errorf("parameter %q: %w", p.Name, err)
		}
	}
	if err := t.reside(); err != nil {
		return err
	}
	return t.connect()
}

// stage is the part of the model that this worker has, nil for all of it.
func (t *Trainer) stage() *stage {
	if t.pipeline == nil {
		return nil
	}
	return t.pipeline.stage
}

// gradientOptions are those of the session that makes steps.
func (t *Trainer) gradientOptions() runtime.Options {
	with := make([]string, len(t.parameters))
	for i, p := range t.parameters {
		with[i] = p.Name
	}
	if t.pipeline != nil {
		with = append(with, differentiable(t.pipeline.stage.in)...)
	}
	o := t.options.sessions()
	o.Resident = slices.Clone(with)
	for _, name := range with {
		o.Resident = append(o.Resident, runtime.GradientName(name))
	}
	for _, l := range t.objective.layers { // of which only their number is read
		o.Resident = append(o.Resident, l.indices)
	}
	o.Gradient = &runtime.Gradient{Of: t.objective.total, With: with, Recompute: t.options.Recompute}
	return o
}

// load gives a parameter memory for its weight, and finds its gradient.
func (t *Trainer) load(p *parameter) (err error) {
	if p.weight, err = copied(t.source, p.Name); err != nil {
		return err
	}
	p.gradient = -1
	if at, reached := t.at[runtime.GradientName(p.Name)]; reached {
		p.gradient = at
	}
	return nil
}

// prepare gives a parameter that this worker updates memory for the optimizer's
// states.
func (t *Trainer) prepare(p *parameter) (err error) {
	if p.gradient < 0 || p.elsewhere {
		return nil
	}
	weight := inFloat32(p.weight)
	if weight != p.weight {
		p.master = weight
	}
	r := newRule(t.options.Optimizer, &p.Parameter)
	if r.whole() && p.part != nil && t.options.Workers.Layout.Tensor > 1 {
		return fmt.Errorf("the optimizer %s takes whole matrices, which workers divide: use tensor=1, or another optimizer", t.options.Optimizer.Kind)
	}
	for _, s := range r.states(p.Shape) {
		p.names, p.states = append(p.names, s.name), append(p.states, tensor.New(weight.Type, s.shape...))
	}
	key := updaterKey{rule: r, t: weight.Type}
	if r.whole() {
		key.rank = len(p.Shape)
	}
	if t.updaters[key] == nil {
		if t.updaters[key], err = newUpdater(r, weight.Type, len(p.Shape), t); err != nil {
			return err
		}
	}
	p.updater = t.updaters[key]
	return nil
}

// copied returns an initializer in memory of its own.
func copied(m *onnx.Model, name string) (*tensor.Tensor, error) {
	v, err := tensor.FromONNX(m.Graph.Initializer(name))
	if err != nil {
		return nil, err
	}
	own := tensor.New(v.Type, v.Shape...)
	copy(own.Data, v.Data)
	m.Evict(v.Data)
	return own, nil
}

// takeBiases makes inputs of the selection biases that are to be moved.
func (t *Trainer) takeBiases() error {
	for i, l := range t.objective.layers {
		if l.selection == "" || t.options.BiasRate == 0 {
			continue
		}
		at := slices.IndexFunc(t.biases, func(b *selectionBias) bool { return b.name == l.selection })
		if at < 0 {
			value, err := copied(t.source, l.selection)
			if err != nil {
				return err
			}
			at = len(t.biases)
			t.biases = append(t.biases, &selectionBias{name: l.selection, value: value})
			makeInput(t.objective.model.Graph, t.biases[at])
			if t.objective.forward != nil {
				makeInput(t.objective.forward.Graph, t.biases[at])
			}
		}
		t.biases[at].layers = append(t.biases[at].layers, i)
	}
	return nil
}

// makeInput makes an input of a selection bias.
func makeInput(g *onnx.Graph, b *selectionBias) {
	g.Initializers = slices.DeleteFunc(g.Initializers, func(x *onnx.Tensor) bool { return x.Name == b.name })
	g.Inputs = append(g.Inputs, &onnx.ValueInfo{Name: b.name, Type: tensorType(b.value.Type, []int64{int64(b.value.Len())})})
}

// connect finds what each input of the session is given.
func (t *Trainer) connect() error {
	fixed := t.fixed()
	if t.objective.step != "" {
		t.stepInput = tensor.Scalar(int64(0))
		fixed[t.objective.step] = t.stepInput
	}
	seed := runtime.GradientName(t.objective.total)
	for _, v := range t.session.Inputs() {
		if v.Name == seed {
			t.scale = tensor.New(v.Type.ElemType)
			fixed[seed] = t.scale
		}
	}
	if t.pipeline == nil {
		t.inputs, t.feeds = connected(t.session, fixed)
		return nil
	}
	for _, name := range t.objective.back {
		fixed[name] = unknown
	}
	for _, v := range t.session.Inputs() {
		if v.Name == t.objective.share {
			t.pipeline.share = tensor.New(v.Type.ElemType)
			fixed[v.Name] = t.pipeline.share
		}
	}
	t.inputs, t.feeds = connected(t.session, fixed)
	return t.openPipeline(fixed)
}

// connected lists the inputs of a session, those that are fixed, and where
// those are that a batch supplies.
func connected(s *runtime.Session, fixed map[string]*tensor.Tensor) (inputs []*tensor.Tensor, feeds []feed) {
	inputs = make([]*tensor.Tensor, len(s.Inputs()))
	for i, v := range s.Inputs() {
		if inputs[i] = fixed[v.Name]; inputs[i] == nil {
			feeds = append(feeds, feed{i, v})
		}
	}
	return inputs, feeds
}

// places returns the numbers of a session's outputs by their names.
func places(s *runtime.Session) map[string]int {
	at := map[string]int{}
	for i, v := range s.Outputs() {
		at[v.Name] = i
	}
	return at
}

// unknown stands for an input until another stage sends it.
var unknown = tensor.New(onnx.Float32)

// fixed returns the inputs that are not of a batch, by name.
func (t *Trainer) fixed() map[string]*tensor.Tensor {
	list := map[string]*tensor.Tensor{}
	for _, p := range t.parameters {
		list[p.Name] = p.weight
	}
	for _, b := range t.biases {
		list[b.name] = b.value
	}
	if t.pipeline != nil { // what stages send is placed among the inputs when it arrives
		for _, v := range t.pipeline.stage.in {
			list[v.Name] = unknown
		}
	}
	return list
}

// supply puts a batch into inputs.
func (o *objective) supply(inputs []*tensor.Tensor, feeds []feed, batch Batch) error {
	for _, f := range feeds {
		var err error
		if f.info.Name == o.labels {
			if inputs[f.input] = batch[labelsName]; inputs[f.input] == nil {
				err = errors.New("the data has no labels")
			}
		} else {
			inputs[f.input], err = o.feed(f.info, batch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Step is what happened in a step of training. What the record has of tokens,
// time and memory is left to whoever lets the trainer make steps.
type Step struct {
	report.Step
	// Labels is how many labels counted, Correct for how many of them the
	// model's first choice was right; both are 0 for losses without classes.
	Labels, Correct int64
	// NonFinite is not "" where the step changed no weight, because this is
	// not finite: "loss", or the name of the first parameter whose gradient
	// is not.
	NonFinite string

	rows  [][]int64 // that experts computed, by layer
	slots []int64
}

// Step updates the weights by the mean gradient over batches, in which each
// label counts the same, on whatever worker. It stops, changing nothing, when
// ctx is done.
func (t *Trainer) Step(ctx context.Context, batches ...Batch) (*Step, error) {
	shares, err := t.shares(ctx, batches)
	if err != nil {
		return nil, err
	}
	if t.stepInput != nil {
		tensor.Of[int64](t.stepInput)[0] = t.step
	}
	s := newStep(t.objective)
	out, err := t.run(ctx, s, batches, shares)
	if err != nil {
		return nil, err
	}
	if err := s.sum(ctx, &t.options); err != nil {
		return nil, err
	}
	if t.pipeline != nil {
		if err := t.pipeline.merge(ctx, s); err != nil {
			return nil, err
		}
	}
	s.finish(t.options.Loss)
	for _, p := range t.parameters {
		switch {
		case p.gradient < 0:
		case len(batches) > 1:
			p.summed = p.sum
		default:
			p.summed = inFloat32(out[p.gradient])
		}
	}
	if err := t.sumGradients(ctx); err != nil {
		return nil, err
	}
	return s, t.update(ctx, s)
}

// run computes the gradients of all batches.
func (t *Trainer) run(ctx context.Context, s *Step, batches []Batch, shares []float64) (out []*tensor.Tensor, err error) {
	if t.pipeline != nil {
		return t.runStage(ctx, s, batches, shares)
	}
	for i, batch := range batches {
		if err := t.objective.supply(t.inputs, t.feeds, batch); err != nil {
			return nil, err
		}
		tensor.ConvertFloat(t.scale, tensor.Scalar(shares[i]))
		if out, err = t.runner.Run(ctx, t.inputs); err != nil {
			return nil, err
		}
		if err := t.objective.read(s, out, t.at, shares[i]); err != nil {
			return nil, err
		}
		if len(batches) > 1 {
			if err := t.accumulate(out, i == 0); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// shares returns what part of the labels of all workers each batch has.
func (t *Trainer) shares(ctx context.Context, batches []Batch) ([]float64, error) {
	if len(batches) == 0 {
		return nil, errors.New("a step needs a batch")
	}
	shares := make([]float64, len(batches))
	total := 0.0
	for i, b := range batches {
		n, err := t.options.Loss.weight(b)
		if err != nil {
			return nil, err
		}
		shares[i] = n
		total += n
	}
	if err := sum(ctx, &t.options, &total); err != nil {
		return nil, err
	}
	for i := range shares {
		shares[i] /= max(total, 1)
	}
	return shares, nil
}

// weight returns how much a batch counts among others: as much as it has
// labels that count, or rows where there are no classes.
func (l *Loss) weight(b Batch) (float64, error) {
	labels := b[labelsName]
	if l.Kind == MSE || l.Kind == Output || labels == nil {
		for _, x := range b {
			if x.Rank() > 0 {
				return float64(x.Shape[0]), nil
			}
		}
		return 1, nil
	}
	x, err := labels.Ints()
	if err != nil {
		return 0, fmt.Errorf("labels are %s, need integers", labels)
	}
	n := 0.0
	for _, label := range x {
		if label != l.IgnoreIndex {
			n++
		}
	}
	return n, nil
}

func newStep(o *objective) *Step {
	s := &Step{rows: make([][]int64, len(o.layers)), slots: make([]int64, len(o.layers))}
	s.Layers = make([]report.Layer, len(o.layers))
	for i, l := range o.layers {
		s.Layers[i].Name = l.name
	}
	return s
}

// read adds the outputs of a run, whose labels are a share of the step's.
func (o *objective) read(s *Step, out []*tensor.Tensor, at map[string]int, share float64) error {
	add := func(to *report.Number, name string) error {
		x, err := tensor.Float64s(out[at[name]])
		if err != nil || len(x) != 1 {
			return fmt.Errorf("output %q is %s, needs one number", name, out[at[name]])
		}
		*to += report.Number(share * x[0])
		return nil
	}
	if o.task != "" {
		if err := add(&s.Loss, o.task); err != nil {
			return err
		}
	}
	if o.count != "" {
		s.Labels += tensor.Of[int64](out[at[o.count]])[0]
		s.Correct += tensor.Of[int64](out[at[o.correct]])[0]
	}
	for i, l := range o.layers {
		if err := errors.Join(add(&s.Layers[i].BalanceLoss, l.balance), add(&s.Layers[i].ZLoss, l.z)); err != nil {
			return err
		}
		rows := tensor.Of[int64](out[at[l.count]])
		if s.rows[i] == nil {
			s.rows[i] = make([]int64, len(rows))
		}
		for e, n := range rows {
			s.rows[i][e] += n
		}
		if indices := out[at[l.indices]]; !l.expertChoice {
			s.slots[i] += int64(indices.Len())
		}
	}
	return nil
}

// finish computes what follows from all runs of a step.
func (s *Step) finish(l Loss) {
	for i := range s.Layers {
		x := &s.Layers[i]
		x.Balance = routing.BalanceOf(s.rows[i], s.slots[i])
		s.BalanceLoss += x.BalanceLoss
		s.ZLoss += x.ZLoss
	}
	s.Total = s.Loss + report.Number(l.Balance)*s.BalanceLoss + report.Number(l.RouterZ)*s.ZLoss
}

// accumulate adds the gradients of a run to those of the runs before.
func (t *Trainer) accumulate(out []*tensor.Tensor, first bool) error {
	for _, p := range t.parameters {
		if p.gradient < 0 {
			continue
		}
		if err := t.add(p, out[p.gradient], first); err != nil {
			return err
		}
	}
	return nil
}

// update lets the optimizers change the weights, if all is finite.
func (t *Trainer) update(ctx context.Context, s *Step) error {
	norm, infinite, err := t.norm(ctx)
	if err != nil {
		return err
	}
	if x := float64(s.Total); math.IsNaN(x) || math.IsInf(x, 0) {
		infinite = "loss"
	}
	t.step++
	factor := t.options.Schedule.Factor(t.step-1, t.options.Steps)
	s.Step.Step, s.GradientNorm, s.LearningRates = t.step, report.Number(norm), t.rates(factor)
	if s.NonFinite = infinite; infinite != "" {
		t.skipped++
		s.Skipped = t.skipped
		return nil
	}
	s.Skipped = t.skipped
	scale := 1.0
	if t.options.Clip > 0 && norm > t.options.Clip {
		scale = t.options.Clip / norm
	}
	for _, p := range t.parameters {
		if p.updater == nil {
			continue
		}
		h := hyper{step: t.step - t.skipped, rate: t.options.Optimizer.LearningRate * factor * p.rateFactor, weightDecay: p.weightDecay}
		if err := p.updater.apply(p.wide(), p.summed, p.states, scale, h); err != nil {
			return fmt.Errorf("parameter %q: %w", p.Name, err)
		}
		if p.master != nil {
			tensor.ConvertFloat(p.weight, p.master)
		}
	}
	if err := t.spreadWeights(ctx); err != nil {
		return err
	}
	rows := s.rows
	if t.pipeline != nil {
		rows = rows[t.pipeline.before:]
	}
	for _, b := range t.biases {
		b.move(rows, t.options.BiasRate)
	}
	return nil
}

// threads is the number of threads that may compute.
func (t *Trainer) threads() int {
	if n := t.options.Runtime.Threads; n > 0 {
		return n
	}
	return goruntime.GOMAXPROCS(0)
}

// rates returns the learning rates of all groups.
func (t *Trainer) rates(factor float64) map[string]report.Number {
	rates := map[string]report.Number{}
	for _, p := range t.parameters {
		label := p.label
		if label == "" {
			label = "default"
		}
		rates[label] = report.Number(t.options.Optimizer.LearningRate * factor * p.rateFactor)
	}
	return rates
}

// move lets the bias of experts with fewer rows than the mean grow.
func (b *selectionBias) move(rows [][]int64, rate float64) {
	total := make([]int64, b.value.Len())
	for _, i := range b.layers {
		for e, n := range rows[i] {
			total[e] += n
		}
	}
	x, err := tensor.Float64s(b.value)
	if err != nil {
		return // it was made of a floating-point initializer
	}
	moe.UpdateSelectionBias(x, total, rate)
	tensor.ConvertFloat(b.value, tensor.FromSlice(x, len(x)))
}

// Close frees what the trainer holds.
func (t *Trainer) Close() error {
	errs := []error{t.squaring.close()}
	for _, b := range t.adding {
		errs = append(errs, b.close())
	}
	for _, u := range t.updaters {
		errs = append(errs, u.close())
	}
	if t.evaluation != nil {
		errs = append(errs, t.evaluation.close())
	}
	if t.pipeline != nil {
		errs = append(errs, t.pipeline.forward.close())
	}
	if t.session != nil { // beside which the others are
		errs = append(errs, t.session.Close())
	}
	return errors.Join(errs...)
}
