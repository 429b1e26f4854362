// Command bench measures fmoe against ONNX Runtime, NumPy and PyTorch, and
// writes docs/benchmarks.md.
//
// Programs that do the same work run in turn, each in a process of its own
// that loads, warms up and measures several runs; what counts is the median of
// the processes' medians. Results are kept as JSON, so that a part of the
// benchmarks can be repeated and the document written from all.
package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/pflag"
)

// suite is what the flags say.
type suite struct {
	dir    string // models, inputs and results
	bin    string // moerun and fmoefy
	python string // "" measures fmoe alone
	rounds int

	libraries map[string]bool // of Python, as far as they were looked for

	only  []string // contests, and
	among []string // programs to measure, as patterns of package path; all where there are none
	smoke bool
}

func main() {
	s := suite{libraries: map[string]bool{}}
	document := pflag.String("document", "", "write the results to this Markdown `file`")
	pflag.StringVar(&s.dir, "dir", "build/bench", "`directory` for models, inputs and results")
	pflag.StringVar(&s.bin, "bin", "bin", "`directory` of moerun and fmoefy")
	pflag.StringVar(&s.python, "python", "", "Python `interpreter` with onnxruntime; without it fmoe is measured alone")
	pflag.IntVar(&s.rounds, "rounds", 9, "number of processes of each program; 0 only writes the document")
	pflag.StringSliceVar(&s.only, "only", nil, "contests to measure, as `patterns` such as tokens-*")
	pflag.StringSliceVar(&s.among, "programs", nil, "programs to measure, as `patterns` such as fmoe*,onnxruntime")
	pflag.BoolVar(&s.smoke, "smoke", false, "tiny models, one process of one run each")
	list := pflag.Bool("list", false, "list the contests")
	pflag.Parse()
	if *list {
		for _, c := range contests() {
			fmt.Println(c.name)
		}
		return
	}
	if err := s.run(*document); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (s *suite) run(document string) error {
	for _, dir := range []string{s.models(), s.results()} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	list := contests()
	if s.smoke {
		list, s.rounds = smokeContests(), 1
	}
	if s.rounds > 0 {
		for _, c := range list {
			if !matches(s.only, c.name) {
				continue
			}
			if err := s.measure(c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	if s.rounds > 0 && !s.smoke && matches(s.only, "perplexity") {
		if err := s.measurePerplexities(); err != nil {
			return err
		}
	}
	if document == "" {
		return nil
	}
	return s.write(document)
}

func (s *suite) models() string  { return filepath.Join(s.dir, "models") }
func (s *suite) results() string { return filepath.Join(s.dir, "results") }

// matches reports whether a name fits one of the patterns, or there are none.
func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return len(patterns) == 0
}
