package fmoe_test

import (
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestDocuments runs the commands of documents as a user would: the lines that
// begin with "$ " in blocks marked as console, those of a document in one
// directory with bin/ and models/. They must print what follows them, where a
// line "…" stands for any number of lines, and numbers may differ by a little,
// since they depend on the processor's instructions.
func TestDocuments(t *testing.T) {
	if runtime.GOOS == "windows" || testing.Short() {
		t.Skip("needs a shell, and builds both commands")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "bin")
	built := false
	documents, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range append(documents, "README.md") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		blocks := consoleBlocks(string(text))
		if len(blocks) == 0 {
			continue
		}
		if !built {
			build(t, bin)
			built = true
		}
		t.Run(document, func(t *testing.T) {
			dir := t.TempDir()
			for name, target := range map[string]string{"bin": bin, "models": filepath.Join(root, "models")} {
				if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			for _, b := range blocks {
				cmd := exec.CommandContext(t.Context(), "sh", "-c", b.command)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				if _, failed := err.(*exec.ExitError); err != nil && !failed {
					t.Fatal(err)
				}
				if got := strings.TrimRight(string(out), "\n"); !matches(strings.Split(got, "\n"), b.output) {
					t.Errorf("$ %s\nprints\n%s\nand not\n%s", b.command, got, strings.Join(b.output, "\n"))
				}
			}
		})
	}
}

// build builds the commands. It looks at all files that they are made of, so
// that the test is run again when one of them changes.
func build(t *testing.T, bin string) {
	t.Helper()
	for _, dir := range []string{"cmd", "fmoefy", "internal", "onnx", "runtime"} {
		if err := filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "./cmd/...")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// command is a command of a document, and the lines that it prints.
type command struct {
	command string
	output  []string
}

func consoleBlocks(text string) (list []command) {
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		rest, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && isCommand:
			list = append(list, command{command: rest})
		case inside && len(list) > 0:
			last := &list[len(list)-1]
			last.output = append(last.output, line)
		}
	}
	return list
}

// matches reports whether lines are those of a document.
func matches(got, want []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0 || len(got) == 1 && got[0] == ""
	case want[0] == "…":
		for i := range len(got) + 1 {
			if len(want) == 1 || matches(got[i:], want[1:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && alike(strings.Fields(got[0]), strings.Fields(want[0])) && matches(got[1:], want[1:])
}

// alike compares the words of a line.
func alike(got, want []string) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if got[i] != want[i] && !near(got[i], want[i]) {
			return false
		}
	}
	return true
}

// near compares numbers, and bars of the load, whose heights may differ by
// one.
func near(a, b string) bool {
	number := func(s string) (float64, error) {
		return strconv.ParseFloat(strings.Trim(strings.ReplaceAll(s, ",", ""), "():"), 64)
	}
	x, err := number(a)
	if err == nil {
		y, err := number(b)
		return err == nil && math.Abs(x-y) <= 0.02+0.01*math.Abs(y)
	}
	const bars = "·▁▂▃▄▅▆▇█"
	if utf8.RuneCountInString(a) != utf8.RuneCountInString(b) {
		return false
	}
	other := []rune(b)
	for i, r := range []rune(a) {
		x, y := strings.IndexRune(bars, r), strings.IndexRune(bars, other[i])
		if x < 0 || y < 0 || utf8.RuneCountInString(bars[min(x, y):max(x, y)]) > 1 {
			return false
		}
	}
	return true
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		got, want string
		match     bool
	}{
		{"", "", true},
		{"a b", "a  b", true},
		{"a b", "a c", false},
		{"a\nb", "a", false},
		{"a\nb\nc", "…\nc", true},
		{"a\nb\nc", "a\n…", true},
		{"a\nb\nc", "…\nb", false},
		{"0.126 1,000", "0.125 1,001", true},
		{"0.126", "0.226", false},
		{"0.126", "x", false},
		{"█▄·", "▇▄▁", true},
		{"█▄·", "▅▄·", false},
	} {
		if got := matches(strings.Split(test.got, "\n"), strings.Split(test.want, "\n")); got != test.match {
			t.Errorf("%q and %q: %v", test.got, test.want, got)
		}
	}
}
