package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot/plotter"
)

// drawSplit draws the perplexities of models whose MLPs were split into 8
// experts, in files k.json for each top-k.
func drawSplit(dir, out string) error {
	var points plotter.XYs
	var ticks []int
	for k := 1; k <= 8; k++ {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.json", k)))
		if err != nil {
			return err
		}
		var result struct{ Perplexity float64 }
		if err := json.Unmarshal(data, &result); err != nil {
			return err
		}
		points = append(points, plotter.XY{X: float64(k), Y: result.Perplexity})
		ticks = append(ticks, k)
	}
	dense := plotter.XYs{{X: 1, Y: points[7].Y}, {X: 8, Y: points[7].Y}} // all experts are the dense model
	c := chart{title: "The sample GPT split into 8 experts", x: "experts of a token", y: "perplexity on held-out text", ticks: ticks}
	for _, format := range []string{"png", "svg"} {
		if err := c.save([]line{{"split, calibrated", points}, {"dense", dense}}, filepath.Join(out, "split."+format)); err != nil {
			return err
		}
	}
	return printSpeed(dir)
}

// printSpeed prints how long the MLPs of the dense model take, and of the one
// split for two experts a token, and the medians of both: from profiles of
// benchmarks that ran in turn, dense-1.json, split-1.json, dense-2.json and so
// on. Whatever the dense model spends more on Linear is its MLPs.
func printSpeed(dir string) error {
	var dense, split, ratios []float64
	for round := 1; ; round++ {
		before, err := readProfile(filepath.Join(dir, fmt.Sprintf("dense-%d.json", round)))
		if os.IsNotExist(err) && round > 1 {
			break
		}
		if err != nil {
			return err
		}
		after, err := readProfile(filepath.Join(dir, fmt.Sprintf("split-%d.json", round)))
		if err != nil {
			return err
		}
		d := before["ai.fmoe::Linear"] - after["ai.fmoe::Linear"]
		s := after["ai.fmoe::FMoE"] + after["ai.fmoe::Chain"] - before["ai.fmoe::Chain"] // the bias is added in a chain
		dense, split, ratios = append(dense, d), append(split, s), append(ratios, d/s)
	}
	fmt.Printf("MLPs of 2048 tokens on one thread: dense %.3f ms, 2 of 8 experts %.3f ms, %.2f times as fast (medians of %d rounds: %.2f)\n",
		middle(dense), middle(split), middle(ratios), len(ratios), ratios)
	return nil
}

// readProfile returns the milliseconds that each operator takes in a run.
func readProfile(file string) (map[string]float64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var result struct {
		Phases  []struct{ Latency struct{ Runs int } }
		Profile []struct {
			Name string
			MS   float64
		}
	}
	if err := json.Unmarshal(data, &result); err != nil {
		return nil, err
	}
	times := map[string]float64{}
	for _, operator := range result.Profile {
		times[operator.Name] = operator.MS / float64(result.Phases[0].Latency.Runs)
	}
	return times, nil
}

// middle returns the median.
func middle(x []float64) float64 {
	sorted := slices.Sorted(slices.Values(x))
	return sorted[len(sorted)/2]
}
