// Package cli is what fmoe's commands share: flags, help, exit codes, tables
// and JSON.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/pflag"
)

// The exit codes of every command.
const (
	Success     = 0
	Failure     = 1 // the work could not be done, or a check failed
	Misuse      = 2 // the command line is wrong
	Interrupted = 130
)

// Command is a program, or one of the subcommands of a program.
type Command struct {
	Name      string // as the user types it, such as "moerun run"
	Arguments string // the positional arguments, one word each, such as "A.onnx B.onnx"; the last may be repeated where it ends in "..."
	Summary   string // one line
	Details   string // paragraphs and examples for the help text

	// Flags declares the command's flags and returns what the command does.
	Flags func(*pflag.FlagSet) Action
}

// Action does a command's work with its positional arguments, of which there
// are as many as the command has, or more where its last may be repeated. It writes results to out.
type Action func(ctx context.Context, out io.Writer, args []string) error

// misuse is an error of the command line.
type misuse struct{ error }

// Misusef makes an error that ends the command with the exit code Misuse. It
// must say what to do, in one line.
func Misusef(format string, args ...any) error {
	return misuse{fmt.Errorf(format, args...)}
}

// Execute runs a command and returns its exit code. Results go to stdout, an
// error to stderr.
func (c *Command) Execute(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(stderr, "%s: internal error: %v\nThis is a defect; please report it with the lines below.\n%s", c.Name, r, debug.Stack())
			code = Failure
		}
	}()
	flags := pflag.NewFlagSet(c.Name, pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.SortFlags = false
	action := c.Flags(flags)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		c.help(stdout, flags)
		return Success
	case err != nil:
		err = misuse{err}
	default:
		if err = c.checkArguments(flags.Args()); err == nil {
			err = action(ctx, stdout, flags.Args())
		}
	}
	return c.report(ctx, stderr, err)
}

func (c *Command) checkArguments(args []string) error {
	want := strings.Fields(c.Arguments)
	switch {
	case len(args) < len(want):
		return Misusef("%s is missing", want[len(args)])
	case len(args) > len(want) && !strings.HasSuffix(c.Arguments, "..."):
		return Misusef("unexpected argument %q", args[len(want)])
	}
	return nil
}

func (c *Command) report(ctx context.Context, stderr io.Writer, err error) int {
	var m misuse
	switch {
	case err == nil:
		return Success
	case errors.As(err, &m):
		fmt.Fprintf(stderr, "%s: %s (%s --help tells more)\n", c.Name, oneLine(err), c.Name)
		return Misuse
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintf(stderr, "%s: interrupted\n", c.Name)
		return Interrupted
	}
	fmt.Fprintf(stderr, "%s: %v\n", c.Name, err)
	return Failure
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

func (c *Command) help(w io.Writer, flags *pflag.FlagSet) {
	usage := c.Name
	if c.Arguments != "" {
		usage += " " + c.Arguments
	}
	if flags.HasFlags() {
		usage += " [flags]"
	}
	fmt.Fprintf(w, "%s: %s\n\nUsage: %s\n", c.Name, c.Summary, usage)
	if c.Details != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(c.Details))
	}
	if flags.HasFlags() {
		fmt.Fprintln(w, "\nFlags:")
		printFlags(w, flags)
	}
}

func printFlags(w io.Writer, flags *pflag.FlagSet) {
	t := NewTable()
	flags.VisitAll(func(f *pflag.Flag) {
		kind, usage := pflag.UnquoteUsage(f)
		name := "  --" + f.Name
		if f.Shorthand != "" {
			name = "  -" + f.Shorthand + ", --" + f.Name
		}
		if f.Value.Type() != "bool" {
			name += " " + kind
		}
		if d := f.DefValue; d != "" && d != "0" && d != "[]" && d != "false" {
			usage += " (default " + d + ")"
		}
		t.Row(name, usage)
	})
	t.Print(w)
}
