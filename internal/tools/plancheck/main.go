// Command plancheck compares what package plan predicts of this machine with
// steps of training in the same layouts: workers of one process and, where
// mpirun and a moerun with MPI are there, processes.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/benchmodel"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/plan"
	"github.com/fmoe-go/fmoe/runtime/train/job"
)

const (
	batch, length, accumulate = 8, 128, 2
	steps, rounds             = 5, 3
	tolerance                 = 0.2
)

func main() {
	mpi := flag.String("mpi", "bin/moerun-mpi", "moerun built with MPI")
	flag.Parse()
	if err := check(context.Background(), *mpi); err != nil {
		fmt.Fprintln(os.Stderr, "plancheck:", err)
		os.Exit(1)
	}
}

func check(ctx context.Context, mpi string) error {
	dir, err := os.MkdirTemp("", "plancheck")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	model, text := filepath.Join(dir, "model.onnx"), filepath.Join(dir, "text.txt")
	if err := write(model, text); err != nil {
		return err
	}
	m, err := onnx.ReadFile(model)
	if err != nil {
		return err
	}
	defer m.Close()
	c, err := plan.Calibrate(ctx, m, batch, length, runtime.Options{})
	if err != nil {
		return err
	}
	facts, err := plan.Describe(m, length)
	if err != nil {
		return err
	}
	var list []*measurement
	for _, x := range []measurement{{layout: ""}, {layout: "data=2"}, {layout: "expert=2"}, {layout: "slice=2"}, {layout: "tensor=2"}, {layout: "expert=4"},
		{layout: "data=2,expert=2"}, {layout: "pipeline=2"}, {layout: "data=2", mpi: true}, {layout: "expert=2", mpi: true}} {
		_, missing := exec.LookPath("mpirun")
		if _, err := os.Stat(mpi); !x.mpi || missing == nil && err == nil {
			list = append(list, &x)
		}
	}
	for round := range rounds {
		for _, x := range list {
			if err := x.run(ctx, dir, round, mpi, model, text); err != nil {
				return fmt.Errorf("%s: %w", x.layout, err)
			}
		}
	}
	// What one worker does is the calibration, in the same minutes.
	options := plan.Options{Batch: batch * accumulate, MicroBatches: accumulate}
	if err := facts.Fit(c, options, list[0].median()); err != nil {
		return err
	}
	fmt.Printf("this machine: %.0f GFLOP/s in products of training, memory %.0f GB/s, messages %.1f GB/s and %.0f µs\n\n",
		c.FLOPS/1e9, c.MemoryBandwidth/1e9, c.Inside.Bandwidth/1e9, c.Inside.Latency*1e6)
	t := cli.NewTable(2, 3, 4)
	t.Row("layout", "workers are", "predicted ms", "measured ms", "error")
	within := 0
	for i, x := range list {
		layout, err := comm.ParseLayout(x.layout)
		if err != nil {
			return err
		}
		kind := "goroutines"
		if x.mpi {
			kind = "processes"
		}
		p, err := facts.Predict(c, layout, options)
		if err != nil {
			return err
		}
		measured := x.median()
		wrong := p.Step/measured - 1
		if i > 0 && math.Abs(wrong) <= tolerance {
			within++
		}
		t.Row(cmp.Or(x.layout, "one worker"), kind, fmt.Sprintf("%.0f", 1000*p.Step), fmt.Sprintf("%.0f", 1000*measured), fmt.Sprintf("%+.0f %%", 100*wrong))
	}
	t.Print(os.Stdout)
	fmt.Printf("\n%d of %d within %.0f %%\n", within, len(list)-1, 100*tolerance)
	return nil
}

// measurement is the times of steps in a layout.
type measurement struct {
	layout string
	mpi    bool
	times  []float64
}

func (x *measurement) run(ctx context.Context, dir string, round int, mpi, model, text string) error {
	layout, err := comm.ParseLayout(x.layout)
	if err != nil {
		return err
	}
	run := filepath.Join(dir, fmt.Sprintf("run-%s-%t-%d", x.layout, x.mpi, round))
	defer os.RemoveAll(run)
	if x.mpi {
		err = processes(ctx, mpi, model, text, run, layout)
	} else {
		err = goroutines(ctx, model, text, run, layout)
	}
	if err != nil {
		return err
	}
	times, err := stepTimes(filepath.Join(run, job.LogFile))
	x.times = append(x.times, times...)
	return err
}

func (x *measurement) median() float64 {
	slices.Sort(x.times)
	return x.times[len(x.times)/2]
}

// write writes a GPT with experts, and a text.
func write(model, text string) error {
	m := benchmodel.Transformer{Layers: 4, Model: 256, Heads: 4, Hidden: 1024, Vocabulary: 2048, Positions: 256}.Decoder()
	if _, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 8, TopK: 2}); err != nil {
		return err
	}
	if err := onnx.WriteFile(model, m, onnx.WriteOptions{}); err != nil {
		return err
	}
	return os.WriteFile(text, bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog. "), 4000), 0o644)
}

var settings = []string{"data.length=" + strconv.Itoa(length), "data.batch=" + strconv.Itoa(batch), "data.tokenizer=bytes", "accumulate=" + strconv.Itoa(accumulate),
	"steps=" + strconv.Itoa(steps), "evaluate_every=0", "save_every=0", "data.held_out=0.01"}

func goroutines(ctx context.Context, model, text, dir string, l comm.Layout) error {
	c, err := job.Parse(nil, append([]string{"data.train=" + text}, settings...))
	if err != nil {
		return err
	}
	_, err = job.Run(ctx, model, c, job.Options{Dir: dir, Layout: l})
	return err
}

func processes(ctx context.Context, mpi, model, text, dir string, l comm.Layout) error {
	args := []string{"-n", strconv.Itoa(l.Size()), "--bind-to", "none", mpi, "train", model, "--data", text, "--output", dir, "--parallel", l.String(), "--quiet"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	c := exec.CommandContext(ctx, "mpirun", args...)
	c.Env = append(os.Environ(), "OMPI_MCA_rmaps_base_oversubscribe=1", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// stepTimes returns the seconds of the steps in a log, but for the first.
func stepTimes(log string) ([]float64, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var times []float64
	before := 0.0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var s struct {
			Record  string
			Seconds float64
		}
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, err
		}
		if strings.EqualFold(s.Record, "step") {
			times = append(times, s.Seconds-before)
			before = s.Seconds
		}
	}
	if len(times) < 3 {
		return nil, fmt.Errorf("%s has %d steps", log, len(times))
	}
	return times[1:], nil
}
