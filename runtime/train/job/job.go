// Package job runs a whole training: it reads a configuration, lets a trainer
// make steps over data, evaluates, saves checkpoints and reports.
package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"time"

	"github.com/fmoe-go/fmoe/internal/files"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/benchmark"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/train"
	"github.com/fmoe-go/fmoe/runtime/train/checkpoint"
	"github.com/fmoe-go/fmoe/runtime/train/data"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

// The files of a run directory, beside its checkpoints.
const (
	ConfigFile = "config.yaml" // the whole configuration
	LogFile    = "log.jsonl"   // what package report knows of each step
	EventsDir  = "events"      // event files for TensorBoard
)

// Options say where a run goes on, and who is told.
type Options struct {
	// Dir is the run's directory, which is made where it is not there.
	Dir string
	// Resume goes on after the newest checkpoint in Dir. Otherwise there must
	// be none.
	Resume bool
	// Report is a file for a page of HTML; "" writes none.
	Report string
	// TensorBoard writes event files into the run directory.
	TensorBoard bool
	// Progress is where the state of the run is shown; nil shows none.
	Progress io.Writer
	// Machine and Version are those of the computer and the program, for the log.
	Machine, Version string
	// Workers is the number of workers in this process, which divide the rows
	// of each batch and the threads; 0 is 1. A run may be resumed on another
	// number of workers.
	Workers int
	// World, where it is set, makes this process one worker among those of other
	// processes, instead of Workers. All need the same model, configuration and
	// run directory. Run closes it.
	World comm.Communicator
	// Layout is how the workers share the work, as many as it says; without one
	// they have different rows and the same experts.
	Layout comm.Layout
	// Schedule is how workers that share experts exchange rows.
	Schedule comm.Schedule
	// ShardOptimizer divides the optimizer's state among workers; see
	// train.Options.
	ShardOptimizer bool
	// Timeout is how long Workers wait for one another; 0 is ten minutes.
	Timeout time.Duration
	Runtime runtime.Options
}

// Result is how a run ended.
type Result struct {
	Steps       int64         `json:"steps"`
	Skipped     int64         `json:"skipped"`
	Tokens      int64         `json:"tokens"`
	Seconds     report.Number `json:"seconds"`
	Loss        report.Number `json:"loss"` // of the last step
	Held        report.Number `json:"held_out_loss"`
	Perplexity  report.Number `json:"held_out_perplexity"`
	Variation   report.Number `json:"load_variation"` // mean over layers and the last steps
	Checkpoint  string        `json:"checkpoint"`
	Interrupted bool          `json:"interrupted"`
}

// state is what a checkpoint has beside weights and the optimizer's state.
type state struct {
	Config   Config         `json:"config"`
	Progress train.Progress `json:"progress"`
	Position data.Position  `json:"position"`
	Tokens   int64          `json:"tokens"`
	Seconds  float64        `json:"seconds"`
}

// job is a run in progress, or a worker's part of it. Worker 0 saves and
// reports.
type job struct {
	workers  *comm.Groups
	options  Options
	config   Config
	model    *onnx.Model
	path     string
	trainer  *train.Trainer
	corpus   *corpus
	loader   *data.Loader
	run      *checkpoint.Run
	log      *report.Log
	progress *report.Progress
	sinks    report.Sinks

	position  data.Position // behind the last complete step
	tokens    int64
	seconds   float64
	skips     int64 // in a row
	variation []float64
	result    Result
}

// Run trains the model at path. When ctx is done it saves a checkpoint after
// the step before, and returns without an error.
func Run(ctx context.Context, path string, c Config, o Options) (*Result, error) {
	if o.World != nil {
		return runWorld(ctx, path, c, o)
	}
	n := max(o.Workers, o.Layout.Size(), 1)
	threads := o.Runtime.Threads
	if threads == 0 {
		threads = goruntime.GOMAXPROCS(0)
	}
	if n > 1 {
		o.Runtime.Threads = max(threads/n, 1)
	}
	var result *Result
	err := comm.RunLocal(ctx, n, comm.Options{Timeout: o.Timeout}, func(ctx context.Context, w comm.Communicator) error {
		r, err := run(ctx, path, c, o, w)
		if w.Rank() == 0 {
			result = r
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// runWorld runs the part of this process.
func runWorld(ctx context.Context, path string, c Config, o Options) (result *Result, err error) {
	rank := o.World.Rank()
	err = comm.Run(ctx, o.World, func(ctx context.Context, w comm.Communicator) error {
		result, err = run(ctx, path, c, o, w)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rank %d: %w", rank, err)
	}
	return result, nil
}

// run is the part of one worker.
func run(ctx context.Context, path string, c Config, o Options, w comm.Communicator) (_ *Result, err error) {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	j := &job{options: o, config: c, model: m, path: path}
	defer func() { err = errors.Join(err, j.close()) }()
	if err := j.group(ctx, w); err != nil {
		return nil, err
	}
	if err := j.open(ctx); err != nil {
		return nil, err
	}
	if err := j.loop(ctx); err != nil {
		return nil, err
	}
	return &j.result, nil
}

// WriteGraph writes what a step computes, but for the update, as an ONNX file
// to look at.
func WriteGraph(path, out string, c Config, o runtime.Options) (err error) {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	options := c.options()
	options.Runtime = o
	t, err := train.New(m, options)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	g, err := t.Graph()
	if err != nil {
		return err
	}
	return onnx.WriteFile(out, g, onnx.WriteOptions{})
}

// group divides the workers as the layout says.
func (j *job) group(ctx context.Context, world comm.Communicator) error {
	l := j.options.Layout
	if l == (comm.Layout{}) {
		l.Data = world.Size()
	}
	l, err := train.LimitLayout(j.model, l)
	if err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	if j.workers, err = comm.NewGroups(ctx, world, l); err != nil {
		return err
	}
	return j.workers.Use(ctx, j.options.Schedule)
}

// first reports whether this is worker 0.
func (j *job) first() bool { return j.workers.World.Rank() == 0 }

func (j *job) open(ctx context.Context) (err error) {
	if j.first() {
		if j.run, err = checkpoint.OpenRun(j.options.Dir, checkpoint.Options{Keep: j.config.Keep}); err != nil {
			return err
		}
	}
	// The others look for checkpoints in a directory that is in order.
	if err := j.workers.World.Barrier(ctx).Wait(); err != nil {
		return err
	}
	saved, err := j.saved()
	if err != nil {
		return err
	}
	if saved != nil {
		defer saved.Close()
	}
	if j.corpus, err = openCorpus(j.model, j.path, &j.config); err != nil {
		return err
	}
	o := j.config.options()
	o.Runtime, o.Workers, o.ShardOptimizer = j.options.Runtime, j.workers, j.options.ShardOptimizer
	if j.trainer, err = train.New(j.model, o); err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	j.loader, err = data.NewLoader(j.corpus.training, data.LoaderOptions{Batch: j.config.Data.Batch, Shuffle: true, Seed: uint64(j.config.Seed),
		Rank: j.workers.Tokens.Rank(), Workers: j.workers.Tokens.Size()})
	if err != nil {
		return err
	}
	j.position = j.loader.Position()
	if saved != nil {
		if err := j.restore(saved); err != nil {
			return fmt.Errorf("%s: %w", saved.Path(), err)
		}
	}
	if j.first() {
		if err := errors.Join(j.writeConfig(), j.openSinks(saved != nil)); err != nil {
			return err
		}
	}
	return j.workers.World.Barrier(ctx).Wait() // before worker 0 removes checkpoints
}

// saved opens the checkpoint to go on from, nil where the run is a new one.
func (j *job) saved() (*checkpoint.Checkpoint, error) {
	newest, err := checkpoint.Open(j.options.Dir)
	switch {
	case errors.Is(err, checkpoint.ErrNone):
		return nil, nil
	case j.options.Resume:
		return newest, err
	case err == nil:
		newest.Close()
	}
	return nil, fmt.Errorf("%s has checkpoints: give --resume, or another --output", j.options.Dir)
}

func (j *job) restore(from *checkpoint.Checkpoint) error {
	var s state
	if err := from.State(&s); err != nil {
		return err
	}
	// More steps, and other times to save, may be wished for.
	now := j.config
	now.Steps, now.EvaluateEvery, now.SaveEvery, now.Keep, now.SkipLimit = s.Config.Steps, s.Config.EvaluateEvery, s.Config.SaveEvery, s.Config.Keep, s.Config.SkipLimit
	if d := s.Config.difference(now); d != "" {
		return fmt.Errorf("the run had another configuration, now it has %s; give the same one, or another --output", d)
	}
	state := from.Optimizer.CopyAllTo
	if !j.workers.Alone() { // the rest is others'
		state = from.Optimizer.CopyTo
	}
	if err := j.trainer.Restore(s.Progress, from.Weights.CopyTo, state); err != nil {
		return err
	}
	j.position, j.tokens, j.seconds = s.Position, s.Tokens, s.Seconds
	return j.loader.Seek(s.Position)
}

func (j *job) writeConfig() error {
	return files.Replace(filepath.Join(j.options.Dir, ConfigFile), func(w io.Writer) error {
		_, err := io.WriteString(w, j.config.YAML())
		return err
	})
}

// openSinks opens what the run reports to.
func (j *job) openSinks(resumed bool) (err error) {
	step := j.trainer.Progress().Step
	r := report.Run{Model: j.path, Parameters: j.trainer.Size(), Steps: j.config.Steps, Config: j.config.YAML(),
		Machine: j.options.Machine, Version: j.options.Version, Started: time.Now()}
	path := filepath.Join(j.options.Dir, LogFile)
	if !resumed { // what is left of a run that was killed before its first checkpoint
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if j.log, err = report.ResumeLog(path, r, step); err != nil {
		return err
	}
	j.sinks = append(j.sinks, j.log)
	if j.options.Progress != nil {
		j.progress = report.NewProgress(j.options.Progress, j.config.Steps, progressEvery)
		j.sinks = append(j.sinks, j.progress)
	}
	if j.options.Report != "" {
		page := report.NewPage(j.options.Report, r, reportEvery)
		if resumed {
			if err := readLog(page, path); err != nil {
				return err
			}
		}
		j.sinks = append(j.sinks, page)
	}
	if j.options.TensorBoard {
		events, err := report.NewTensorBoard(filepath.Join(j.options.Dir, EventsDir), step)
		if err != nil {
			return err
		}
		j.sinks = append(j.sinks, events)
	}
	return nil
}

// readLog lets a page know what happened before a run was resumed.
func readLog(page *report.Page, log string) error {
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	return page.Read(f)
}

// progressEvery is how often a line is written where there is no terminal, and
// reportEvery how often the page is.
const (
	progressEvery = 10 * time.Second
	reportEvery   = 30 * time.Second
)

// loop makes the steps that are left. Several workers end together, behind the
// same step.
func (j *job) loop(ctx context.Context) error {
	done := ctx
	if !j.workers.Alone() {
		ctx = context.WithoutCancel(ctx)
	}
	for j.trainer.Progress().Step < j.config.Steps {
		stop, err := j.stopped(ctx, done)
		if err == nil && !stop {
			err = j.step(ctx)
			if err == nil && ctx.Err() == nil {
				err = j.between(ctx)
			}
		}
		if stop || ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
			j.result.Interrupted = true
			break
		}
		if err != nil {
			return err
		}
	}
	return j.finish(ctx)
}

// stopped reports whether any worker is to stop.
func (j *job) stopped(ctx, done context.Context) (bool, error) {
	if j.workers.Alone() {
		return false, nil
	}
	stop := []int64{0}
	if done.Err() != nil {
		stop[0] = 1
	}
	err := j.workers.World.AllReduce(ctx, comm.Slice(stop), comm.Sum).Wait()
	return stop[0] > 0, err
}

// step makes a step and reports it.
func (j *job) step(ctx context.Context) error {
	begin := time.Now()
	batches := make([]train.Batch, j.config.Accumulate)
	tokens := int64(0)
	for i := range batches {
		b, err := j.loader.Next()
		if err != nil {
			return err
		}
		batches[i] = b.Arrays
		tokens += int64(b.Tokens)
	}
	counts := []int64{tokens}
	if err := j.workers.Tokens.AllReduce(ctx, comm.Slice(counts), comm.Sum).Wait(); err != nil {
		return err
	}
	tokens = counts[0]
	s, err := j.trainer.Step(ctx, batches...)
	if err != nil {
		return err
	}
	seconds := time.Since(begin).Seconds()
	j.position = j.loader.Position()
	j.tokens += tokens
	j.seconds += seconds
	s.Tokens, s.Seconds = j.tokens, report.Number(j.seconds)
	s.TokensPerSecond, s.Memory = report.Number(float64(tokens)/seconds), benchmark.PeakMemory()
	j.result.Loss = s.Loss
	j.observe(s)
	if err := j.sinks.Step(s.Step); err != nil {
		return err
	}
	if s.NonFinite == "" {
		j.skips = 0
		return nil
	}
	if j.skips++; j.skips < j.config.SkipLimit {
		return nil
	}
	what := "the loss"
	if s.NonFinite != "loss" {
		what = fmt.Sprintf("the gradient of %q", s.NonFinite)
	}
	return fmt.Errorf("%d steps in a row were skipped, because %s was not finite; lower the learning rate, or train from an earlier checkpoint", j.skips, what)
}

// lastSteps is the number of steps at the end over which the variation of load
// is averaged.
const lastSteps = 50

func (j *job) observe(s *train.Step) {
	if len(s.Layers) == 0 {
		return
	}
	mean := 0.0
	for _, l := range s.Layers {
		mean += float64(l.Variation) / float64(len(s.Layers))
	}
	if j.variation = append(j.variation, mean); len(j.variation) > lastSteps {
		j.variation = j.variation[1:]
	}
}

// between does what is due after a step.
func (j *job) between(ctx context.Context) error {
	step := j.trainer.Progress().Step
	due := func(every int64) bool { return every > 0 && step%every == 0 && step < j.config.Steps }
	if due(j.config.EvaluateEvery) {
		if err := j.evaluate(ctx); err != nil {
			return err
		}
	}
	if due(j.config.SaveEvery) {
		return j.save(ctx)
	}
	return nil
}

// evaluate measures the loss of what is held out.
func (j *job) evaluate(ctx context.Context) error {
	if j.corpus.heldOut == nil {
		return nil
	}
	l, err := data.NewLoader(j.corpus.heldOut, data.LoaderOptions{Batch: j.config.Data.Batch, Once: true, Seed: uint64(j.config.Seed),
		Rank: j.workers.Tokens.Rank(), Workers: j.workers.Tokens.Size()})
	if err != nil {
		return err
	}
	e, err := j.trainer.Evaluate(ctx, func() (train.Batch, error) {
		b, err := l.Next()
		if err != nil {
			return nil, err
		}
		return b.Arrays, nil
	})
	if err != nil {
		return err
	}
	j.result.Held, j.result.Perplexity = e.Loss, e.Perplexity
	return j.sinks.Evaluation(e)
}

// save writes a checkpoint.
func (j *job) save(ctx context.Context) (err error) {
	if j.first() {
		if err := j.log.Sync(); err != nil {
			return err
		}
	}
	state := state{j.config, j.trainer.Progress(), j.position, j.tokens, j.seconds}
	if !j.workers.Alone() {
		return j.saveTogether(ctx, state)
	}
	weights, err := j.trainer.Weights()
	if err != nil {
		return err
	}
	optimizer, err := j.trainer.OptimizerState()
	if err != nil {
		return err
	}
	j.result.Checkpoint, err = j.run.Save(checkpoint.Snapshot{
		Step: state.Progress.Step, Model: j.model, Weights: weights, Optimizer: optimizer, State: state})
	return err
}

// saveTogether writes a checkpoint, each worker a part of it. Worker 0 says
// where, and completes it.
func (j *job) saveTogether(ctx context.Context, state state) (err error) {
	world := j.workers.World
	trained, err := j.trainer.Weights()
	if err != nil {
		return err
	}
	var names []string
	for _, w := range trained {
		names = append(names, w.Name)
	}
	everybodys, err := comm.Gather(ctx, world, names)
	if err != nil {
		return err
	}
	weights, err := checkpoint.Weights(j.model, trained)
	if err != nil {
		return err
	}
	// What others train has another value in the model's file.
	weights = slices.DeleteFunc(weights, func(w checkpoint.Named) bool {
		return !slices.Contains(names, w.Name) && slices.ContainsFunc(everybodys, func(list []string) bool { return slices.Contains(list, w.Name) })
	})
	optimizer, err := j.trainer.OptimizerState()
	if err != nil {
		return err
	}
	pieces, err := comm.Gather(ctx, world, checkpoint.Pieces(weights, optimizer))
	if err != nil {
		return err
	}
	var w *checkpoint.Writer
	defer func() {
		if err != nil && w != nil {
			w.Abort()
		}
	}()
	var plan *checkpoint.Plan
	if j.first() {
		if w, err = j.run.Begin(state.Progress.Step); err != nil {
			return err
		}
		if plan, err = w.Plan(pieces); err != nil {
			return err
		}
	}
	plans, err := comm.Gather(ctx, world, plan)
	if err != nil {
		return err
	}
	if err := plans[0].Write(world.Rank(), weights, optimizer, checkpoint.Options{}); err != nil {
		return err
	}
	if err := world.Barrier(ctx).Wait(); err != nil {
		return err
	}
	shards, err := plans[0].Sum(world.Rank())
	if err != nil {
		return err
	}
	all, err := comm.Gather(ctx, world, shards)
	if err != nil || w == nil {
		return err
	}
	committing := w
	w = nil // which Commit removes itself
	j.result.Checkpoint, err = committing.Commit(j.model, state, slices.Concat(all...))
	return err
}

func (j *job) finish(ctx context.Context) error {
	if j.result.Held, j.result.Perplexity = report.Number(math.NaN()), report.Number(math.NaN()); !j.result.Interrupted {
		if err := j.evaluate(ctx); err != nil {
			return err
		}
	}
	if err := j.save(ctx); err != nil {
		return err
	}
	p := j.trainer.Progress()
	j.result.Steps, j.result.Skipped, j.result.Tokens, j.result.Seconds = p.Step, p.Skipped, j.tokens, report.Number(j.seconds)
	sum := 0.0
	for _, v := range j.variation {
		sum += v
	}
	j.result.Variation = report.Number(sum / float64(len(j.variation)))
	return nil
}

func (j *job) close() error {
	var errs []error
	if j.sinks != nil {
		errs = append(errs, j.sinks.Close())
	}
	if j.run != nil {
		errs = append(errs, j.run.Close())
	}
	if j.trainer != nil {
		errs = append(errs, j.trainer.Close())
	}
	if j.corpus != nil {
		errs = append(errs, j.corpus.Close())
	}
	return errors.Join(append(errs, j.model.Close())...)
}
