package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/internal/files"
	"github.com/fmoe-go/fmoe/internal/plot"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	planner "github.com/fmoe-go/fmoe/runtime/plan"
)

var planCommand = &cli.Command{
	Name:      "moerun plan",
	Arguments: "MODEL",
	Summary:   "predict what training takes on a cluster, for every layout of its workers",
	Details: `Predicts memory, communication and time of a step for every way to share the work among
the workers that a file in YAML describes, and recommends the fastest that fits into memory.
docs/plan.md says what such a file has and what is counted.

Examples:
  moerun plan moe.onnx --cluster cluster.yaml
  moerun plan moe.onnx --calibrate machine.yaml --batch 8 --length 128
  moerun plan moe.onnx --cluster cluster.yaml --batch 4096 --length 1024 --precision bfloat16
  moerun plan moe.onnx --cluster cluster.yaml --load runs/first/log.jsonl --plot scaling.svg`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		o := planFlags{}
		flags.StringVar(&o.cluster, "cluster", "", "`file` that describes the cluster")
		flags.StringVar(&o.calibrate, "calibrate", "", "measure this machine, by steps of training with --batch and --length, and describe it in this `file`")
		flags.StringVar(&o.load, "load", "", "`file` with the load of experts: of \"moerun routing --json\" or a training run's log (default: even)")
		flags.IntVar(&o.workers, "workers", 0, "`number` of workers (default: all of the cluster)")
		flags.IntVar(&o.options.Batch, "batch", 0, "`sequences` of a step, of all workers together (default: 8 for each)")
		flags.IntVar(&o.length, "length", 512, "`tokens` of a sequence")
		flags.IntVar(&o.options.MicroBatches, "micro-batches", 0, "`number` of batches of a step that pipeline stages take in turns (default: 4 for each stage)")
		flags.BoolVar(&o.options.ShardOptimizer, "shard-optimizer", false, "divide the optimizer's state among workers that have the same parameters")
		flags.StringVar(&o.precision, "precision", "float32", "of products: float32 or bfloat16")
		flags.IntVar(&o.rows, "rows", 20, "`number` of layouts to show, 0 for all")
		flags.StringVar(&o.plot, "plot", "", "draw the speed of 1 to 16,384 workers into this `file` (.svg or .png)")
		flags.BoolVar(&o.json, "json", false, "print JSON")
		return func(ctx context.Context, out io.Writer, args []string) error { return o.run(ctx, out, args[0]) }
	},
}

type planFlags struct {
	cluster, calibrate, load, precision, plot string
	workers, length, rows                     int
	options                                   planner.Options
	json                                      bool
}

// planResult is what plan prints.
type planResult struct {
	Model       string                `json:"model"`
	Cluster     *planner.Cluster      `json:"cluster"`
	Batch       int                   `json:"batch"`
	Length      int                   `json:"length"`
	Recommended *planner.Prediction   `json:"recommended"` // nil where no layout fits into memory
	Fit         int                   `json:"fit"`         // so many of the layouts, the first, fit into memory
	Layouts     []*planner.Prediction `json:"layouts"`
	Scaling     []*planner.Prediction `json:"scaling,omitempty"`
}

// measure describes this machine.
func (o *planFlags) measure(ctx context.Context, path string) (err error) {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	c, err := planner.Calibrate(ctx, m, max(o.options.Batch, 1), o.length, runtime.Options{})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return files.Replace(o.calibrate, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

func (o *planFlags) run(ctx context.Context, out io.Writer, path string) (err error) {
	switch {
	case o.calibrate != "" && o.cluster != "":
		return cli.Misusef("--calibrate writes a description of a cluster, --cluster reads one: give one of them")
	case o.cluster == "" && o.calibrate == "":
		return cli.Misusef("--cluster FILE must describe what to plan for; see docs/plan.md")
	case o.precision != "float32" && o.precision != "bfloat16":
		return cli.Misusef("--precision %s must be float32 or bfloat16", o.precision)
	case o.workers < 0 || o.workers > planner.MaxWorkers:
		return cli.Misusef("--workers %d must be from 1 to %d", o.workers, planner.MaxWorkers)
	case o.options.Batch < 0 || o.options.MicroBatches < 0 || o.rows < 0 || o.length < 1:
		return cli.Misusef("--batch, --micro-batches and --rows must not be negative, and --length must be at least 1")
	case o.plot != "" && pictureFormats[filepath.Ext(o.plot)] == nil:
		return cli.Misusef("--plot %s must be named .png or .svg", o.plot)
	}
	if o.calibrate != "" {
		return o.measure(ctx, path)
	}
	o.options.HalfWidth = o.precision == "bfloat16"
	cluster, err := planner.ReadCluster(o.cluster)
	if err != nil {
		return err
	}
	if o.workers == 0 {
		if o.workers = cluster.Size(); o.workers > planner.MaxWorkers {
			return fmt.Errorf("%s: the cluster has %d workers; give --workers, at most %d", o.cluster, o.workers, planner.MaxWorkers)
		}
	}
	if o.options.Batch == 0 {
		o.options.Batch = 8 * o.workers
	}
	model, err := o.describe(path)
	if err != nil {
		return err
	}
	r := planResult{Model: path, Cluster: cluster, Batch: o.options.Batch, Length: o.length}
	if r.Layouts, r.Fit, err = model.Layouts(cluster, o.workers, o.options); err != nil {
		return err
	}
	if r.Fit > 0 {
		r.Recommended = r.Layouts[0]
	}
	if o.plot != "" {
		r.Scaling = model.Scaling(cluster, o.workers, o.options)
		if err := writePicture(o.plot, scalingPicture(cluster, o.length, r.Scaling)); err != nil {
			return err
		}
	}
	if o.rows > 0 && o.rows < len(r.Layouts) {
		r.Layouts = r.Layouts[:o.rows]
	}
	if o.json {
		return cli.WriteJSON(out, r)
	}
	r.print(out)
	return nil
}

// describe reads the model, and the load of its experts where that is given.
func (o *planFlags) describe(path string) (*planner.Model, error) {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	model, err := planner.Describe(m, o.length)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if o.load == "" {
		return model, nil
	}
	text, err := os.ReadFile(o.load)
	if err != nil {
		return nil, err
	}
	if err := model.SetLoad(text); err != nil {
		return nil, fmt.Errorf("%s: %w", o.load, err)
	}
	return model, nil
}

func (r *planResult) print(out io.Writer) {
	t := cli.NewTable(1, 2, 3, 4, 5)
	t.Row("layout", "step", "tokens/s", "efficiency", "sending", "memory", "most of the time")
	for i, p := range r.Layouts {
		limit := p.Limit
		if i >= r.Fit {
			limit = "does not fit into memory"
		}
		t.Row(layoutName(p), seconds(p.Step), cli.Count(int64(p.Tokens)), fmt.Sprintf("%.1f %%", 100*p.Efficiency),
			seconds(p.Wire), fmt.Sprintf("%.1f GB", p.Total/1e9), limit)
	}
	t.Print(out)
	if r.Recommended == nil {
		fmt.Fprintln(out, "\nno layout fits into memory; use more workers, --shard-optimizer or a smaller --batch")
		return
	}
	p := r.Recommended
	fmt.Fprintf(out, "\nrecommended: %s\n", layoutName(p))
	m := p.Memory
	fmt.Fprintf(out, "memory of a worker, GB: weights %.2f, gradients %.2f, optimizer %.2f, activations %.2f, buffers %.2f\n",
		m.Weights/1e9, m.Gradients/1e9, m.Optimizer/1e9, m.Activations/1e9, m.Buffers/1e9)
	if len(p.Collectives) > 0 {
		fmt.Fprintln(out)
	}
	c := cli.NewTable(1, 2, 3, 4)
	for _, x := range p.Collectives {
		c.Row(x.Name, fmt.Sprintf("%d workers", x.Workers), fmt.Sprintf("%.1f MB", x.Bytes/1e6), seconds(x.Seconds), seconds(x.Hidden)+" hidden")
	}
	c.Print(out)
}

func layoutName(p *planner.Prediction) string {
	if p.Workers == 1 {
		return "one worker"
	}
	return p.Layout.String()
}

func seconds(s float64) string {
	if s >= 1 {
		return fmt.Sprintf("%.2f s", s)
	}
	return fmt.Sprintf("%.2f ms", 1000*s)
}

// scalingPicture draws the tokens a second of the best layouts, and what a
// single worker's would be times the number of workers.
func scalingPicture(c *planner.Cluster, length int, list []*planner.Prediction) *plot.Picture {
	best, even := plot.Curve{Name: "best layout"}, plot.Curve{Name: "every product at full speed"}
	for _, p := range list {
		best.X, best.Y = append(best.X, float64(p.Workers)), append(best.Y, p.Tokens)
		even.X, even.Y = append(even.X, float64(p.Workers)), append(even.Y, p.Tokens/p.Efficiency)
	}
	curves := plot.Curves{Title: "Training on " + c.Name, Subtitle: fmt.Sprintf("predicted; sequences of %d tokens, equally many for each worker", length),
		X: "workers", Y: "tokens a second", Curves: []plot.Curve{best, even}}
	return curves.Draw()
}
