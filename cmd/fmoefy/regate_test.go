package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/internal/cli"
)

// regate runs fmoefy regate as a user would.
func regate(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = dispatch(t.Context(), append([]string{"regate"}, args...), &out, &err)
	return code, out.String(), err.String()
}

func TestRegate(t *testing.T) {
	dir := t.TempDir()
	file, out := filepath.Join(dir, "moe.onnx"), filepath.Join(dir, "out.onnx")
	var written rewriteResult
	succeed(t, &written, bert, "-o", file, "--json", "--num-experts", "4")
	for _, test := range []struct {
		args []string
		want []string // rows, with single spaces
	}{
		{[]string{"--gate", "switch", "--capacity-eval", "1.5", "--include", "0"}, []string{
			"0 encoder.layer.0.FMoE 4 switch 1 another than before",
			"1 encoder.layer.1.FMoE 4 naive 2 not included",
			"changed top_k 2 → 1",
			"capacity_factor_eval unlimited → 1.5",
			"function another than before",
			"wrote " + out,
		}},
		{[]string{"--gate", "noisy"}, []string{
			"1 encoder.layer.1.FMoE 4 noisy 2 the same as before",
			"noise_weight added",
			"function the same as before in evaluation",
		}},
		{[]string{"--gate", "naive"}, []string{"changed nothing"}},
	} {
		code, stdout, stderr := regate(t, append([]string{file, "-o", out}, test.args...)...)
		if code != cli.Success {
			t.Fatalf("%v: exit code %d, stderr %q", test.args, code, stderr)
		}
		all := "\n"
		for line := range strings.Lines(stdout) {
			all += strings.Join(strings.Fields(line), " ") + "\n"
		}
		for _, want := range test.want {
			if !strings.Contains(all, "\n"+want+"\n") {
				t.Errorf("%v: no row %q in\n%s", test.args, want, stdout)
			}
		}
		if layers := describe(t, out).Layers; len(layers) != 2 || layers[0].Experts != 4 {
			t.Errorf("%v: %d layers", test.args, len(layers))
		}
	}
	for _, test := range []struct {
		code int
		args []string
		want string
	}{
		{cli.Misuse, []string{file, "-o", out}, "nothing to change"},
		{cli.Misuse, []string{file, "--gate", "switch"}, "-o OUT.onnx is missing"},
		{cli.Misuse, []string{file, "-o", out, "--gate", "magic"}, `gate "magic" is not known`},
		{cli.Misuse, []string{file, "-o", out, "--top-k", "0"}, "--top-k=0 must be above 0"},
		{cli.Failure, []string{file, "-o", out, "--gate", "gshard", "--top-k", "3"}, "top_k is 3; the gate gshard takes top_k 2 only"},
		{cli.Failure, []string{bert, "-o", out, "--gate", "gshard"}, "no FMoE node"},
	} {
		if code, _, stderr := regate(t, test.args...); code != test.code || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
			t.Errorf("%v: exit code %d, stderr %q, want %d and one line with %q", test.args, code, stderr, test.code, test.want)
		}
	}
}
