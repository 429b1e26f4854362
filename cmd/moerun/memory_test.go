package main

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/internal/cli"
)

// TestMaxMemory: every subcommand that runs a model refuses what needs more
// memory than it may take.
func TestMaxMemory(t *testing.T) {
	shape := []string{"--dim", "batch=4,sequence=64"}
	for _, args := range [][]string{
		append([]string{"run", gpt, "--random"}, shape...),
		append([]string{"compare", gpt, gptTwin}, shape...),
		{"generate", gpt, "--prompt", "The Rays"},
		{"perplexity", gpt, "--text", gptText, "--max-tokens", "300"},
	} {
		code, _, stderr := execute(t, append(args, "--max-memory", "100KiB")...)
		if code != cli.Failure || !strings.Contains(stderr, "memory limit") {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr)
		}
		if code, _, stderr := execute(t, append(args, "--max-memory", "2x")...); code != cli.Misuse || !strings.Contains(stderr, "--max-memory") {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr)
		}
	}
	if code, _, stderr := execute(t, append([]string{"run", gpt, "--random", "--max-memory", "1GiB"}, shape...)...); code != cli.Success {
		t.Errorf("with enough memory: exit code %d, stderr %q", code, stderr)
	}
}
