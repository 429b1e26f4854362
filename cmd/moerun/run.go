package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/benchmark"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/routing"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

var runCommand = &cli.Command{
	Name:      "moerun run",
	Arguments: "MODEL",
	Summary:   "run a model and show, store, check or time its outputs",
	Details: dataHelp + `

Examples:
  moerun run model.onnx --random --dim batch=2,sequence=16 --repeat 100
  moerun run model.onnx --data test_data_set_0 --check
  moerun run model.onnx --input input_ids=ids.npy --out results
  moerun run moe.onnx --random --routing-stats`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		var o runFlags
		o.data.register(flags)
		flags.BoolVar(&o.data.random, "random", false, "draw the inputs that no file gives")
		flags.StringVar(&o.out, "out", "", "write the outputs to this `directory`")
		flags.StringVar(&o.format, "format", dataset.NPY, "format of the files in --out: npy, or pb as in ONNX's test data")
		flags.BoolVar(&o.check, "check", false, "compare with output_0.pb, output_1.pb, … in --data; exit with 1 where they differ")
		flags.Float64Var(&o.rtol, "rtol", 1e-3, "relative tolerance of --check")
		flags.Float64Var(&o.atol, "atol", 1e-5, "absolute tolerance of --check")
		flags.IntVar(&o.repeat, "repeat", 0, "run this often after the first time and show the latency")
		flags.BoolVar(&o.routing, "routing-stats", false, "show which experts the FMoE layers chose; moerun routing does so for more data")
		o.runtime.register(flags)
		flags.BoolVar(&o.json, "json", false, "print JSON")
		o.flags = flags
		return func(ctx context.Context, out io.Writer, args []string) error { return o.run(ctx, out, args[0]) }
	},
}

type runFlags struct {
	data       dataFlags
	runtime    runtimeFlags
	out        string
	format     string
	check      bool
	rtol, atol float64
	repeat     int
	routing    bool
	json       bool
	flags      *pflag.FlagSet
}

// runResult is what run prints.
type runResult struct {
	Model   string              `json:"model"`
	Inputs  []valueInfo         `json:"inputs"`
	Outputs []output            `json:"outputs"`
	Latency *latency            `json:"latency,omitempty"`
	Routing *routing.Statistics `json:"routing,omitempty"`
}

type valueInfo struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

type output struct {
	valueInfo
	Min   *float64    `json:"min,omitempty"` // of the finite elements; absent where there are none
	Max   *float64    `json:"max,omitempty"`
	Mean  *float64    `json:"mean,omitempty"`
	File  string      `json:"file,omitempty"`
	Check *difference `json:"check,omitempty"`
}

type latency struct {
	Runs int     `json:"runs"`
	Min  float64 `json:"min_ms"`
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	Mean float64 `json:"mean_ms"`
}

func newLatency(l benchmark.Latency) latency {
	return latency{l.Runs, milliseconds(l.Min), milliseconds(l.P50), milliseconds(l.P90), milliseconds(l.P99), milliseconds(l.Mean)}
}

func (o *runFlags) run(ctx context.Context, out io.Writer, path string) error {
	if err := o.validate(); err != nil {
		return err
	}
	var watched *routing.Options
	if o.routing {
		watched = &routing.Options{}
	}
	s, err := openWatched(path, o.runtime, watched)
	if err != nil {
		return err
	}
	defer s.Close()
	inputs, err := o.data.read(s.model, s.Inputs())
	if err != nil {
		return err
	}
	outputs, err := s.Run(ctx, inputs)
	if err != nil {
		return err
	}
	result := runResult{Model: path, Inputs: []valueInfo{}, Outputs: describeOutputs(s.Outputs(), outputs)}
	for _, v := range s.Inputs() {
		result.Inputs = append(result.Inputs, valueInfo{v.Name, inputs[v.Name].String()})
	}
	if o.routing {
		if err := s.watch.Add(outputs); err != nil {
			return err
		}
		result.Routing = s.watch.Statistics()
	}
	if o.out != "" {
		files, err := dataset.WriteOutputs(o.out, o.format, s.Outputs(), outputs)
		if err != nil {
			return err
		}
		for i, file := range files {
			result.Outputs[i].File = file
		}
	}
	var failed error
	if o.check {
		if failed, err = o.checkOutputs(s.Outputs(), outputs, result.Outputs); err != nil {
			return err
		}
	}
	if o.repeat > 0 {
		l, err := benchmark.Measure(o.repeat, func() error {
			_, err := s.Run(ctx, inputs)
			return err
		})
		if err != nil {
			return err
		}
		summary := newLatency(l)
		result.Latency = &summary
	}
	if o.json {
		err = cli.WriteJSON(out, result)
	} else {
		result.print(out)
	}
	if err != nil {
		return err
	}
	return failed
}

func (o *runFlags) validate() error {
	switch {
	case o.format != dataset.NPY && o.format != dataset.PB:
		return cli.Misusef("--format %s is not known: use npy or pb", o.format)
	case o.flags.Changed("format") && o.out == "":
		return cli.Misusef("--format is for the files of --out DIR")
	case o.check && o.data.dir == "":
		return cli.Misusef("--check needs --data DIR, which has the expected outputs")
	case !o.check && (o.flags.Changed("rtol") || o.flags.Changed("atol")):
		return cli.Misusef("--rtol and --atol are for --check")
	case !(o.rtol >= 0 && o.atol >= 0):
		return cli.Misusef("--rtol and --atol must be 0 or more")
	case o.repeat < 0:
		return cli.Misusef("--repeat=%d must be 0 or more", o.repeat)
	case o.repeat > 0 && o.routing:
		return cli.Misusef("--repeat measures runs that are not looked at: give --repeat or --routing-stats")
	}
	return nil
}

func describeOutputs(values []*onnx.ValueInfo, tensors map[string]*tensor.Tensor) []output {
	list := []output{}
	for _, v := range values {
		t := tensors[v.Name]
		d := output{valueInfo: valueInfo{v.Name, t.String()}}
		if s, ok := dataset.Summarize(t); ok {
			d.Min, d.Max, d.Mean = &s.Min, &s.Max, &s.Mean
		}
		list = append(list, d)
	}
	return list
}

// checkOutputs compares with the outputs that the data directory expects.
// failed says how the first output that is not equal differs.
func (o *runFlags) checkOutputs(values []*onnx.ValueInfo, got map[string]*tensor.Tensor, result []output) (failed, err error) {
	expected, err := dataset.ReadOutputs(o.data.dir, values)
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		want := expected[v.Name]
		if want == nil {
			continue
		}
		d, err := compareTensors(got[v.Name], want, o.rtol, o.atol)
		if err != nil {
			return nil, fmt.Errorf("output %q %w", v.Name, err)
		}
		result[i].Check = &d
		if !d.Equal && failed == nil {
			failed = d.failure(v.Name)
		}
	}
	return failed, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (r *runResult) print(out io.Writer) {
	t := cli.NewTable()
	for _, v := range r.Inputs {
		t.Row("input", v.Name, v.Type)
	}
	for _, v := range r.Outputs {
		row := []string{"output", v.Name, v.Type}
		if v.Min != nil {
			row = append(row, fmt.Sprintf("min %.6g  max %.6g  mean %.6g", *v.Min, *v.Max, *v.Mean))
		}
		t.Row(row...)
	}
	t.Print(out)
	for _, v := range r.Outputs {
		if v.File != "" {
			fmt.Fprintf(out, "wrote %s\n", v.File)
		}
		if c := v.Check; c != nil {
			fmt.Fprintf(out, "check %s: %s (max absolute difference %.3g, relative %.3g)\n", v.Name, c.verdict(), c.MaxAbs, c.MaxRel)
		}
	}
	if l := r.Latency; l != nil {
		fmt.Fprintf(out, "latency of %d runs: min %.3f ms, p50 %.3f ms, p90 %.3f ms, p99 %.3f ms, mean %.3f ms\n", l.Runs, l.Min, l.P50, l.P90, l.P99, l.Mean)
	}
	if r.Routing != nil {
		fmt.Fprintln(out)
		printRouting(out, r.Routing)
	}
}
