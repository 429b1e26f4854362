package report

import (
	"fmt"
	"io"
	"strconv"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/routing"
)

// WriteBalance writes what the FMoE layers of a model did in a step as a table
// with a row for each layer: how many experts it has, the share of slots that
// were dropped, the entropy of the load over that of an even one, the load's
// coefficient of variation, the losses, and the load of each expert.
func WriteBalance(w io.Writer, layers []Layer) {
	labels, pattern := routing.ShortNames(names(layers))
	fmt.Fprintf(w, "FMoE layers %s\n", pattern)
	t := cli.NewTable(1, 2, 3, 4, 5, 6)
	t.Row("layer", "experts", "dropped", "entropy", "CV", "balance", "z", "load")
	bars := false
	for i, l := range layers {
		load := routing.Bars(l.Load)
		bars = bars || load != ""
		t.Row(labels[i], strconv.Itoa(len(l.Load)), l.Dropped.Percent(), l.Evenness.Text(3), l.Variation.Text(3), l.BalanceLoss.Text(3), l.ZLoss.Text(3), load)
	}
	t.Print(w)
	if bars {
		fmt.Fprintf(w, "load: %s\n", routing.BarsLegend)
	}
}

func names(layers []Layer) []string {
	names := make([]string, len(layers))
	for i, l := range layers {
		names[i] = l.Name
	}
	return names
}
