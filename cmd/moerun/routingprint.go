package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/internal/plot"
	"github.com/fmoe-go/fmoe/runtime/routing"
)

// maxAgreement is the most layers whose agreement is printed.
const maxAgreement = 16

// printRouting prints what was seen of a model's layers.
func printRouting(out io.Writer, s *routing.Statistics) {
	labels, pattern := layerNames(s.Layers)
	runs := "runs"
	if s.Runs == 1 {
		runs = "run"
	}
	fmt.Fprintf(out, "FMoE layers %s, %s %s\n", pattern, cli.Count(int64(s.Runs)), runs)
	t := cli.NewTable(2, 3, 4, 5, 6, 7, 8, 9, 10)
	t.Row("layer", "gate", "experts", "tokens", "dropped", "entropy", "CV", "router", "first", "balance", "z", "load")
	lines := false
	for i, l := range s.Layers {
		line := routing.Bars(l.Load)
		lines = lines || line != ""
		t.Row(labels[i], l.Gate, fmt.Sprintf("%d of %d", l.Slots, l.Experts), cli.Count(l.Tokens), l.Dropped.Percent(),
			l.Evenness.Text(3), l.Variation.Text(3), l.Indecision.Text(3), l.FirstScore.Text(3), l.BalanceLoss.Text(3), l.ZLoss.Text(3), line)
	}
	t.Print(out)
	if lines {
		fmt.Fprintf(out, "load: %s\n", routing.BarsLegend)
	}
	if n := len(s.Layers); n < 2 || n > maxAgreement || s.Agreement == nil {
		return
	}
	fmt.Fprintln(out, "\nagreement of first choices")
	var right []int
	for i := range s.Layers {
		right = append(right, i+1)
	}
	a := cli.NewTable(right...)
	rows, columns := axisLabels(labels)
	a.Row(append([]string{""}, columns...)...)
	for i, row := range s.Agreement {
		cells := []string{rows[i]}
		for _, x := range row[:i+1] {
			cells = append(cells, x.Text(2))
		}
		a.Row(cells...)
	}
	a.Print(out)
}

// axisLabels returns what rows and columns of a matrix of layers are called:
// the columns are numbered where names are too long for them.
func axisLabels(labels []string) (rows, columns []string) {
	const most = 5
	if !slices.ContainsFunc(labels, func(s string) bool { return len(s) > most }) {
		return labels, labels
	}
	for i, s := range labels {
		rows = append(rows, fmt.Sprintf("%s  %d", s, i))
	}
	return rows, numbered(len(labels))
}

func numbered(n int) (labels []string) {
	for i := range n {
		labels = append(labels, strconv.Itoa(i))
	}
	return labels
}

// layerNames returns the short names of layers, and what they have in common.
func layerNames(layers []routing.Layer) (labels []string, pattern string) {
	names := make([]string, len(layers))
	for i, l := range layers {
		names[i] = l.Name
	}
	return routing.ShortNames(names)
}

var pictureFormats = map[string]func(*plot.Picture, io.Writer) error{
	".png": (*plot.Picture).WritePNG,
	".svg": (*plot.Picture).WriteSVG,
}

// checkHeatmap refuses a file that is none of the formats.
func checkHeatmap(path string) error {
	extension := filepath.Ext(path)
	if extension == "" || pictureFormats[extension] != nil {
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	return cli.Misusef("--heatmap %s must be named .png or .svg, or be a directory", path)
}

// drawRouting writes a heat map in the format that the path's extension says,
// or in all formats into the directory that it is.
func drawRouting(path string, s *routing.Statistics) ([]string, error) {
	files := []string{path}
	if info, err := os.Stat(path); pictureFormats[filepath.Ext(path)] == nil || err == nil && info.IsDir() {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, err
		}
		files = []string{filepath.Join(path, "routing.png"), filepath.Join(path, "routing.svg")}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	picture := plot.Draw(heatmaps(s)...)
	for _, file := range files {
		if err := writePicture(file, picture); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func writePicture(path string, p *plot.Picture) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return pictureFormats[filepath.Ext(path)](p, f)
}

// heatmaps shows the load of each expert in each layer, and the agreement of
// layers.
func heatmaps(s *routing.Statistics) []plot.Heatmap {
	labels, pattern := layerNames(s.Layers)
	load := plot.Heatmap{Title: "Load of each expert, % of the rows", Subtitle: pattern, RowTitle: "layer", ColumnTitle: "expert", Rows: labels,
		Format: func(x float64) string { return strconv.FormatFloat(100*x, 'f', 1, 64) }}
	dropped, variation := plot.Column{Title: "dropped"}, plot.Column{Title: "CV"}
	experts := 0
	for _, l := range s.Layers {
		row := make([]float64, len(l.Load))
		for e, x := range l.Load {
			row[e] = float64(x)
			if row[e] > load.Most {
				load.Most = row[e]
			}
		}
		load.Values = append(load.Values, row)
		dropped.Cells = append(dropped.Cells, l.Dropped.Percent())
		variation.Cells = append(variation.Cells, l.Variation.Text(2))
		experts = max(experts, l.Experts)
	}
	load.Columns, load.Beside = numbered(experts), []plot.Column{dropped, variation}
	if len(s.Layers) < 2 || s.Agreement == nil {
		return []plot.Heatmap{load}
	}
	rows, columns := axisLabels(labels)
	agree := plot.Heatmap{Title: "Agreement of first choices, normalised mutual information", RowTitle: "layer", ColumnTitle: "layer",
		Rows: rows, Columns: columns, Most: 1, Format: func(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) }}
	for _, row := range s.Agreement {
		values := make([]float64, len(row))
		for i, x := range row {
			values[i] = float64(x)
		}
		agree.Values = append(agree.Values, values)
	}
	return []plot.Heatmap{load, agree}
}
