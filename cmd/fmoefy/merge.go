package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy/tensorparallel"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
)

var mergeCommand = &cli.Command{
	Name:      "fmoefy merge",
	Arguments: "RANK.onnx...",
	Summary:   "merge the tensor-parallel ranks of a model into the whole model",
	Details: `The files are exports of the ranks of one model as Megatron-LM splits it, in the order of
the ranks. What is split follows from the graphs: a product with weights that differ
between the ranks is split by its outputs, the product of its result by its inputs, an
embedding by tokens. Collective operators may be in the graphs or not.

Example:
  fmoefy merge rank_00.onnx rank_01.onnx -o full.onnx`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		c := &mergeFlags{}
		flags.StringVarP(&c.output, "output", "o", "", "write the whole model to this `file`")
		flags.StringVar(&c.external, "external", "auto", externalUsage)
		flags.BoolVar(&c.json, "json", false, "print JSON")
		return c.merge
	},
}

type mergeFlags struct {
	output, external string
	json             bool
}

// mergeResult is what fmoefy merge prints.
type mergeResult struct {
	Inputs []string `json:"inputs"`
	Output string   `json:"output"`
	tensorparallel.Report
}

func (c *mergeFlags) merge(ctx context.Context, out io.Writer, paths []string) error {
	mode, ok := externalModes[c.external]
	switch {
	case c.output == "":
		return cli.Misusef("-o OUT.onnx is missing")
	case !ok:
		return errExternal(c.external)
	case len(paths) < 2:
		return cli.Misusef("a merge needs two ranks at least")
	}
	ranks := make([]*onnx.Model, len(paths))
	for i, path := range paths {
		m, err := onnx.ReadFile(path)
		if err != nil {
			return err
		}
		defer m.Close()
		ranks[i] = m
	}
	merged, report, err := tensorparallel.Merge(ranks)
	if err != nil {
		return err
	}
	if err := onnx.WriteFile(c.output, merged, onnx.WriteOptions{External: mode, Context: ctx}); err != nil {
		return err
	}
	result := mergeResult{paths, c.output, report}
	if c.json {
		return cli.WriteJSON(out, result)
	}
	fmt.Fprintf(out, "ranks       %d\n", report.Ranks)
	fmt.Fprintf(out, "joined      %d weights by outputs, %d by inputs, %d embeddings by tokens, %d biases\n",
		len(report.Column), len(report.Row), len(report.Vocabulary), len(report.Biases))
	fmt.Fprintf(out, "wrote       %s\n", c.output)
	return nil
}
