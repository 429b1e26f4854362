package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

var regateCommand = &cli.Command{
	Name:      "fmoefy regate",
	Arguments: "MOE.onnx",
	Summary:   "give FMoE nodes another gate, top-k or capacity",
	Details: `Routers and experts stay as they are. With another gate, what nodes say stays where that gate
takes it; the rest becomes the gate's default. Nodes are selected by --include and --exclude
as fmoefy selects blocks: by index, range or name.

Examples:
  fmoefy regate moe.onnx -o switch.onnx --gate switch --capacity-eval 1.5
  fmoefy regate moe.onnx -o top1.onnx --top-k 1 --include 0-3
  fmoefy regate moe.onnx -o balanced.onnx --gate sigmoid --selection-bias
  fmoefy regate moe.onnx -o masked.onnx --token-mask attention_mask`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		c := &conversionFlags{}
		var o fmoefy.RegateOptions
		c.register(flags)
		flags.IntVar(&o.TopK, "top-k", 0, "experts for each token")
		flags.IntVar(&o.Workers, "workers", 0, "number of workers that share the experts")
		registerGate(flags, &o.GateOptions, "")
		flags.StringSliceVar(&o.Include, "include", nil, "change only these `nodes`")
		flags.StringSliceVar(&o.Exclude, "exclude", nil, "do not change these `nodes`")
		return func(ctx context.Context, out io.Writer, args []string) error {
			if err := checkRegate(flags, &o); err != nil {
				return err
			}
			return c.convert(ctx, args[0], func(m *onnx.Model) (err error) {
				result := regateResult{Input: args[0], Output: c.output}
				if result.RegateReport, err = fmoefy.Regate(m, o); err != nil {
					return err
				}
				c.report = func() error { return result.print(out, c.json) }
				return nil
			})
		}
	},
}

func checkRegate(flags *pflag.FlagSet, o *fmoefy.RegateOptions) error {
	changes := 0
	flags.Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "output", "json", "external", "include", "exclude":
		default:
			changes++
		}
	})
	if changes == 0 {
		return cli.Misusef("nothing to change: give --gate, --top-k, --capacity-eval or another option of gates")
	}
	for _, name := range []string{"top-k", "workers"} {
		if f := flags.Lookup(name); f.Changed && (f.Value.String() == "0" || strings.HasPrefix(f.Value.String(), "-")) {
			return cli.Misusef("--%s=%s must be above 0", name, f.Value)
		}
	}
	if o.Gate != "" {
		if _, err := moe.KindOf(o.Gate); err != nil {
			return cli.Misusef("%w", err)
		}
	}
	return nil
}

// regateResult is what fmoefy regate prints.
type regateResult struct {
	Input  string `json:"input"`
	Output string `json:"output"`
	fmoefy.RegateReport
}

func (r *regateResult) print(out io.Writer, json bool) error {
	if json {
		return cli.WriteJSON(out, r)
	}
	t := cli.NewTable(0, 2, 4)
	t.Row("node", "where", "experts", "gate", "top-k", "function")
	var changes []string // each once, in order
	times := map[string]int{}
	nodes, noBody := 0, ""
	for _, n := range r.Nodes {
		function := "the same as before"
		switch {
		case n.Reason != "":
			function = n.Reason
		case !n.Equal:
			function = "another than before"
		}
		where := n.Name
		if n.Graph != "main" {
			where += " in " + n.Graph
		}
		t.Row(strconv.Itoa(n.Index), where, strconv.Itoa(n.Experts), n.Gate, strconv.Itoa(n.TopK), function)
		if n.Reason == "" {
			nodes++
		}
		for _, c := range n.Changes {
			line := describeChange(c)
			if times[line]++; times[line] == 1 {
				changes = append(changes, line)
			}
		}
		if n.NoBody != "" {
			noBody = n.NoBody
		}
	}
	t.Print(out)
	fmt.Fprintf(out, "\nchanged     ")
	for i, line := range changes {
		if i > 0 {
			fmt.Fprintf(out, "            ")
		}
		if times[line] < nodes {
			line += fmt.Sprintf(", in %d of %d nodes", times[line], nodes)
		}
		fmt.Fprintln(out, line)
	}
	if len(changes) == 0 {
		fmt.Fprintln(out, "nothing")
	}
	function := "the same as before in evaluation"
	if !r.Equal {
		function = "another than before"
	}
	fmt.Fprintf(out, "function    %s\n", function)
	if noBody != "" {
		fmt.Fprintf(out, "runtimes    moerun only: %s\n", noBody)
	}
	_, err := fmt.Fprintf(out, "wrote       %s\n", r.Output)
	return err
}

func describeChange(c fmoefy.Change) string {
	show := func(x any) string {
		if x == float64(moe.Unlimited) {
			return "unlimited"
		}
		return fmt.Sprint(x)
	}
	switch {
	case c.Before == "":
		return c.Name + " added"
	case c.After == "":
		return c.Name + " removed"
	}
	return fmt.Sprintf("%s %s → %s", c.Name, show(c.Before), show(c.After))
}
