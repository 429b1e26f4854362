package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

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
	return nil
}
