package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
)

var compareCommand = &cli.Command{
	Name:      "moerun compare",
	Arguments: "A.onnx B.onnx",
	Summary:   "run two models on the same inputs and compare their outputs",
	Details: `The inputs of both models must have the same names. Outputs are compared by name, or in
their order where the names differ. An element b of B's output is within the tolerance
where |b - a| <= tolerance * (1 + |a|), a being that of A. The relative difference that
is shown is the largest difference divided by the largest element of A's output.

Inputs that no file gives are random. ` + dataHelp + `

Examples:
  moerun compare dense.onnx moe.onnx
  moerun compare dense.onnx moe.onnx --dim batch=4,sequence=64 --seed 7
  moerun compare dense.onnx moe.onnx --data test_data_set_0 --tolerance 1e-5`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		o := compareFlags{data: dataFlags{random: true}}
		o.data.register(flags)
		flags.Float64Var(&o.tolerance, "tolerance", 1e-4, "absolute and relative tolerance; exit with 1 above it")
		o.runtime.register(flags)
		flags.BoolVar(&o.json, "json", false, "print JSON")
		return func(ctx context.Context, out io.Writer, args []string) error {
			return o.run(ctx, out, args[0], args[1])
		}
	},
}

type compareFlags struct {
	data      dataFlags
	runtime   runtimeFlags
	tolerance float64
	json      bool
}

// compareResult is what compare prints.
type compareResult struct {
	A         string             `json:"a"`
	B         string             `json:"b"`
	Tolerance float64            `json:"tolerance"`
	Equal     bool               `json:"equal"`
	Outputs   []outputDifference `json:"outputs"`
}

type outputDifference struct {
	Name string `json:"name"`
	Type string `json:"type"`
	difference
}

func (o *compareFlags) run(ctx context.Context, out io.Writer, pathA, pathB string) error {
	if !(o.tolerance >= 0) {
		return cli.Misusef("--tolerance=%v must be 0 or more", o.tolerance)
	}
	a, err := openSession(pathA, o.runtime)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := openSession(pathB, o.runtime)
	if err != nil {
		return err
	}
	defer b.Close()
	inputs, err := o.data.read(a.model, a.Inputs())
	if err != nil {
		return err
	}
	outputsA, err := a.Run(ctx, inputs)
	if err != nil {
		return fmt.Errorf("%s: %w", pathA, err)
	}
	outputsB, err := b.Run(ctx, inputs)
	if err != nil {
		return fmt.Errorf("%s: %w", pathB, err)
	}
	result := compareResult{A: pathA, B: pathB, Tolerance: o.tolerance, Equal: true, Outputs: []outputDifference{}}
	pairs, err := pairOutputs(a.Outputs(), b.Outputs())
	if err != nil {
		return err
	}
	var failed error
	for _, names := range pairs {
		want := outputsA[names[0]]
		d, err := compareTensors(outputsB[names[1]], want, o.tolerance, o.tolerance)
		if err != nil {
			return fmt.Errorf("%s: output %q %w as in %s", pathB, names[1], err, pathA)
		}
		result.Outputs = append(result.Outputs, outputDifference{names[0], want.String(), d})
		if !d.Equal && failed == nil {
			result.Equal, failed = false, d.failure(names[0])
		}
	}
	if o.json {
		if err := cli.WriteJSON(out, result); err != nil {
			return err
		}
	} else {
		result.print(out)
	}
	return failed
}

// pairOutputs returns which output of B belongs to each of A.
func pairOutputs(a, b []*onnx.ValueInfo) ([][2]string, error) {
	if len(a) != len(b) {
		return nil, fmt.Errorf("the models have %d and %d outputs", len(a), len(b))
	}
	names := make([]string, len(b))
	for i, v := range b {
		names[i] = v.Name
	}
	byName := true
	for _, v := range a {
		byName = byName && slices.Contains(names, v.Name)
	}
	pairs := make([][2]string, len(a))
	for i, v := range a {
		pairs[i] = [2]string{v.Name, v.Name}
		if !byName {
			pairs[i][1] = names[i]
		}
	}
	return pairs, nil
}

func (r *compareResult) print(out io.Writer) {
	t := cli.NewTable(2, 3)
	t.Row("output", "type", "max absolute", "max relative", "")
	for _, d := range r.Outputs {
		t.Row(d.Name, d.Type, fmt.Sprintf("%.3g", d.MaxAbs), fmt.Sprintf("%.3g", d.MaxRel), d.verdict())
	}
	t.Print(out)
}
