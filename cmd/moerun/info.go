package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/inspect"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

var infoCommand = &cli.Command{
	Name:      "moerun info",
	Arguments: "MODEL",
	Summary:   "show what a model is made of",
	Details: `Shows inputs, outputs, operator sets and operators, the number of parameters in all and of
those that take part in the computation of one token, and the FMoE layers.

Examples:
  moerun info model.onnx
  moerun info model.onnx --json | jq .parameters`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		asJSON := flags.Bool("json", false, "print JSON")
		return func(_ context.Context, out io.Writer, args []string) error {
			d, err := describe(args[0])
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if *asJSON {
				return cli.WriteJSON(out, d)
			}
			printDescription(out, d)
			return nil
		}
	},
}

func describe(path string) (*inspect.Description, error) {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if err := onnx.Check(m); err != nil {
		return nil, err
	}
	return inspect.Describe(m)
}

func printDescription(out io.Writer, d *inspect.Description) {
	t := cli.NewTable()
	if d.Producer != "" {
		t.Row("producer", d.Producer)
	}
	var opsets []string
	for _, domain := range slices.Sorted(maps.Keys(d.Opsets)) {
		opsets = append(opsets, fmt.Sprintf("%s %d", domain, d.Opsets[domain]))
	}
	t.Row("opsets", strings.Join(opsets, ", "))
	t.Row("IR version", fmt.Sprint(d.IRVersion))
	for _, v := range d.Inputs {
		t.Row("input", v.Name+"  "+v.Type)
	}
	for _, v := range d.Outputs {
		t.Row("output", v.Name+"  "+v.Type)
	}
	t.Row("parameters", cli.Count(d.Parameters.Total)+" in all, "+cli.Count(d.Parameters.Active)+" active per token")
	for _, f := range d.Functions {
		t.Row("function", f)
	}
	t.Print(out)

	fmt.Fprintln(out, "\nOperators:")
	operators := cli.NewTable(0)
	for _, o := range d.Operators {
		operators.Row(fmt.Sprint(o.Count), o.Name)
	}
	operators.Print(out)

	if len(d.Layers) == 0 {
		fmt.Fprintln(out, "\nThere are no FMoE layers.")
		return
	}
	fmt.Fprintln(out, "\nFMoE layers:")
	layers := cli.NewTable(1, 2, 5, 6)
	layers.Row("name", "experts", "top-k", "gate", "activation", "d_model", "d_hidden", "weights")
	for _, l := range d.Layers {
		activation := l.Activation
		if l.Gated {
			activation += " (gated)"
		}
		weights := l.Weights
		if l.BlockSize > 0 {
			weights += fmt.Sprintf(", blocks of %d", l.BlockSize)
		}
		gate := l.Gate
		if c := l.Capacity; c != nil {
			gate += fmt.Sprintf(", capacity %s, in training %s", capacity(c.Evaluation), capacity(c.Train))
		}
		layers.Row(l.Name, fmt.Sprint(l.Experts), fmt.Sprint(l.TopK), gate, activation, fmt.Sprint(l.DModel), fmt.Sprint(l.DHidden), weights)
	}
	layers.Print(out)
}

// capacity formats a capacity factor.
func capacity(factor float64) string {
	if factor == moe.Unlimited {
		return "unlimited"
	}
	return fmt.Sprint(factor)
}
