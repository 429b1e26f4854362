package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

var command = &cli.Command{
	Name:      "fmoefy",
	Arguments: "IN.onnx",
	Summary:   "turn the MLP blocks of an ONNX Transformer into mixtures of experts",
	Details: `Each MLP becomes an FMoE node: a router and experts that start as copies of the MLP, so that
the rewritten model computes the same function. It runs in moerun, sparsely, and through
its model-local function in any ONNX runtime.

Blocks are selected by --include and --exclude: by index (3), range (0-5) or name, in
which * and ? stand for any characters. --list shows them, and why others are refused.

Experts start, as --init says, as
` + listOfInits() + `

--expert makes fine-tuned models of the same shape experts, as branch-train-mix and
mergekit-moe do. --prompts gives their routers a start: lines "N PROMPT", or JSON lines
{"expert": N, "prompt": "…"}, one or more for each expert; a router's column is the mean
hidden state of the expert's prompts.

fmoefy regate gives FMoE nodes another gate, top-k or capacity, fmoefy import makes FMoE
nodes of other mixtures of experts, fmoefy export of FMoE nodes what other runtimes know,
fmoefy merge joins the tensor-parallel ranks of a model; fmoefy regate --help and so on
say more.

Examples:
  fmoefy dense.onnx --list
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --top-k 2
  fmoefy dense.onnx -o moe.onnx --experts-per-worker 4 --workers 2 --every 2
  fmoefy dense.onnx -o moe.onnx --num-experts 64 --init noise --noise-scale 0.05 --seed 7
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --init drop --drop-ratio 0.5
  fmoefy dense.onnx -o moe.onnx --num-experts 64 --init virtual-group --granularity 8 --top-k 16
  fmoefy dense.onnx -o moe.onnx --num-experts 64 --init random --hidden 256
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --top-k 2 --init split --calibrate book.txt
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --shared-expert
  fmoefy dense.onnx -o moe.onnx --expert 0=code.onnx --expert 1=prose.onnx --prompts prompts.txt
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --expert-weights int8
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --gate switch --capacity-eval 1.5
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --token-mask attention_mask
  fmoefy dense.onnx -o moe.onnx --num-experts 8 --target onnxruntime`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		c := &rewriteFlags{flags: flags}
		o := &c.options
		flags.StringVarP(&c.output, "output", "o", "", "write the rewritten model to this `file`")
		flags.BoolVar(&c.list, "list", false, "only list the blocks, and why candidates are refused")
		flags.BoolVar(&o.DryRun, "dry-run", false, "report, but write nothing")
		flags.BoolVar(&c.json, "json", false, "print JSON")

		flags.IntVar(&o.NumExperts, "num-experts", 0, "experts of a block in all")
		flags.IntVar(&o.ExpertsPerWorker, "experts-per-worker", 0, "experts of a block on each worker, instead of --num-experts")
		flags.IntVar(&o.Workers, "workers", 0, "number of workers that share the experts (default 1)")
		flags.IntVar(&o.TopK, "top-k", 0, "experts for each token (default what the gate allows, or else 2)")
		registerGate(flags, &o.GateOptions, moe.GateNaive)
		flags.StringVar(&c.gateInit, "gate-init", "", "how routers start: normal, zeros, orthogonal, or prompts from --prompts (default normal, or prompts with those)")
		flags.Float64Var(&o.GateStd, "gate-std", 0, "standard deviation of --gate-init normal (default 0.02)")
		flags.Float64Var(&o.GateScale, "gate-scale", 0, "length of a router's columns, of --gate-init orthogonal and prompts (default 1)")

		flags.StringSliceVar(&o.Include, "include", nil, "replace only these `blocks`")
		flags.StringSliceVar(&o.Exclude, "exclude", nil, "do not replace these `blocks`")
		flags.IntVar(&o.EveryN, "every", 0, "replace every n-th of the selected blocks (default 1)")

		flags.BoolVar(&o.Dequantize, "dequantize", false, "replace blocks with quantised weights too, by experts in floating point")
		flags.BoolVar(&o.SeparateShared, "separate-shared", false, "give blocks that share weights, as ALBERT's do, experts of their own")

		flags.StringVar(&c.init, "init", "", "how experts start, as listed above (default copy, or models with --expert)")
		flags.Float64Var(&o.NoiseScale, "noise-scale", 0, "noise of --init noise, relative to each tensor's standard deviation (default 0.01)")
		flags.Float64Var(&o.DropRatio, "drop-ratio", 0, "share of the hidden columns that --init drop starts anew in each expert (default 0.5)")
		flags.IntVar(&o.Granularity, "granularity", 0, "experts of --init virtual-group that are the MLP together (default 2)")
		flags.Float64Var(&o.RandomStd, "random-std", 0, "standard deviation of --init random (default 0.02)")
		flags.IntVar(&o.Hidden, "hidden", 0, "hidden width of experts, where it is not the MLP's; needs --init random")
		flags.BoolVar(&o.SharedExpert, "shared-expert", false, "keep the MLP beside the routed experts, always on")
		flags.Float64Var(&o.SharedWeight, "shared-weight", 0, "weight of the shared expert, the others having the rest (default 0.5)")
		c.models.register(flags, o)
		c.calibration.register(flags)
		flags.Uint64Var(&o.Seed, "seed", 0, "seed of routers, noise and random experts (default 0)")

		flags.StringVar(&c.storage, "expert-weights", "", "store experts' weights in this `type`: float32, float16 (f16), bfloat16 (bf16), int8 or int4 (default: as the block computes)")
		flags.IntVar(&o.BlockSize, "block-size", 0, "weights that share a scale, of int8 and int4 (default 32)")

		registerTarget(flags, &o.Target, &o.AllowGELUApproximation)
		flags.StringVar(&c.external, "external", "auto", externalUsage)
		return func(ctx context.Context, out io.Writer, args []string) error {
			if c.list {
				return c.listBlocks(out, args[0])
			}
			return c.rewrite(ctx, out, args[0])
		}
	},
}

// listOfInits says what there is for --init, a line for each.
func listOfInits() string {
	names, about := fmoefy.Inits()
	lines := make([]string, len(names))
	for i, name := range names {
		lines[i] = fmt.Sprintf("  %-14s %s", name, about[name])
	}
	return strings.Join(lines, "\n")
}

type rewriteFlags struct {
	options        fmoefy.Options
	output         string
	list, json     bool
	init, gateInit string
	storage        string
	models         modelFlags
	calibration    calibrationFlags
	external       string
	flags          *pflag.FlagSet
}

const externalUsage = "weights in a file of their own: auto (from 1 GiB), always or never"

func errExternal(mode string) error {
	return cli.Misusef("--external %s is not known: use auto, always or never", mode)
}

var externalModes = map[string]onnx.ExternalMode{
	"auto": onnx.ExternalAuto, "always": onnx.ExternalAlways, "never": onnx.ExternalNever,
}

// complete checks the flags.
func (c *rewriteFlags) complete() error {
	c.options.Init, c.options.GateInit, c.options.ExpertWeights = fmoefy.Init(c.init), fmoefy.GateInit(c.gateInit), fmoefy.Storage(c.storage)
	for _, name := range []string{"num-experts", "experts-per-worker", "workers", "top-k", "gate-std", "gate-scale", "every", "noise-scale", "random-std", "drop-ratio", "granularity", "shared-weight", "hidden", "block-size"} {
		if f := c.flags.Lookup(name); f.Changed && f.Value.String() == "0" {
			return cli.Misusef("--%s=0 must be above 0", name)
		}
	}
	if c.output == "" && !c.options.DryRun {
		return cli.Misusef("-o OUT.onnx is missing (--dry-run or --list need none)")
	}
	if _, ok := externalModes[c.external]; !ok {
		return errExternal(c.external)
	}
	if err := c.calibration.complete(&c.options, c.flags); err != nil {
		return err
	}
	if err := c.models.complete(&c.options); err != nil {
		return err
	}
	if err := c.options.Check(); err != nil {
		return cli.Misusef("%w", err)
	}
	return nil
}

// rewriteResult is what fmoefy prints.
type rewriteResult struct {
	Input  string `json:"input"`
	Output string `json:"output,omitempty"` // empty after a dry run
	fmoefy.Report
}

func (c *rewriteFlags) rewrite(ctx context.Context, out io.Writer, path string) (err error) {
	if err := c.complete(); err != nil {
		return err
	}
	m, err := onnx.ReadFile(path)
	if err != nil {
		return err
	}
	defer m.Close()
	defer func() { err = errors.Join(err, c.models.close()) }()
	if err := c.models.open(ctx, &c.options, m, path); err != nil {
		return err
	}
	if err := c.calibration.open(ctx, &c.options, &c.models, m, path); err != nil {
		return err
	}
	report, err := fmoefy.Rewrite(m, c.options)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	result := rewriteResult{Input: path, Report: report}
	if !c.options.DryRun {
		if err := onnx.WriteFile(c.output, m, onnx.WriteOptions{External: externalModes[c.external], Context: ctx}); err != nil {
			return err
		}
		result.Output = c.output
	}
	if c.json {
		return cli.WriteJSON(out, result)
	}
	result.print(out)
	return nil
}

// listResult is what --list prints.
type listResult struct {
	Input  string               `json:"input"`
	Blocks []fmoefy.BlockReport `json:"blocks"`
}

func (c *rewriteFlags) listBlocks(out io.Writer, path string) error {
	var extra error
	c.flags.Visit(func(f *pflag.Flag) {
		if f.Name != "list" && f.Name != "json" {
			extra = cli.Misusef("--%s has no effect on --list", f.Name)
		}
	})
	if extra != nil {
		return extra
	}
	m, err := onnx.ReadFile(path)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := onnx.Check(m); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	result := listResult{Input: path, Blocks: []fmoefy.BlockReport{}}
	for _, b := range fmoefy.Find(m) {
		result.Blocks = append(result.Blocks, b.Describe())
	}
	if c.json {
		return cli.WriteJSON(out, result)
	}
	result.print(out)
	return nil
}
