package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
)

var exportCommand = &cli.Command{
	Name:      "fmoefy export",
	Arguments: "MOE.onnx",
	Summary:   "write the FMoE nodes of a model for other runtimes",
	Details: `Turns FMoE nodes, trained or not, into ONNX Runtime's own mixtures of experts or into
ONNX's standard operators.

Examples:
  fmoefy export moe.onnx -o ort.onnx --target onnxruntime
  fmoefy export moe.onnx -o plain.onnx --target standard`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		c := &conversionFlags{}
		var o fmoefy.ExportOptions
		c.register(flags)
		registerTarget(flags, &o.Target, &o.AllowGELUApproximation)
		return func(ctx context.Context, out io.Writer, args []string) error {
			if err := o.Check(); err != nil {
				return cli.Misusef("%w", err)
			}
			return c.convert(ctx, args[0], func(m *onnx.Model) (err error) {
				result := exportResult{Input: args[0], Output: c.output, Target: o.Target}
				if result.Nodes, err = fmoefy.Export(m, o); err != nil {
					return err
				}
				c.report = func() error { return result.print(out, c.json) }
				return nil
			})
		}
	},
}

func registerTarget(flags *pflag.FlagSet, target *fmoefy.Target, approximate *bool) {
	flags.StringVar((*string)(target), "target", string(fmoefy.Portable), "what mixtures are written as: portable (FMoE), onnxruntime (com.microsoft::MoE) or standard (ONNX's operators)")
	flags.BoolVar(approximate, "allow-gelu-approximation", false, "let --target onnxruntime compute GELU by its approximation, the only one that it has")
}

// exportResult is what fmoefy export prints.
type exportResult struct {
	Input  string        `json:"input"`
	Output string        `json:"output"`
	Target fmoefy.Target `json:"target"`
	Nodes  int           `json:"nodes"`
}

func (r *exportResult) print(out io.Writer, json bool) error {
	if json {
		return cli.WriteJSON(out, r)
	}
	_, err := fmt.Fprintf(out, "exported    %d mixtures of experts for the target %s\nwrote       %s\n", r.Nodes, r.Target, r.Output)
	return err
}

// conversionFlags are the flags of what reads one model and writes another.
type conversionFlags struct {
	output, external string
	json             bool
	report           func() error // what remains to be printed after the model is written
}

func (c *conversionFlags) register(flags *pflag.FlagSet) {
	flags.StringVarP(&c.output, "output", "o", "", "write the model to this `file`")
	flags.BoolVar(&c.json, "json", false, "print JSON")
	flags.StringVar(&c.external, "external", "auto", externalUsage)
}

func (c *conversionFlags) convert(ctx context.Context, path string, change func(*onnx.Model) error) error {
	mode, ok := externalModes[c.external]
	switch {
	case c.output == "":
		return cli.Misusef("-o OUT.onnx is missing")
	case !ok:
		return errExternal(c.external)
	}
	m, err := onnx.ReadFile(path)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := change(m); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := onnx.WriteFile(c.output, m, onnx.WriteOptions{External: mode, Context: ctx}); err != nil {
		return err
	}
	return c.report()
}
