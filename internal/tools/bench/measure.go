package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// result is what a process printed: moerun bench --json, of which the peers
// print a part.
type result struct {
	Version string `json:"version,omitempty"`
	Phases  []struct {
		Name    string `json:"name"`
		Latency struct {
			P50 float64 `json:"p50_ms"`
		} `json:"latency"`
		GFLOP       float64 `json:"gflop,omitempty"`
		WeightMB    float64 `json:"weight_mb,omitempty"`
		Allocations float64 `json:"allocations,omitempty"`
	} `json:"phases"`
	Machine struct {
		Peak      float64 `json:"peak_gflops"`
		Bandwidth float64 `json:"read_gbps"`
	} `json:"machine,omitzero"`
	Memory struct {
		Peak    int64 `json:"peak_bytes"`
		Weights int64 `json:"weight_bytes,omitempty"`
		Plan    int64 `json:"plan_bytes,omitempty"`
	} `json:"memory"`
}

// outcome is what is stored of a contest with one number of threads.
type outcome struct {
	Contest  string              `json:"contest"`
	Threads  int                 `json:"threads"`
	Date     string              `json:"date"`
	Commands map[string]string   `json:"commands"`
	Results  map[string][]result `json:"results"` // by program, one for each process
}

// roundsAside is how many processes are enough where no target depends on them.
const roundsAside = 3

// measure lets the programs of a contest run in turn, and stores the outcomes.
func (s *suite) measure(c contest) error {
	for _, n := range c.threads {
		o := outcome{Contest: c.name, Threads: n, Date: time.Now().UTC().Format(time.DateOnly), Commands: map[string]string{}, Results: map[string][]result{}}
		commands := map[string][]string{}
		for _, p := range c.programs {
			command, err := s.command(c, p, n)
			if err != nil {
				return err
			}
			if command != nil {
				commands[p.name], o.Commands[p.name] = command, strings.Join(command, " ")
			}
		}
		for round := range s.rounds {
			for _, p := range c.programs {
				if command := commands[p.name]; command != nil && (round < roundsAside || !c.aside && !p.aside) {
					r, err := execute(command)
					if err != nil {
						return fmt.Errorf("%s: %w", o.Commands[p.name], err)
					}
					o.Results[p.name] = append(o.Results[p.name], r)
				}
			}
		}
		if err := s.store(&o); err != nil {
			return err
		}
		fmt.Println(o.line(c))
	}
	return nil
}

// command is a program's command line, nil where it is not to be measured.
func (s *suite) command(c contest, p program, threads int) ([]string, error) {
	runtime, _, _ := strings.Cut(p.name, "/")
	ours := runtime == "fmoe"
	if !matches(s.among, p.name) || !ours && !s.has(runtime) {
		return nil, nil
	}
	var args []string
	if p.model == nil {
		args = p.compute
	} else {
		path, err := s.file(p.model)
		if err != nil {
			return nil, err
		}
		args = []string{path}
		switch {
		case c.train:
			args = append(args, "--train")
			for name, n := range c.dims {
				args = append(args, "--dim", fmt.Sprintf("%s=%d", name, n))
			}
		case c.decode == 0:
			dir, err := s.inputs(c.name, path, c.dims)
			if err != nil {
				return nil, err
			}
			args = append(args, "--data", dir)
		}
	}
	if c.decode > 0 {
		args = append(args, "--prefill", fmt.Sprint(c.prefill), "--decode", fmt.Sprint(c.decode))
	}
	args = append(args, "--threads", fmt.Sprint(threads), "--runs", fmt.Sprint(c.runs))
	if ours {
		return append([]string{filepath.Join(s.bin, "moerun"), "bench", "--json"}, args...), nil
	}
	return append([]string{s.python, "internal/tools/bench/peer.py", runtime}, args...), nil
}

// has reports whether Python has a library.
func (s *suite) has(library string) bool {
	if s.python == "" {
		return false
	}
	if _, known := s.libraries[library]; !known {
		err := exec.Command(s.python, "-c", "import "+library).Run()
		if s.libraries[library] = err == nil; err != nil {
			fmt.Printf("%s has no %s, which is left out\n", s.python, library)
		}
	}
	return s.libraries[library]
}

func execute(command []string) (result, error) {
	var r result
	c := exec.Command(command[0], command[1:]...)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

func (s *suite) path(contest string, threads int) string {
	return filepath.Join(s.results(), fmt.Sprintf("%s-threads-%d.json", contest, threads))
}

func (s *suite) store(o *outcome) error {
	data, err := json.MarshalIndent(o, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.path(o.Contest, o.Threads), append(data, '\n'), 0o666)
}

func readOutcome(file string) (*outcome, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	o := &outcome{}
	return o, json.Unmarshal(data, o)
}

// median is that of a quantity over a program's processes; ok is false where
// there are none.
func (o *outcome) median(program string, of func(r *result) float64) (x float64, ok bool) {
	if o == nil || len(o.Results[program]) == 0 {
		return 0, false
	}
	var list []float64
	for i := range o.Results[program] {
		list = append(list, of(&o.Results[program][i]))
	}
	slices.Sort(list)
	middle := len(list) / 2
	if len(list)%2 == 0 {
		return (list[middle-1] + list[middle]) / 2, true
	}
	return list[middle], true
}

// latency is the median time of a phase in ms.
func (o *outcome) latency(program string, phase int) (float64, bool) {
	return o.median(program, func(r *result) float64 { return r.Phases[phase].Latency.P50 })
}

// line sums the outcome up for who watches.
func (o *outcome) line(c contest) string {
	text := fmt.Sprintf("%-24s threads %d ", o.Contest, o.Threads)
	for _, p := range c.programs {
		for i := range c.phases() {
			if x, ok := o.latency(p.name, i); ok {
				text += fmt.Sprintf("  %s %s %.3f ms", p.name, c.phases()[i], x)
			}
		}
	}
	return text
}

func (c *contest) phases() []string {
	if c.decode > 0 {
		return []string{"prefill", "decode"}
	}
	return []string{"run"}
}
