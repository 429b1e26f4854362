package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/train/checkpoint"
)

var exportCommand = &cli.Command{
	Name:      "moerun export",
	Arguments: "CHECKPOINT",
	Summary:   "make an ONNX file of a checkpoint",
	Details: `CHECKPOINT is a run directory, of which the newest checkpoint is taken, or a directory of
one checkpoint in it. The file is the model that was trained, with the weights that it has
by now.

Example:
  moerun export moe-train -o trained.onnx`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		output := flags.StringP("output", "o", "", "`file` to write")
		return func(_ context.Context, out io.Writer, args []string) error {
			if *output == "" {
				return cli.Misusef("--output FILE is missing")
			}
			if err := checkpoint.Export(args[0], *output, onnx.WriteOptions{}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(out, "%s\n", *output)
			return err
		}
	},
}
