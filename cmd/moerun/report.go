package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

var reportCommand = &cli.Command{
	Name:      "moerun report",
	Arguments: "LOG",
	Summary:   "draw the log of a training run as a page of HTML",
	Details: `Reads the JSON lines that a training run writes, also while it is writing them, and draws the
losses, learning rates, gradient norms and speed, and for each FMoE layer the balance loss, the
load of its experts over time, its coefficient of variation and entropy, and what was dropped.
The page is one file that needs no network. Prints the last step, and the balance of its layers.

Examples:
  moerun report run/log.jsonl
  moerun report run/log.jsonl -o report.html --json`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		var o reportFlags
		flags.StringVarP(&o.out, "out", "o", "", "write the page to this `file` instead of one named like the log, with .html")
		flags.BoolVar(&o.json, "json", false, "print JSON")
		return func(_ context.Context, out io.Writer, args []string) error { return o.run(out, args[0]) }
	},
}

type reportFlags struct {
	out  string
	json bool
}

// reportResult is what report prints.
type reportResult struct {
	*report.Summary
	Page string `json:"page"`
}

func (o *reportFlags) run(out io.Writer, log string) error {
	page := o.out
	if page == "" {
		page = strings.TrimSuffix(log, filepath.Ext(log)) + ".html"
	}
	if filepath.Clean(page) == filepath.Clean(log) {
		return cli.Misusef("the page would replace the log %s: give another file with -o", log)
	}
	s, err := report.FromLog(log, page)
	if err != nil {
		return err
	}
	if o.json {
		return cli.WriteJSON(out, reportResult{s, page})
	}
	of := ""
	if s.Run.Steps > 0 {
		of = " of " + cli.Count(s.Run.Steps)
	}
	fmt.Fprintf(out, "step %s%s, %s tokens: loss %s", cli.Count(s.Step.Step), of, cli.Count(s.Step.Tokens), s.Step.Loss.Text(4))
	if s.Evaluation != nil {
		fmt.Fprintf(out, ", held-out loss %s, perplexity %s", s.Evaluation.Loss.Text(4), s.Evaluation.Perplexity.Text(3))
	}
	fmt.Fprintln(out)
	if len(s.Step.Layers) > 0 {
		report.WriteBalance(out, s.Step.Layers)
	}
	fmt.Fprintf(out, "wrote %s\n", page)
	return nil
}
