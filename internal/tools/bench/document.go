package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/template"
)

//go:embed document.md
var documentTemplate string

// The part of the document between these lines is written by hand and kept.
const (
	keepBegin = "<!-- begin: written by hand, kept by make bench -->\n"
	keepEnd   = "<!-- end -->\n"
)

// write makes the document from the results that there are.
func (s *suite) write(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d := &document{suite: s, outcomes: map[string]*outcome{}}
	if err := d.load(); err != nil {
		return err
	}
	t, err := template.New("document").Parse(documentTemplate)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, d); err != nil {
		return err
	}
	return os.WriteFile(path, keep(b.Bytes(), old), 0o666)
}

// keep puts what was written by hand into a new document.
func keep(document, old []byte) []byte {
	cut := func(text []byte) (before, kept, after []byte, ok bool) {
		before, rest, ok := bytes.Cut(text, []byte(keepBegin))
		if !ok {
			return nil, nil, nil, false
		}
		kept, after, ok = bytes.Cut(rest, []byte(keepEnd))
		return before, kept, after, ok
	}
	before, _, after, ok := cut(document)
	_, kept, _, had := cut(old)
	if !ok || !had {
		return document
	}
	return slices.Concat(before, []byte(keepBegin), kept, []byte(keepEnd), after)
}

// document is what the template is filled from.
type document struct {
	suite    *suite
	outcomes map[string]*outcome // by file
}

func (d *document) load() error {
	files, err := filepath.Glob(filepath.Join(d.suite.results(), "*-threads-*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		o, err := readOutcome(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		d.outcomes[file] = o
	}
	return nil
}

// of returns what was measured of a contest, nil where nothing was.
func (d *document) of(contest string, threads int) *outcome {
	return d.outcomes[d.suite.path(contest, threads)]
}

// Machine describes the processor.
func (d *document) Machine() string {
	name := runtime.GOARCH
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(data), "model name")
		line, _, _ := strings.Cut(rest, "\n")
		name = cmp.Or(strings.Trim(line, "\t :"), name)
	}
	return fmt.Sprintf("%s, %d cores", name, runtime.NumCPU())
}

// Limits are the machine's peak and bandwidth, by the number of threads.
func (d *document) Limits() string {
	var parts []string
	for _, n := range threads {
		var peak, bandwidth float64
		for _, o := range d.outcomes {
			for _, r := range slices.Concat(o.Results["fmoe"], o.Results["fmoe/float32"]) {
				if o.Threads == n {
					peak, bandwidth = max(peak, r.Machine.Peak), max(bandwidth, r.Machine.Bandwidth)
				}
			}
		}
		parts = append(parts, fmt.Sprintf("%.0f GFLOP/s and %.0f GB/s on %d", peak, bandwidth, n))
	}
	return strings.Join(parts, ", ")
}

// Versions are those of the peers.
func (d *document) Versions() string {
	versions := map[string]bool{}
	for _, o := range d.outcomes {
		for _, list := range o.Results {
			for _, r := range list {
				if r.Version != "" {
					versions[r.Version] = true
				}
			}
		}
	}
	var list []string
	for v := range versions {
		list = append(list, v)
	}
	slices.Sort(list)
	return strings.Join(append([]string{runtime.Version()}, list...), ", ")
}

// Processes is how many processes of a program were measured, and when.
func (d *document) Processes() string {
	least, most, dates := 0, 0, []string{}
	for _, o := range d.outcomes {
		n := max(len(o.Results["fmoe"]), len(o.Results["fmoe/float32"]))
		if least == 0 || n < least {
			least = n
		}
		most = max(most, n)
		dates = append(dates, o.Date)
	}
	slices.Sort(dates)
	count := fmt.Sprint(least)
	if most != least {
		count = fmt.Sprintf("%d to %d", least, most)
	}
	if dates = slices.Compact(dates); len(dates) > 1 {
		dates = []string{dates[0] + " to " + dates[len(dates)-1]}
	}
	return count + " processes each, " + strings.Join(dates, "")
}

// ratio is how many times as fast fmoe is as another program.
func (o *outcome) ratio(program, other string, phase int) (float64, bool) {
	ours, ok1 := o.latency(program, phase)
	theirs, ok2 := o.latency(other, phase)
	return theirs / ours, ok1 && ok2
}

// peakShare is the part of the machine's peak that fmoe reaches, in the median.
func (o *outcome) peakShare(program string, phase int) (float64, bool) {
	return o.median(program, func(r *result) float64 {
		return r.Phases[phase].GFLOP / r.Phases[phase].Latency.P50 * 1000 / r.Machine.Peak
	})
}

// bandwidthShare is that of the machine's bandwidth.
func (o *outcome) bandwidthShare(program string, phase int) (float64, bool) {
	return o.median(program, func(r *result) float64 {
		return r.Phases[phase].WeightMB / r.Phases[phase].Latency.P50 / r.Machine.Bandwidth
	})
}

// limit names what bounds a phase, peak or bandwidth, and how much of it is
// reached.
func (o *outcome) limit(program string, phase int) string {
	peak, ok := o.peakShare(program, phase)
	bandwidth, _ := o.bandwidthShare(program, phase)
	switch {
	case !ok:
		return none
	case bandwidth > peak:
		return percent(bandwidth, ok) + " of bandwidth"
	}
	return percent(peak, ok) + " of peak"
}

// Products compares matrix products with the peak and with other libraries.
func (d *document) Products() string {
	t := &table{head: []string{"product", "threads", "fmoe, ms", "GFLOP/s", "of peak", "target", "of one thread", "target", "ONNX Runtime, ms", "NumPy, ms", "PyTorch, ms"}}
	for _, p := range products {
		name := productName(p)
		one, measured := d.of(name, 1).latency("fmoe", 0)
		for _, n := range threads {
			o := d.of(name, n)
			ours, ok := o.latency("fmoe", 0)
			if !ok {
				continue
			}
			reached, _ := o.peakShare("fmoe", 0)
			peakTarget, speedup, speedupTarget := share(0.88).cell(reached, n == 1), times(one/ours, measured && n > 1), atLeast(1.85).cell(one/ours, measured && n > 1)
			operations := 2 * float64(p[0]) * float64(p[1]) * float64(p[2])
			t.row(fmt.Sprintf("%d × %d × %d", p[0], p[1], p[2]), fmt.Sprint(n), milliseconds(ours, ok), fmt.Sprintf("%.0f", operations/ours/1e6),
				percent(reached, ok), peakTarget, speedup, speedupTarget,
				milliseconds(o.latency("onnxruntime", 0)), milliseconds(o.latency("numpy", 0)), milliseconds(o.latency("torch", 0)))
		}
	}
	return t.String()
}

// Layer compares one FMoE layer on few and many tokens.
func (d *document) Layer() string {
	faster := map[int]float64{1: 2, 16: 2.5, 512: 1.4}
	t := &table{head: []string{"tokens", "threads", "fmoe, ms", "ONNX Runtime, ms", "times as fast", "target", "PyTorch, ms", "of peak", "of bandwidth", "target"}}
	for _, tokens := range tokens {
		for _, n := range threads {
			o := d.of(fmt.Sprintf("tokens-%d", tokens), n)
			ours, ok := o.latency("fmoe", 0)
			if !ok {
				continue
			}
			ratio, compared := o.ratio("fmoe", "onnxruntime", 0)
			bandwidth, _ := o.bandwidthShare("fmoe", 0)
			least, aim := faster[tokens]
			t.row(fmt.Sprint(tokens), fmt.Sprint(n), milliseconds(ours, ok), milliseconds(o.latency("onnxruntime", 0)), times(ratio, compared), atLeast(least).cell(ratio, compared && aim),
				milliseconds(o.latency("torch", 0)), percent(o.peakShare("fmoe", 0)), percent(bandwidth, ok), share(0.8).cell(bandwidth, tokens == 1))
		}
	}
	return t.String()
}

// Growth says what more experts cost, and tokens that all choose the same.
func (d *document) Growth() string {
	t := &table{head: []string{"experts", "threads", "fmoe, ms", "of 8 experts", "target", "of peak", "ONNX Runtime, ms"}}
	row := func(label, contest string, n int, aim target) {
		o := d.of(contest, n)
		ours, ok := o.latency("fmoe", 0)
		if !ok {
			return
		}
		base, measured := d.of(fmt.Sprintf("experts-%d", experts[0]), n).latency("fmoe", 0)
		t.row(label, fmt.Sprint(n), milliseconds(ours, ok), times(ours/base, measured), aim.cell(ours/base, measured), percent(o.peakShare("fmoe", 0)), milliseconds(o.latency("onnxruntime", 0)))
	}
	for _, n := range threads {
		for i, e := range experts {
			aim := target{}
			if i > 0 {
				aim = atMost(1.25)
			}
			row(fmt.Sprint(e), fmt.Sprintf("experts-%d", e), n, aim)
		}
		row("8, all tokens on the same two", "experts-8-skewed", n, atMost(1.1))
	}
	return t.String()
}

// Models compares whole models.
func (d *document) Models() string {
	t := &table{head: []string{"model", "threads", "fmoe, ms", "compared with", "ms", "times as fast", "target", "limit"}}
	for _, m := range []struct {
		label, contest string
		phase          int
		peers          []string
		labels         []string
		targets        []float64
	}{
		{"GPT, prefill of 128", "gpt", 0, []string{"onnxruntime", "torch"}, []string{"ONNX Runtime", "PyTorch"}, []float64{1, 0}},
		{"GPT, decoding, a token", "gpt", 1, []string{"onnxruntime", "torch"}, []string{"ONNX Runtime", "PyTorch"}, []float64{1, 0}},
		{"GPT of 8 experts, prefill of 128", "gpt-mixture", 0, []string{"onnxruntime", "onnxruntime/portable"}, []string{"ONNX Runtime, MoE", "ONNX Runtime, function body"}, []float64{1.25, 3}},
		{"GPT of 8 experts, decoding, a token", "gpt-mixture", 1, []string{"onnxruntime", "onnxruntime/portable"}, []string{"ONNX Runtime, MoE", "ONNX Runtime, function body"}, []float64{1.25, 3}},
		{"BERT-base, 8 × 128", "bert", 0, []string{"onnxruntime", "torch"}, []string{"ONNX Runtime", "PyTorch"}, []float64{1, 0}},
	} {
		for i, peer := range m.peers {
			for _, n := range threads {
				o := d.of(m.contest, n)
				ours, ok := o.latency("fmoe", m.phase)
				theirs, compared := o.latency(peer, m.phase)
				if !ok || !compared {
					continue
				}
				t.row(m.label, fmt.Sprint(n), milliseconds(ours, ok), m.labels[i], milliseconds(theirs, true), times(theirs/ours, true),
					atLeast(m.targets[i]).cell(theirs/ours, m.targets[i] > 0), o.limit("fmoe", m.phase))
			}
		}
	}
	return t.String()
}

// Training compares steps of training, and the memory that they take.
func (d *document) Training() string {
	t := &table{head: []string{"model", "threads", "fmoe, ms", "PyTorch, ms", "times as fast", "target", "of peak", "fmoe's memory, MB", "PyTorch's, MB", "times as much", "target"}}
	for _, m := range []struct {
		label, contest string
		faster         float64
	}{{"GPT", "train-gpt", 1}, {"GPT of 8 experts", "train-gpt-mixture", 1.4}} {
		for _, n := range threads {
			o := d.of(m.contest, n)
			ours, ok := o.latency("fmoe", 0)
			if !ok {
				continue
			}
			ratio, compared := o.ratio("fmoe", "torch", 0)
			peak := func(program string) (float64, bool) {
				return o.median(program, func(r *result) float64 { return float64(r.Memory.Peak) / 1e6 })
			}
			memory, _ := peak("fmoe")
			theirs, _ := peak("torch")
			t.row(m.label, fmt.Sprint(n), milliseconds(ours, ok), milliseconds(o.latency("torch", 0)), times(ratio, compared), atLeast(m.faster).cell(ratio, compared),
				percent(o.peakShare("fmoe", 0)), number("%.0f", memory, ok), number("%.0f", theirs, compared), times(memory/theirs, compared), atMost(1).cell(memory/theirs, compared))
		}
	}
	return t.String()
}

// Storage compares formats of experts' weights.
func (d *document) Storage() string {
	faster := map[string]float64{"int8": 2, "int4": 3}
	worse := map[string]float64{"int8": 0.01, "int4": 0.05}
	perplexities, err := d.suite.loadPerplexities()
	if err != nil {
		return err.Error() + "\n"
	}
	t := &table{head: []string{"experts' weights", "threads", "experts alone, ms a token", "times as fast", "target", "of bandwidth", "GPT, ms a token", "times as fast", "perplexity of the sample", "against float32", "target"}}
	for _, format := range formats {
		for _, n := range threads {
			alone, whole, program := d.of("storage-experts", n), d.of("storage-gpt", n), "fmoe/"+format
			ours, ok := alone.latency(program, 0)
			gpt, measured := whole.latency(program, 1)
			if !ok {
				continue
			}
			ratio, _ := alone.ratio(program, "fmoe/float32", 0)
			gptRatio, _ := whole.ratio(program, "fmoe/float32", 1)
			perplexity, known := perplexities[format]
			change := perplexity/perplexities["float32"] - 1
			_, aim := faster[format]
			t.row(format, fmt.Sprint(n), milliseconds(ours, ok), times(ratio, ok), atLeast(faster[format]).cell(ratio, aim), percent(alone.bandwidthShare(program, 0)),
				milliseconds(gpt, measured), times(gptRatio, measured),
				number("%.4f", perplexity, known), number("%+.2f %%", 100*change, known), target{bound: worse[format], most: true, of: percent}.cell(change, known && aim))
		}
	}
	return t.String()
}

func number(format string, x float64, ok bool) string {
	if !ok {
		return none
	}
	return fmt.Sprintf(format, x)
}

// Memory compares the peak of memory with what a run needs.
func (d *document) Memory() string {
	t := &table{head: []string{"model", "threads", "weights, MB", "plan, MB", "weights + 1.3 × plan", "peak, MB", "within", "heap allocations a run", "ONNX Runtime's peak, MB"}}
	megabytes := func(of func(r *result) int64) func(r *result) float64 {
		return func(r *result) float64 { return float64(of(r)) / 1e6 }
	}
	for _, m := range []struct {
		label, contest string
		runs           bool // all alike
	}{{"FMoE layer, 1 token", "tokens-1", true}, {"FMoE layer, 512 tokens", "tokens-512", true}, {"FMoE layer, 128 experts", "experts-128", true},
		{"GPT", "gpt", false}, {"GPT of 8 experts", "gpt-mixture", false}, {"BERT-base, 8 × 128", "bert", true}} {
		for _, n := range threads {
			o := d.of(m.contest, n)
			weights, ok := o.median("fmoe", megabytes(func(r *result) int64 { return r.Memory.Weights }))
			if !ok {
				continue
			}
			plan, _ := o.median("fmoe", megabytes(func(r *result) int64 { return r.Memory.Plan }))
			peak, _ := o.median("fmoe", megabytes(func(r *result) int64 { return r.Memory.Peak }))
			theirs, compared := o.median("onnxruntime", megabytes(func(r *result) int64 { return r.Memory.Peak }))
			allocations, _ := o.median("fmoe", func(r *result) float64 { return r.Phases[0].Allocations })
			bound := weights + 1.3*plan
			mark := "✗"
			if peak <= bound {
				mark = "✓"
			}
			t.row(m.label, fmt.Sprint(n), number("%.1f", weights, ok), number("%.1f", plan, ok), number("%.1f", bound, ok), number("%.1f", peak, ok), mark,
				number("%.0f", allocations, m.runs), number("%.1f", theirs, compared))
		}
	}
	return t.String()
}
