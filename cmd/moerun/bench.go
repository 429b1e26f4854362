package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	goruntime "runtime"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/benchmark"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/language"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train"
	"github.com/fmoe-go/fmoe/runtime/train/data"
)

var benchCommand = &cli.Command{
	Name:      "moerun bench",
	Arguments: "MODEL",
	Summary:   "measure how fast a model runs, and how far from what the machine can do",
	Details: `Runs a model again and again on given or random inputs. With --decode it reads a prompt
as a language model and then one token after another, with its caches of keys and values.

GFLOP/s count the products, GB/s the weights that have to be read, each once; both are also
shown as a share of what this machine does at most with as many threads, measured in the
same run.

` + dataHelp + `

Examples:
  moerun bench model.onnx --dim batch=8,sequence=128 --threads 2
  moerun bench gpt.onnx --prefill 128 --decode 64 --json
  moerun bench model.onnx --cpuprofile cpu.pprof`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		o := benchFlags{flags: flags}
		o.data.register(flags)
		o.data.random = true
		flags.IntVar(&o.runs, "runs", 0, "number of runs; 0 means as many as take about 3 seconds")
		flags.IntVar(&o.prefill, "prefill", 128, "with --decode: number of tokens of the prompt")
		flags.IntVar(&o.decode, "decode", 0, "number of tokens to read one by one after the prompt")
		flags.BoolVar(&o.train, "train", false, "measure steps of training: gradients of the next token's cross-entropy, and AdamW")
		flags.StringVar(&o.precision, "precision", "float32", "with --train: of products, float32 or bfloat16")
		flags.BoolVar(&o.runtime.profile, "profile", false, "show the time by operator")
		flags.StringVar(&o.cpuProfile, "cpuprofile", "", "write a profile for go tool pprof to this `file`")
		o.runtime.register(flags)
		flags.BoolVar(&o.json, "json", false, "print JSON")
		return func(ctx context.Context, out io.Writer, args []string) error { return o.run(ctx, out, args[0]) }
	},
}

type benchFlags struct {
	data            dataFlags
	runtime         runtimeFlags
	runs            int
	prefill, decode int
	train           bool
	precision       string
	cpuProfile      string
	json            bool
	flags           *pflag.FlagSet
}

// benchResult is what bench prints.
type benchResult struct {
	Model   string      `json:"model"`
	Threads int         `json:"threads"`
	Inputs  []valueInfo `json:"inputs,omitempty"`
	Phases  []phase     `json:"phases"` // run, or prefill and decode
	Machine machineInfo `json:"machine"`
	Memory  memoryInfo  `json:"memory"`
	Profile []operator  `json:"profile,omitempty"` // most time first

	// Device is what one run made a device with memory of its own do.
	Device *device.Counts `json:"device,omitempty"`
}

// phase is one kind of run.
type phase struct {
	Name            string   `json:"name"`
	Latency         latency  `json:"latency"`
	Tokens          int      `json:"tokens,omitempty"` // of a run
	TokensPerSecond float64  `json:"tokens_per_second,omitempty"`
	GFLOP           float64  `json:"gflop"`           // of a run
	WeightMB        float64  `json:"weight_mb"`       // read in a run, 10⁶ bytes
	GFLOPS          float64  `json:"gflops"`          // per second, by the median
	PeakShare       float64  `json:"peak_share"`      // of machine.peak_gflops
	GBPS            float64  `json:"gbps"`            // weights, by the median
	BandwidthShare  float64  `json:"bandwidth_share"` // of machine.read_gbps
	Allocations     *float64 `json:"allocations,omitempty"`
}

type machineInfo struct {
	Peak      float64 `json:"peak_gflops"`
	Bandwidth float64 `json:"read_gbps"`
}

type memoryInfo struct {
	Peak    int64 `json:"peak_bytes"` // of the process, with mapped files; 0 where not known
	Weights int64 `json:"weight_bytes"`
	Plan    int64 `json:"plan_bytes"` // values between nodes and scratch memory
}

// operator is the time of all nodes of an operator in all runs.
type operator struct {
	Name  string  `json:"name"`
	Calls int     `json:"calls"`
	Time  float64 `json:"ms"`
	Share float64 `json:"share"`
}

func (o *benchFlags) run(ctx context.Context, out io.Writer, path string) error {
	if err := o.validate(); err != nil {
		return err
	}
	result := benchResult{Model: path, Threads: o.runtime.threads}
	if result.Threads == 0 {
		result.Threads = goruntime.GOMAXPROCS(0)
	}
	measure := o.measureRuns
	switch {
	case o.decode > 0:
		measure = o.measureLanguage
	case o.train:
		measure = o.measureTraining
	}
	if err := measure(ctx, &result); err != nil {
		return err
	}
	m := benchmark.MeasureMachine(result.Threads)
	result.Machine = machineInfo{m.Peak / 1e9, m.Bandwidth / 1e9}
	for i := range result.Phases {
		result.Phases[i].rate(result.Machine)
	}
	if o.json {
		return cli.WriteJSON(out, result)
	}
	result.print(out)
	return nil
}

func (o *benchFlags) validate() error {
	switch {
	case o.runs < 0:
		return cli.Misusef("--runs=%d must be 0 or more", o.runs)
	case o.decode < 0:
		return cli.Misusef("--decode=%d must be 0 or more", o.decode)
	case o.prefill < 1:
		return cli.Misusef("--prefill=%d must be 1 or more", o.prefill)
	case o.flags.Changed("precision") && !o.train:
		return cli.Misusef("--precision is for --train; a model runs in the types that it has")
	case o.decode > 0 && o.train:
		return cli.Misusef("--decode and --train are two things to measure: give one of them")
	case o.decode == 0 && o.flags.Changed("prefill"):
		return cli.Misusef("--prefill is for language models: give --decode too")
	}
	for _, name := range []string{"data", "input", "dim", "seed"} {
		if o.decode > 0 && o.flags.Changed(name) {
			return cli.Misusef("--%s is not for --decode, whose inputs follow from --prefill", name)
		}
	}
	return nil
}

// steady measures run, which has been called before, and profiles it.
func (o *benchFlags) steady(run func() error) (times []time.Duration, allocations float64, err error) {
	if o.cpuProfile == "" {
		return benchmark.Steady(o.runs, run)
	}
	f, err := os.Create(o.cpuProfile)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, 0, err
	}
	defer pprof.StopCPUProfile()
	return benchmark.Steady(o.runs, run)
}

// measureRuns measures runs that are all alike.
func (o *benchFlags) measureRuns(ctx context.Context, result *benchResult) error {
	s, err := openSession(result.Model, o.runtime)
	if err != nil {
		return err
	}
	defer s.Close()
	inputs, err := o.data.read(s.model, s.Inputs())
	if err != nil {
		return err
	}
	for _, v := range s.Inputs() {
		result.Inputs = append(result.Inputs, valueInfo{v.Name, inputs[v.Name].String()})
	}
	runner, list := s.NewRunner(), make([]*tensor.Tensor, len(s.Inputs()))
	for i, v := range s.Inputs() {
		list[i] = inputs[v.Name]
	}
	run := func() error {
		_, err := runner.Run(ctx, list)
		return err
	}
	if err := run(); err != nil { // to warm up
		return err
	}
	s.ResetProfile()
	times, allocations, err := o.steady(run)
	if err != nil {
		return err
	}
	result.inspect(s.Session)
	if err := result.trace(s.Session, run); err != nil {
		return err
	}
	p, err := newPhase("run", tokenCount(s.Inputs(), inputs), times, s.model, inputs)
	p.Allocations = &allocations
	result.Phases = []phase{p}
	return err
}

// measureLanguage measures the reading of a prompt and of the tokens after it.
func (o *benchFlags) measureLanguage(ctx context.Context, result *benchResult) (err error) {
	options, err := o.runtime.options()
	if err != nil {
		return err
	}
	m, err := language.Open(result.Model, language.Options{Runtime: options, Tokenizer: "bytes"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if !m.HasCaches() {
		return fmt.Errorf("%s has no caches of keys and values, without which decoding reads the whole text for each token: leave out --decode", result.Model)
	}
	if _, err := m.Time(ctx, o.prefill, min(o.decode, 4)); err != nil { // to warm up
		return err
	}
	m.Session().ResetProfile()
	var prefill, decode []time.Duration
	_, _, err = o.steady(func() error {
		t, err := m.Time(ctx, o.prefill, o.decode)
		prefill, decode = append(prefill, t.Prefill), append(decode, t.Decode...)
		return err
	})
	if err != nil {
		return err
	}
	result.inspect(m.Session())
	first, err := newPhase("prefill", o.prefill, prefill, m.Graph(), m.Step(0, o.prefill))
	if err != nil {
		return err
	}
	rest, err := newPhase("decode", 1, decode, m.Graph(), m.Step(o.prefill+o.decode/2, 1))
	result.Phases = []phase{first, rest}
	return err
}

// measureTraining measures steps of training on random tokens.
func (o *benchFlags) measureTraining(ctx context.Context, result *benchResult) (err error) {
	options := train.DefaultOptions()
	options.Precision = o.precision
	if options.Runtime, err = o.runtime.options(); err != nil {
		return err
	}
	m, err := onnx.ReadFile(result.Model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	t, err := train.New(m, options)
	if err != nil {
		return fmt.Errorf("%s: %w", result.Model, err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	tokens := slices.IndexFunc(m.Graph.Inputs, func(v *onnx.ValueInfo) bool { return v.Name == data.InputIDs })
	if tokens < 0 {
		return fmt.Errorf("%s has no input %q, without which it is no language model that --train measures", result.Model, data.InputIDs)
	}
	batch, err := o.data.read(m, m.Graph.Inputs[tokens:tokens+1])
	if err != nil {
		return err
	}
	batch[data.Labels] = batch[data.InputIDs]
	result.Inputs = []valueInfo{{data.InputIDs, batch[data.InputIDs].String()}}
	step := func() error {
		_, err := t.Step(ctx, batch)
		return err
	}
	if err := step(); err != nil { // to warm up
		return err
	}
	t.Session().ResetProfile()
	times, allocations, err := o.steady(step)
	if err != nil {
		return err
	}
	result.inspect(t.Session())
	if err := result.trace(t.Session(), step); err != nil {
		return err
	}
	inputs, err := t.Inputs(batch)
	if err != nil {
		return err
	}
	p, err := newPhase("step", batch[data.InputIDs].Len(), times, m, inputs)
	p.GFLOP *= 3 // a product has two gradients
	p.Allocations = &allocations
	result.Phases = []phase{p}
	return err
}

// trace counts what one more run makes the device do.
func (r *benchResult) trace(s *runtime.Session, run func() error) error {
	before, counts := s.Counts()
	if !counts {
		return nil
	}
	err := run()
	after, _ := s.Counts()
	after = after.Minus(before)
	r.Device = &after
	return err
}

// inspect takes over what a session knows about its runs.
func (r *benchResult) inspect(s *runtime.Session) {
	memory := s.Memory()
	r.Memory = memoryInfo{Weights: memory.Weights, Plan: memory.Plan, Peak: benchmark.PeakMemory()}
	total := 0.0
	for _, n := range s.Profile() {
		name := n.OpType
		if n.Domain != "" {
			name = n.Domain + "::" + name
		}
		i := slices.IndexFunc(r.Profile, func(o operator) bool { return o.Name == name })
		if i < 0 {
			i = len(r.Profile)
			r.Profile = append(r.Profile, operator{Name: name})
		}
		r.Profile[i].Calls += n.Calls
		r.Profile[i].Time += milliseconds(n.Time)
		total += milliseconds(n.Time)
	}
	for i := range r.Profile {
		r.Profile[i].Share = r.Profile[i].Time / total
	}
	slices.SortStableFunc(r.Profile, func(a, b operator) int { return cmp.Compare(b.Time, a.Time) })
}

// newPhase sums up runs of a model on inputs of given shapes.
func newPhase(name string, tokens int, times []time.Duration, m *onnx.Model, inputs map[string]*tensor.Tensor) (phase, error) {
	work, err := benchmark.CountWork(m, inputs)
	return phase{Name: name, Tokens: tokens, Latency: newLatency(benchmark.Summarize(times)), GFLOP: work.Operations / 1e9, WeightMB: work.Bytes / 1e6}, err
}

// rate relates the phase to time and to what the machine can do.
func (p *phase) rate(m machineInfo) {
	perSecond := 1000 / p.Latency.P50
	p.TokensPerSecond = float64(p.Tokens) * perSecond
	p.GFLOPS, p.GBPS = p.GFLOP*perSecond, p.WeightMB/1000*perSecond
	p.PeakShare, p.BandwidthShare = p.GFLOPS/m.Peak, p.GBPS/m.Bandwidth
}

// tokenCount is the number of tokens that inputs hold: token numbers, or the
// rows of a model's only input; 0 where neither is there.
func tokenCount(values []*onnx.ValueInfo, inputs map[string]*tensor.Tensor) int {
	if ids := inputs["input_ids"]; ids != nil {
		return ids.Len()
	}
	if len(values) != 1 {
		return 0
	}
	x := inputs[values[0].Name]
	switch rank := len(x.Shape); {
	case rank == 2 && (x.Type == onnx.Int64 || x.Type == onnx.Int32):
		return x.Len()
	case (rank == 2 || rank == 3) && x.Shape[rank-1] > 0:
		return x.Len() / x.Shape[rank-1]
	}
	return 0
}

func (r *benchResult) print(out io.Writer) {
	t := cli.NewTable()
	for _, v := range r.Inputs {
		t.Row("input", v.Name, v.Type)
	}
	t.Print(out)
	t = cli.NewTable(1, 2, 3, 4, 5, 6, 7, 8)
	t.Row("", "runs", "p50 ms", "p90 ms", "p99 ms", "tokens/s", "GFLOP/s", "of peak", "GB/s", "of bandwidth")
	for _, p := range r.Phases {
		tokens := ""
		if p.Tokens > 0 {
			tokens = fmt.Sprintf("%.0f", p.TokensPerSecond)
		}
		t.Row(p.Name, fmt.Sprint(p.Latency.Runs), fmt.Sprintf("%.3f", p.Latency.P50), fmt.Sprintf("%.3f", p.Latency.P90), fmt.Sprintf("%.3f", p.Latency.P99),
			tokens, fmt.Sprintf("%.1f", p.GFLOPS), fmt.Sprintf("%.0f %%", 100*p.PeakShare), fmt.Sprintf("%.1f", p.GBPS), fmt.Sprintf("%.0f %%", 100*p.BandwidthShare))
	}
	t.Print(out)
	fmt.Fprintf(out, "\nmachine with %d threads: %.0f GFLOP/s of multiply-adds, reads %.1f GB/s\n", r.Threads, r.Machine.Peak, r.Machine.Bandwidth)
	fmt.Fprintf(out, "memory: %s MB of weights, %s MB planned for a run", megabytes(r.Memory.Weights), megabytes(r.Memory.Plan))
	if r.Memory.Peak > 0 {
		fmt.Fprintf(out, ", at most %s MB resident", megabytes(r.Memory.Peak))
	}
	fmt.Fprintln(out)
	if len(r.Phases) == 1 {
		fmt.Fprintf(out, "heap allocations: %.2f a run\n", *r.Phases[0].Allocations)
	}
	if d := r.Device; d != nil {
		fmt.Fprintf(out, "device: %d waits, %d allocations, %d uploads of %d bytes, %d downloads of %d bytes, %d kernels and %d graphs of %d launched in a run\n",
			d.Waits, d.Allocations, d.Uploads, d.BytesUp, d.Downloads, d.BytesDown, d.Kernels, d.Graphs, d.GraphNodes)
	}
	if len(r.Profile) == 0 {
		return
	}
	fmt.Fprintln(out)
	t = cli.NewTable(1, 2, 3)
	t.Row("operator", "calls", "ms", "share")
	for _, o := range r.Profile {
		t.Row(o.Name, fmt.Sprint(o.Calls), fmt.Sprintf("%.2f", o.Time), fmt.Sprintf("%.1f %%", 100*o.Share))
	}
	t.Print(out)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }
