package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/routing"
)

// runtimeFlags are the flags of every subcommand that runs a model.
type runtimeFlags struct {
	device    string
	threads   int
	maxMemory cli.Size
	noFusion  bool
	profile   bool // of bench alone
}

func (f *runtimeFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.device, "device", "", "`name` of the device that computes: cpu, or cuda (default FMOE_DEVICE from the environment, else cpu)")
	flags.IntVar(&f.threads, "threads", 0, "number of CPU threads; 0 means one for each processor")
	flags.Var(&f.maxMemory, "max-memory", "refuse what needs more memory than this `size`, such as 2GiB (default 80% of the machine's)")
	flags.BoolVar(&f.noFusion, "no-fusion", false, "run the model's nodes one by one, to see whether fused operators make a difference")
}

func (f *runtimeFlags) options() (runtime.Options, error) {
	if f.threads < 0 {
		return runtime.Options{}, cli.Misusef("--threads=%d must be 0 or more", f.threads)
	}
	return runtime.Options{Device: f.device, Threads: f.threads, MaxMemory: int64(f.maxMemory), Profile: f.profile, NoFusion: f.noFusion}, nil
}

// session is a model that is ready to run.
type session struct {
	*runtime.Session
	model   *onnx.Model
	outputs int            // of the model, which come first
	watch   *routing.Watch // nil unless its routing is looked at
}

func openSession(path string, f runtimeFlags) (*session, error) { return openWatched(path, f, nil) }

// openWatched is openSession for a model whose routing is looked at, unless
// watched is nil.
func openWatched(path string, f runtimeFlags, watched *routing.Options) (*session, error) {
	options, err := f.options()
	if err != nil {
		return nil, err
	}
	m, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := newSession(m, options, watched)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), m.Close())
	}
	return s, nil
}

func newSession(m *onnx.Model, options runtime.Options, watched *routing.Options) (s *session, err error) {
	s = &session{model: m}
	if watched != nil {
		if s.watch, err = routing.New(m, *watched); err != nil {
			return nil, err
		}
		m = s.watch.Model
	}
	if s.Session, err = runtime.New(m, options); err != nil {
		return nil, err
	}
	s.outputs = len(s.model.Graph.Outputs)
	return s, nil
}

// Outputs returns the outputs of the model, without what is watched.
func (s *session) Outputs() []*onnx.ValueInfo { return s.Session.Outputs()[:s.outputs] }

func (s *session) Close() error { return errors.Join(s.Session.Close(), s.model.Close()) }
