package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

var importCommand = &cli.Command{
	Name:      "fmoefy import",
	Arguments: "IN.onnx",
	Summary:   "turn other mixtures of experts into FMoE nodes",
	Details: `Reads com.microsoft::MoE nodes, and the mixtures that exports of Mixtral, Qwen-MoE, OLMoE
and their kin spell out in many nodes. The latter are run on random tokens, and replaced
only where the FMoE node gives the same.

Example:
  fmoefy import mixtral.onnx -o moe.onnx`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		c := &conversionFlags{}
		c.register(flags)
		return func(ctx context.Context, out io.Writer, args []string) error {
			return c.convert(ctx, args[0], func(m *onnx.Model) (err error) {
				result := importResult{Input: args[0], Output: c.output}
				run := func(m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
					return runModel(ctx, m, inputs)
				}
				if result.Mixtures, err = fmoefy.Import(m, fmoefy.ImportOptions{Run: run}); err != nil {
					return err
				}
				c.report = func() error { return result.print(out, c.json) }
				return nil
			})
		}
	},
}

func runModel(ctx context.Context, m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
	s, err := runtime.New(m, runtime.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Run(ctx, inputs)
}

// importResult is what fmoefy import prints.
type importResult struct {
	Input    string            `json:"input"`
	Output   string            `json:"output"`
	Mixtures []fmoefy.Imported `json:"mixtures"`
}

func (r *importResult) print(out io.Writer, json bool) error {
	if json {
		return cli.WriteJSON(out, r)
	}
	t := cli.NewTable(2, 3, 4, 5)
	t.Row("mixture", "form", "experts", "top-k", "d_model", "d_hidden", "activation", "")
	for _, x := range r.Mixtures {
		verdict := "→ FMoE"
		if x.Reason != "" {
			verdict = "left as it is: " + x.Reason
		}
		t.Row(x.Name, string(x.Form), known(x.Experts, strconv.FormatInt), known(int64(x.TopK), strconv.FormatInt),
			known(x.DModel, strconv.FormatInt), known(x.DHidden, strconv.FormatInt), string(x.Activation), verdict)
	}
	t.Print(out)
	_, err := fmt.Fprintf(out, "\nwrote       %s\n", r.Output)
	return err
}
