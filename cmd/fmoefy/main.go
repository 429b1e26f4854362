// Command fmoefy rewrites the MLP blocks of an ONNX Transformer into mixtures
// of experts, and mixtures of experts from one form into another.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/fmoe-go/fmoe/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(dispatch(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// dispatch runs a subcommand, or without one the rewriting of a dense model.
func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		for _, c := range []*cli.Command{importCommand, exportCommand, regateCommand, mergeCommand} {
			if c.Name == command.Name+" "+args[0] {
				return c.Execute(ctx, args[1:], stdout, stderr)
			}
		}
	}
	return command.Execute(ctx, args, stdout, stderr)
}
