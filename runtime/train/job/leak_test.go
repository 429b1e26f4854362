package job_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/train/job"
)

// usage is what a process holds at one moment.
type usage struct {
	heap       uint64 // bytes of objects that are reachable
	resident   int    // bytes in memory; 0 where that is not known
	goroutines int
}

func measure() usage {
	goruntime.GC()
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	u := usage{heap: m.HeapAlloc, goroutines: goruntime.NumGoroutine()}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		var total, resident int
		if _, err := fmt.Sscan(string(text), &total, &resident); err == nil {
			u.resident = resident * os.Getpagesize()
		}
	}
	return u
}

// watched measures whenever it was asked so many times whether it is done,
// which a run does at least once in a step.
type watched struct {
	context.Context
	every, asked int
	seen         []usage
}

func (w *watched) Err() error {
	if w.asked++; w.asked%w.every == 0 {
		w.seen = append(w.seen, measure())
	}
	return w.Context.Err()
}

// Two thousand steps of a sample with experts, with all that a run can write,
// need no more memory and no more goroutines at the end than soon after the
// start; afterwards nothing is left but the files that docs/training.md names.
func TestLongRun(t *testing.T) {
	if testing.Short() {
		t.Skip("2,000 steps")
	}
	_, text := write(t)
	m, err := onnx.ReadFile("../../../models/llama/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := fmoefy.Rewrite(m, fmoefy.Options{NumExperts: 4, TopK: 2, GateOptions: fmoefy.GateOptions{Gate: "gshard"}}); err != nil {
		t.Fatal(err)
	}
	model := filepath.Join(t.TempDir(), "model.onnx")
	if err := onnx.WriteFile(model, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	const steps = 2000
	dir := filepath.Join(t.TempDir(), "run")
	page := filepath.Join(dir, "report.html")
	c := configure(t, text, fmt.Sprint("steps=", steps), "data.length=8", "data.batch=2", "evaluate_every=500", "save_every=500", "keep=4")
	before := measure()
	ctx := &watched{Context: t.Context(), every: 100}
	run(t, ctx, model, c, job.Options{Dir: dir, TensorBoard: true, Report: page, Progress: &bytes.Buffer{}})
	after := measure()

	quarter := len(ctx.seen) / 4
	if quarter < 5 {
		t.Fatalf("%d measurements", len(ctx.seen))
	}
	// Only what every measurement shows has stayed.
	least := func(seen []usage) usage {
		u := seen[0]
		for _, v := range seen[1:] {
			u = usage{min(u.heap, v.heap), min(u.resident, v.resident), min(u.goroutines, v.goroutines)}
		}
		return u
	}
	early, late := least(ctx.seen[quarter:2*quarter]), least(ctx.seen[3*quarter:])
	t.Logf("before %+v, early %+v, late %+v, after %+v", before, early, late, after)
	if late.heap > early.heap+512<<10 {
		t.Errorf("%d bytes of heap, later %d", early.heap, late.heap)
	}
	if late.resident > early.resident+8<<20 {
		t.Errorf("%d bytes in memory, later %d", early.resident, late.resident)
	}
	if late.goroutines > early.goroutines || after.goroutines > before.goroutines {
		t.Errorf("%d goroutines before the run, %d and %d in it, %d afterwards", before.goroutines, early.goroutines, late.goroutines, after.goroutines)
	}
	checkFiles(t, dir, steps)
}

// checkFiles wants the files in a run directory that the documentation names,
// and no others but the lock.
func checkFiles(t *testing.T, dir string, steps int) {
	t.Helper()
	text, err := os.ReadFile("../../../docs/training.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("## What a run writes"))
	text, _, _ = bytes.Cut(text, []byte("\n## "))
	named := []string{"report.html", ".lock"}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllSubmatch(text, -1) {
		named = append(named, strings.TrimSuffix(string(row[1]), "/"))
	}
	if len(named) < 5 {
		t.Fatalf("docs/training.md names %q", named)
	}
	for _, name := range append(slices.Clone(named), "step-00000500/model.onnx") {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if checkpoint, _ := filepath.Match("step-*", e.Name()); !checkpoint && !slices.Contains(named, e.Name()) {
			t.Errorf("%s is left, which docs/training.md does not name", e.Name())
		}
	}
	if shards, _ := filepath.Glob(filepath.Join(dir, "step-00000500", "*.safetensors")); len(shards) == 0 {
		t.Error("the checkpoint has no safetensors")
	}
	f, err := os.Open(filepath.Join(dir, job.LogFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		lines++
	}
	if lines < steps {
		t.Errorf("%d lines in the log of %d steps", lines, steps)
	}
}
