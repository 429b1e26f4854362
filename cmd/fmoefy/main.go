// Command fmoefy rewrites the MLP blocks of an ONNX Transformer into mixtures
// of experts.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(command.Execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
