package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
)

const (
	llama   = "../../models/llama/model.onnx"
	mixtral = "../../fmoefy/testdata/mixtures/mixtral-modules/model.onnx"
)

// call runs fmoefy with a subcommand.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = dispatch(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestConvert(t *testing.T) {
	dir := t.TempDir()
	moe, microsoft, back := filepath.Join(dir, "moe.onnx"), filepath.Join(dir, "ort.onnx"), filepath.Join(dir, "back.onnx")
	for _, args := range [][]string{
		{llama, "-o", moe, "--num-experts", "4", "--json"},
		{"export", moe, "-o", microsoft, "--target", "onnxruntime", "--json"},
		{"import", microsoft, "-o", back, "--json"},
	} {
		if code, stdout, stderr := call(t, args...); code != cli.Success || !json.Valid([]byte(stdout)) {
			t.Fatalf("%v: exit code %d, stderr %q", args, code, stderr)
		}
	}
	if d := describe(t, microsoft); len(d.Layers) != 0 {
		t.Errorf("%d FMoE layers after the export", len(d.Layers))
	}
	if a, b := describe(t, moe), describe(t, back); len(b.Layers) != 2 || a.Parameters != b.Parameters {
		t.Errorf("before %+v, after %+v", a, b)
	}
}

func TestImportMixtral(t *testing.T) {
	out := filepath.Join(t.TempDir(), "moe.onnx")
	code, stdout, stderr := call(t, "import", mixtral, "-o", out)
	if code != cli.Success || !strings.Contains(stdout, "→ FMoE") || !strings.Contains(stdout, "wrote") {
		t.Fatalf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if d := describe(t, out); len(d.Layers) != 1 || d.Layers[0].Experts != 4 || d.Layers[0].TopK != 2 {
		t.Errorf("got %+v", d.Layers)
	}
}

func TestConvertFailures(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out.onnx")
	for _, test := range []struct {
		code int
		args []string
		want string
	}{
		{cli.Misuse, []string{"import"}, "IN.onnx is missing"},
		{cli.Misuse, []string{"import", llama}, "-o OUT.onnx is missing"},
		{cli.Misuse, []string{"import", llama, "-o", out, "--external", "often"}, "use auto, always or never"},
		{cli.Misuse, []string{"export", llama, "-o", out, "--target", "tpu"}, "there are portable, onnxruntime, standard"},
		{cli.Misuse, []string{"export", llama, "-o", out, "--allow-gelu-approximation"}, "needs the target onnxruntime"},
		{cli.Failure, []string{"import", llama, "-o", out}, "the model has no mixture of experts"},
		{cli.Failure, []string{"export", llama, "-o", out}, "the model has no FMoE node"},
		{cli.Failure, []string{bert, "-o", out, "--num-experts", "2", "--target", string(fmoefy.ONNXRuntime)}, "--allow-gelu-approximation"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, stdout, stderr := call(t, test.args...)
			if code != test.code || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q, want exit code %d and %q", code, stdout, stderr, test.code, test.want)
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}
