// Command plots draws what the benchmarks measured, or with --split the
// perplexities of split models, as PNG and SVG.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot/plotter"
)

func main() {
	results := flag.String("results", "build/bench/results", "directory of the benchmarks' results")
	out := flag.String("out", "docs", "directory for the pictures")
	split := flag.String("split", "", "draw the perplexities in this directory instead")
	flag.Parse()
	draw := func() error { return drawAll(*results, *out) }
	if *split != "" {
		draw = func() error { return drawSplit(*split, *out) }
	}
	if err := draw(); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

// programs are those that are drawn, with what they are called.
var programs = []struct{ name, label string }{{"fmoe", "fmoe"}, {"onnxruntime", "ONNX Runtime"}, {"torch", "PyTorch"}}

func drawAll(results, out string) error {
	tokens, experts := []int{1, 4, 16, 64, 512}, []int{8, 16, 32, 64, 128}
	type picture struct {
		file   string
		chart  chart
		series func(program string) (plotter.XYs, error)
	}
	overSizes := func(contest string, sizes []int, threads int) func(string) (plotter.XYs, error) {
		return func(program string) (points plotter.XYs, err error) {
			for _, n := range sizes {
				ms, ok, err := median(results, fmt.Sprintf("%s-%d", contest, n), threads, program)
				if err != nil {
					return nil, err
				}
				if ok {
					points = append(points, plotter.XY{X: float64(n), Y: ms})
				}
			}
			return points, nil
		}
	}
	pictures := []picture{
		{"benchmarks-tokens", chart{title: "One FMoE layer: 8 experts, 2 a token, 768 × 3072, 2 threads", x: "tokens", ticks: tokens, logX: true, logY: true}, overSizes("tokens", tokens, 2)},
		{"benchmarks-experts", chart{title: "4096 tokens, 2 experts a token, 512 × 1024, 2 threads", x: "experts", ticks: experts, logX: true}, overSizes("experts", experts, 2)},
		{"benchmarks-threads", chart{title: "One FMoE layer of 8 experts, 512 tokens", x: "threads", ticks: []int{1, 2}}, func(program string) (points plotter.XYs, err error) {
			for _, n := range []int{1, 2} {
				ms, ok, err := median(results, "tokens-512", n, program)
				if err != nil {
					return nil, err
				}
				if ok {
					points = append(points, plotter.XY{X: float64(n), Y: ms})
				}
			}
			return points, nil
		}},
	}
	for _, p := range pictures {
		var lines []line
		for _, program := range programs {
			points, err := p.series(program.name)
			if err != nil {
				return err
			}
			if len(points) > 0 {
				lines = append(lines, line{program.label, points})
			}
		}
		if len(lines) == 0 {
			fmt.Printf("%s was not measured\n", p.file)
			continue
		}
		for _, format := range []string{"png", "svg"} {
			if err := p.chart.save(lines, filepath.Join(out, p.file+"."+format)); err != nil {
				return err
			}
		}
	}
	return nil
}

// median is the median of the medians of a program's processes in ms; ok is
// false where it was not measured.
func median(dir, contest string, threads int, program string) (ms float64, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%s-threads-%d.json", contest, threads)))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	var outcome struct {
		Results map[string][]struct {
			Phases []struct {
				Latency struct {
					P50 float64 `json:"p50_ms"`
				} `json:"latency"`
			} `json:"phases"`
		} `json:"results"`
	}
	if err := json.Unmarshal(data, &outcome); err != nil {
		return 0, false, err
	}
	var list []float64
	for _, r := range outcome.Results[program] {
		list = append(list, r.Phases[0].Latency.P50)
	}
	if len(list) == 0 {
		return 0, false, nil
	}
	slices.Sort(list)
	return list[len(list)/2], true, nil
}
