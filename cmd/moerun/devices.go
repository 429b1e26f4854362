package main

import (
	"context"
	"fmt"
	"io"
	goruntime "runtime"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/cuda"
	"github.com/fmoe-go/fmoe/internal/cli"
)

var devicesCommand = &cli.Command{
	Name:    "moerun devices",
	Summary: "list the devices that models can run on",
	Details: `Lists the processor and the GPUs that --device can name, or says what is missing.

Examples:
  moerun devices
  moerun bench model.onnx --device cuda`,
	Flags: func(*pflag.FlagSet) cli.Action {
		return func(_ context.Context, out io.Writer, _ []string) error {
			printDevices(out)
			return nil
		}
	},
}

func printDevices(out io.Writer) {
	table := cli.NewTable()
	table.Row("cpu", fmt.Sprintf("%d threads, %s", goruntime.GOMAXPROCS(0), goruntime.GOARCH))
	gpus, err := cuda.GPUs()
	if err != nil {
		table.Row("cuda", fmt.Sprintf("none: %v", err))
	}
	for _, g := range gpus {
		table.Row("cuda", fmt.Sprintf("%s, %d GiB, %d multiprocessors, compute capability %d.%d, driver for CUDA %d.%d",
			g.Name, g.Memory>>30, g.Processors, g.Major, g.Minor, g.DriverSupports/1000, g.DriverSupports%1000/10))
	}
	table.Print(out)
}
