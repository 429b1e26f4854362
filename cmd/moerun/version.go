package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
)

var versionCommand = &cli.Command{
	Name:    "moerun version",
	Summary: "print the version",
	Flags: func(*pflag.FlagSet) cli.Action {
		return func(_ context.Context, out io.Writer, _ []string) error {
			_, err := fmt.Fprintf(out, "moerun %s\n", cli.Version())
			return err
		}
	},
}
