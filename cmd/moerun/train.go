package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/train"
	"github.com/fmoe-go/fmoe/runtime/train/job"
)

var trainCommand = &cli.Command{
	Name:      "moerun train",
	Arguments: "MODEL",
	Summary:   "train a model, such as one that fmoefy made",
	Details: `The run directory gets a checkpoint now and then, the log, and the whole configuration. After
Ctrl-C the last step is saved; --resume goes on from the newest checkpoint, with the same
bits as without the interruption. "moerun export" makes an ONNX file of a checkpoint.

Text is cut into sequences of which each token is to be predicted; a share of it is held
out to measure how well that goes. Routers' balance losses are a part of what is minimised.
All that can be set is in the configuration: --print-config shows it, --config reads it, and
--set NAME=VALUE changes a setting.

Examples:
  moerun train moe.onnx --data book.txt --steps 2000 --report report.html
  moerun train moe.onnx --config train.yaml --output runs/second --learning-rate 1e-4
  moerun train moe.onnx --data book.txt --print-config > train.yaml
  moerun train moe.onnx --data book.txt --set 'groups=[{match: "*attention*", freeze: true}]'
  moerun train moe.onnx --output runs/second --resume --workers 4
  moerun train moe.onnx --data book.txt --parallel data=2,expert=4 --shard-optimizer
  mpirun -n 8 moerun-mpi train moe.onnx --data book.txt --elastic --timeout 2m
  moerun train moe.onnx --parameters`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		o := &trainFlags{flags: flags}
		flags.StringVar(&o.config, "config", "", "`file` with the configuration, in YAML")
		flags.StringArrayVar(&o.set, "set", nil, "change a setting, as `NAME=VALUE` such as optimizer.beta2=0.99; may be repeated")
		for _, s := range shortcuts {
			flags.String(s.flag, "", s.usage)
		}
		flags.StringVar(&o.output, "output", "", "run `directory` (default MODEL's name and -train)")
		flags.BoolVar(&o.resume, "resume", false, "go on from the newest checkpoint in the run directory")
		flags.BoolVar(&o.elastic, "elastic", false, "like --resume, but begin where there is nothing to go on from: for launchers that restart what failed, on any number of workers")
		o.workers.register(flags)
		flags.BoolVar(&o.shardOptimizer, "shard-optimizer", false, "divide the optimizer's state among workers that have the same parameters (ZeRO stage 1)")
		flags.StringVar(&o.report, "report", "", "write a page of HTML with curves and heat maps to this `file`")
		flags.BoolVar(&o.tensorBoard, "tensorboard", false, "write event files for TensorBoard into the run directory")
		flags.BoolVar(&o.quiet, "quiet", false, "do not show how far the run is")
		flags.StringVar(&o.writeGraph, "write-graph", "", "write the graph of a step, gradients included, to this ONNX `file` and stop")
		flags.BoolVar(&o.printConfig, "print-config", false, "print the whole configuration and stop")
		flags.BoolVar(&o.parameters, "parameters", false, "list the model's parameters, their kinds and shapes, and stop")
		o.runtime.register(flags)
		flags.BoolVar(&o.json, "json", false, "print JSON")
		return func(ctx context.Context, out io.Writer, args []string) error { return o.run(ctx, out, args[0]) }
	},
}

// shortcuts are flags for settings that are changed often.
var shortcuts = []struct{ flag, setting, usage string }{
	{"data", "data.train", "`file` to train on: text, JSON lines, .npy or Megatron's .bin and .idx"},
	{"evaluate", "data.evaluate", "`file` to measure on (default: the end of --data, see data.held_out)"},
	{"tokenizer", "data.tokenizer", "another tokenizer.json, as a `path`, or \"bytes\""},
	{"length", "data.length", "`tokens` in a sequence (default: the model's context)"},
	{"batch", "data.batch", "`sequences` in a batch"},
	{"steps", "steps", "`number` of steps of the whole run"},
	{"loss", "loss.kind", "what is minimised: " + strings.Join(train.LossKinds, ", ")},
	{"optimizer", "optimizer.kind", strings.Join(train.OptimizerKinds, ", ")},
	{"learning-rate", "optimizer.learning_rate", "the greatest learning `rate`"},
	{"schedule", "schedule.kind", "of the learning rate: " + strings.Join(train.ScheduleKinds, ", ")},
	{"warmup", "schedule.warmup", "`steps` over which the learning rate grows"},
	{"seed", "seed", "`number` from which all that is random follows"},
}

type trainFlags struct {
	runtime runtimeFlags
	config  string
	set     []string
	output  string
	resume  bool
	elastic bool
	workers workersFlags

	shardOptimizer bool
	report         string
	tensorBoard    bool
	quiet          bool
	writeGraph     string
	printConfig    bool
	parameters     bool
	json           bool
	flags          *pflag.FlagSet
}

func (o *trainFlags) run(ctx context.Context, out io.Writer, path string) error {
	p, err := o.workers.plan()
	if err != nil {
		return err
	}
	first := p.process.rank == 0 || p.workers > 0
	if !first && (o.parameters || o.printConfig || o.writeGraph != "") {
		return nil // one process is enough
	}
	if o.parameters {
		return o.list(out, path)
	}
	if o.output == "" {
		o.output = strings.TrimSuffix(filepath.Base(path), ".onnx") + "-train"
	}
	c, err := o.parse()
	if err != nil {
		return err
	}
	if o.printConfig {
		_, err := io.WriteString(out, c.YAML())
		return err
	}
	options := job.Options{Dir: o.output, Resume: o.resume || o.elastic, Workers: p.workers, Layout: p.layout, Schedule: p.schedule, ShardOptimizer: o.shardOptimizer, Timeout: o.workers.timeout, Report: o.report,
		TensorBoard: o.tensorBoard, Machine: machine(), Version: cli.Version()}
	if options.Runtime, err = o.runtime.options(); err != nil {
		return err
	}
	if o.writeGraph != "" {
		for _, name := range []string{"workers", "parallel", "shard-optimizer", "resume", "elastic", "report", "tensorboard"} {
			if o.flags.Changed(name) {
				return cli.Misusef("--%s is not for --write-graph, which writes the graph of one worker's step and stops", name)
			}
		}
		return job.WriteGraph(path, o.writeGraph, c, options.Runtime)
	}
	if !o.quiet {
		options.Progress = os.Stderr
	}
	if options.World, err = o.workers.world(p); err != nil {
		return err
	}
	if options.World != nil {
		options.Runtime.Worker = p.process.localRank
		if options.Runtime.Threads == 0 {
			options.Runtime.Threads = p.process.threads()
		}
	}
	result, err := job.Run(ctx, path, c, options)
	if err != nil || !first {
		return err
	}
	if o.json {
		return cli.WriteJSON(out, result)
	}
	o.print(out, result)
	return nil
}

// machine describes what the run computes on.
func machine() string {
	return fmt.Sprintf("%s/%s, %d processors", goruntime.GOOS, goruntime.GOARCH, goruntime.NumCPU())
}

// parse reads the configuration: that of the file, or else of the run that is
// resumed, and what flags say.
func (o *trainFlags) parse() (job.Config, error) {
	var text []byte
	file := o.config
	if file == "" && (o.resume || o.elastic) {
		file = filepath.Join(o.output, job.ConfigFile)
	}
	if file != "" {
		var err error
		text, err = os.ReadFile(file)
		if begins := o.config == "" && !o.resume && errors.Is(err, os.ErrNotExist); err != nil && !begins {
			return job.Config{}, err
		}
	}
	var settings []string
	for _, s := range shortcuts {
		if f := o.flags.Lookup(s.flag); f.Changed {
			value := f.Value.String()
			if _, err := strconv.ParseFloat(value, 64); err != nil {
				value = strconv.Quote(value)
			}
			settings = append(settings, s.setting+"="+value)
		}
	}
	c, err := job.Parse(text, append(settings, o.set...))
	if err != nil && file != "" {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	if err != nil {
		return c, cli.Misusef("%w", err)
	}
	return c, nil
}

func (o *trainFlags) print(out io.Writer, r *job.Result) {
	if r.Interrupted {
		fmt.Fprintf(out, "stopped after step %d, saved in %s; go on with --resume\n", r.Steps, r.Checkpoint)
		return
	}
	fmt.Fprintf(out, "%d steps, %s tokens in %.0f s, loss %s\n", r.Steps, cli.Count(r.Tokens), float64(r.Seconds), r.Loss.Text(4))
	if r.Held == r.Held {
		fmt.Fprintf(out, "held out: loss %s, perplexity %s\n", r.Held.Text(4), r.Perplexity.Text(4))
	}
	if r.Skipped > 0 {
		fmt.Fprintf(out, "%d steps were skipped, because their loss or gradients were not finite\n", r.Skipped)
	}
	fmt.Fprintf(out, "saved in %s; \"moerun export %s -o model.onnx\" makes a model of it\n", r.Checkpoint, o.output)
}

// parameterInfo is what --parameters prints of a parameter.
type parameterInfo struct {
	Name  string     `json:"name"`
	Kind  train.Kind `json:"kind"`
	Type  string     `json:"type"`
	Shape []int      `json:"shape"`
}

// list prints the parameters of a model.
func (o *trainFlags) list(out io.Writer, path string) error {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return err
	}
	defer m.Close()
	parameters, err := train.ModelParameters(m)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	infos, total := []parameterInfo{}, int64(0)
	for _, p := range parameters {
		infos = append(infos, parameterInfo{p.Name, p.Kind, p.Type.String(), p.Shape})
		total += int64(p.Len())
	}
	if o.json {
		return cli.WriteJSON(out, infos)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range infos {
		fmt.Fprintf(w, "%s\t%s\t%s%v\n", p.Name, p.Kind, p.Type, p.Shape)
	}
	return errors.Join(w.Flush(), second(fmt.Fprintf(out, "%s numbers in %d parameters\n", cli.Count(total), len(infos))))
}

func second[T any](_ T, err error) error { return err }
