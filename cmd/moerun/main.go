// Command moerun runs ONNX models, those with FMoE layers above all: on given
// or random inputs, against reference outputs, against another model, and as
// language models.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/fmoe-go/fmoe/internal/cli"
)

var moerun = &cli.Program{
	Name:    "moerun",
	Summary: "run ONNX models, those with mixture-of-experts layers above all",
	Commands: []*cli.Command{
		runCommand, benchCommand, compareCommand, infoCommand, generateCommand, perplexityCommand, routingCommand,
		trainCommand, planCommand, reportCommand, exportCommand, devicesCommand, versionCommand,
	},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(moerun.Execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
