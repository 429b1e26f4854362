package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
)

func (r *rewriteResult) print(out io.Writer) {
	t := blockTable("parameters")
	for i := range r.Blocks {
		b := &r.Blocks[i]
		after := "not replaced: " + b.Reason
		if b.Replaced {
			after = "→ " + cli.Count(b.ParametersAfter)
			if b.SharesWith != "" {
				after += ", shared with " + b.SharesWith
			}
		}
		t.Row(append(blockRow(b), after)...)
	}
	t.Print(out)
	fmt.Fprintf(out, "\nexperts     %d per block, top-%d, %s gate, init %s, seed %d", r.NumExperts, r.TopK, r.Gate, r.Init, r.Seed)
	if r.SharedWeight > 0 {
		fmt.Fprintf(out, "; a shared expert of weight %g", r.SharedWeight)
	}
	if r.Workers > 1 {
		fmt.Fprintf(out, "; %d on each of %d workers", r.ExpertsPerWorker, r.Workers)
	}
	fmt.Fprintf(out, "\nparameters  %s → %s in all, %s active per token\n",
		cli.Count(r.ParametersBefore), cli.Count(r.ParametersAfter), cli.Count(r.ParametersActive))
	if r.ExpertWeights != "" {
		fmt.Fprintf(out, "storage     experts' weights in %s", r.ExpertWeights)
		if r.BlockSize > 0 {
			fmt.Fprintf(out, ", a scale for each %d of a row", r.BlockSize)
		}
		fmt.Fprintln(out)
	}
	function := "another than before"
	switch {
	case r.Equal:
		function = "the same as before, up to rounding"
	case r.Approximate:
		function = "nearly the same as before"
	}
	fmt.Fprintf(out, "function    %s: %s\n", function, r.Why)
	if r.NoBody != "" {
		fmt.Fprintf(out, "runtimes    moerun only: %s\n", r.NoBody)
	}
	if r.Output != "" {
		fmt.Fprintf(out, "wrote       %s\n", r.Output)
	}
}

func (r *listResult) print(out io.Writer) {
	if len(r.Blocks) == 0 {
		fmt.Fprintln(out, "There is no MLP block.")
		return
	}
	t := blockTable("parameters")
	for i := range r.Blocks {
		b := &r.Blocks[i]
		verdict := ""
		if b.Reason != "" {
			verdict = "refused: " + b.Reason
		}
		t.Row(append(blockRow(b), verdict)...)
	}
	t.Print(out)
}

func blockTable(last string) *cli.Table {
	t := cli.NewTable(0, 3, 4, 6)
	t.Row("block", "where", "kind", "d_model", "d_hidden", "activation", last)
	return t
}

// blockRow has the columns that blockTable names; those that are not known
// are empty.
func blockRow(b *fmoefy.BlockReport) []string {
	where := b.Name
	if b.Graph != "main" {
		where += " in " + b.Graph
	}
	return []string{
		strconv.Itoa(b.Index), where, string(b.Kind), known(b.DModel, strconv.FormatInt), known(b.DHidden, strconv.FormatInt),
		string(b.Activation), known(b.Parameters, func(n int64, _ int) string { return cli.Count(n) }),
	}
}

func known(n int64, format func(int64, int) string) string {
	if n == 0 {
		return ""
	}
	return format(n, 10)
}
