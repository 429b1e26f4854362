package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func echo(err error) *Command {
	return &Command{
		Name: "tool echo", Arguments: "FILE", Summary: "repeat a name",
		Flags: func(flags *pflag.FlagSet) Action {
			times := flags.Int("times", 1, "how often")
			return func(ctx context.Context, out io.Writer, args []string) error {
				fmt.Fprint(out, strings.Repeat(args[0], *times))
				if err != nil && err.Error() == "panic" {
					panic("boom")
				}
				return err
			}
		},
	}
}

func TestExecute(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name           string
		ctx            context.Context
		args           []string
		err            error
		code           int
		stdout, stderr string // what they contain; "" for nothing at all
	}{
		{name: "success", args: []string{"echo", "a", "--times=3"}, code: Success, stdout: "aaa"},
		{name: "help", args: []string{"echo", "--help"}, code: Success, stdout: "Usage: tool echo FILE [flags]"},
		{name: "program help", args: []string{"help"}, code: Success, stdout: "repeat a name"},
		{name: "help of a subcommand", args: []string{"help", "echo"}, code: Success, stdout: "--times"},
		{name: "no subcommand", code: Misuse, stderr: "a subcommand is missing: echo or help"},
		{name: "unknown subcommand", args: []string{"ecko"}, code: Misuse, stderr: `no subcommand "ecko"`},
		{name: "unknown flag", args: []string{"echo", "a", "--time"}, code: Misuse, stderr: "unknown flag: --time"},
		{name: "flag of a wrong type", args: []string{"echo", "a", "--times=x"}, code: Misuse, stderr: `"x"`},
		{name: "argument missing", args: []string{"echo"}, code: Misuse, stderr: "FILE is missing"},
		{name: "argument too many", args: []string{"echo", "a", "b"}, code: Misuse, stderr: `unexpected argument "b"`},
		{name: "misuse", args: []string{"echo", "a"}, err: Misusef("give\nless"), code: Misuse, stdout: "a", stderr: "tool echo: give less"},
		{name: "failure", args: []string{"echo", "a"}, err: errors.New("no luck"), code: Failure, stdout: "a", stderr: "tool echo: no luck\n"},
		{name: "panic", args: []string{"echo", "a"}, err: errors.New("panic"), code: Failure, stdout: "a", stderr: "internal error: boom"},
		{name: "interrupted", ctx: cancelled, args: []string{"echo", "a"}, err: fmt.Errorf("run: %w", context.Canceled), code: Interrupted, stdout: "a", stderr: "interrupted"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			var stdout, stderr bytes.Buffer
			program := &Program{Name: "tool", Summary: "a tool", Commands: []*Command{echo(test.err)}}
			if code := program.Execute(ctx, test.args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !matches(stdout.String(), test.stdout) || !matches(stderr.String(), test.stderr) {
				t.Errorf("stdout %q, want %q\nstderr %q, want %q", &stdout, test.stdout, &stderr, test.stderr)
			}
			if test.code == Misuse && strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("wrong use must take one line, got %q", &stderr)
			}
		})
	}
}

func matches(got, want string) bool {
	return want == "" && got == "" || want != "" && strings.Contains(got, want)
}

func TestTable(t *testing.T) {
	table := NewTable(1)
	table.Row("name", "size")
	table.Row("naïve", "7")
	table.Row("x", "1,234")
	var b bytes.Buffer
	table.Print(&b)
	if want := "name    size\nnaïve      7\nx      1,234\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -999: "-999"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b, map[string]Float{"a": 0.5, "b": Float(math.Inf(1)), "c": Float(math.NaN())}); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"a\": 0.5,\n  \"b\": \"+Inf\",\n  \"c\": \"NaN\"\n}\n"; b.String() != want {
		t.Errorf("got %s, want %s", &b, want)
	}
}
