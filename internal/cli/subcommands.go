package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// Program is a command that has subcommands.
type Program struct {
	Name     string
	Summary  string
	Commands []*Command // each named "PROGRAM SUBCOMMAND"
}

// Execute runs the subcommand that args[0] names and returns its exit code.
func (p *Program) Execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintf(stderr, "%s: a subcommand is missing: %s\n", p.Name, p.names())
		return Misuse
	}
	switch name := args[0]; name {
	case "help", "-h", "--help":
		if name == "help" && len(args) > 1 {
			return p.Execute(ctx, []string{args[1], "--help"}, stdout, stderr)
		}
		p.help(stdout)
		return Success
	default:
		for _, c := range p.Commands {
			if c.Name == p.Name+" "+name {
				return c.Execute(ctx, args[1:], stdout, stderr)
			}
		}
		fmt.Fprintf(stderr, "%s: there is no subcommand %q: use %s\n", p.Name, name, p.names())
		return Misuse
	}
}

func (p *Program) names() string {
	names := make([]string, len(p.Commands))
	for i, c := range p.Commands {
		names[i] = strings.TrimPrefix(c.Name, p.Name+" ")
	}
	return strings.Join(names, ", ") + " or help"
}

func (p *Program) help(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\nUsage:\n", p.Name, p.Summary)
	t := NewTable()
	for _, c := range p.Commands {
		t.Row("  "+strings.TrimSpace(c.Name+" "+c.Arguments), c.Summary)
	}
	t.Row(fmt.Sprintf("  %s help SUBCOMMAND", p.Name), "show a subcommand's flags and examples")
	t.Print(w)
}
