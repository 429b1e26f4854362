package cli

import (
	"io"
	"os"

	"golang.org/x/term"
)

// TerminalWidth returns how many letters a line of the terminal has that w
// writes to, 0 where it is no terminal.
func TerminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return 80 // as terminals are that do not tell
	}
	return width
}
