package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/inspect"
)

const (
	gpt  = "../../models/gpt-megatron/model.onnx"
	bert = "../../models/bert/model.onnx"
)

// execute runs fmoefy as a user would.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = command.Execute(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

// succeed runs fmoefy and decodes the JSON that it prints.
func succeed(t *testing.T, result any, args ...string) {
	t.Helper()
	code, stdout, stderr := execute(t, args...)
	if code != cli.Success || stderr != "" {
		t.Fatalf("%v: exit code %d, stderr %q", args, code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), result); err != nil {
		t.Fatalf("%v: %v in\n%s", args, err, stdout)
	}
}

func TestWrongUse(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.onnx")
	tests := []struct {
		args []string
		want string // what the line on stderr says
	}{
		{nil, "IN.onnx is missing"},
		{[]string{gpt, out}, "unexpected argument"},
		{[]string{gpt, "--experts", "8"}, "unknown flag: --experts"},
		{[]string{gpt, "--num-experts", "8"}, "-o OUT.onnx is missing"},
		{[]string{gpt, "-o", out}, "number of experts is missing"},
		{[]string{gpt, "-o", out, "--num-experts", "many"}, `"many"`},
		{[]string{gpt, "-o", out, "--num-experts", "0"}, "--num-experts=0 must be above 0"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--top-k", "5"}, "top_k is 5, more than the 4 experts"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--top-k", "0"}, "--top-k=0"},
		{[]string{gpt, "-o", out, "--num-experts", "6", "--workers", "4"}, "cannot be divided"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--gate", "magic"}, `gate "magic" is not known`},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--gate", "gshard", "--top-k", "3"}, "top_k is 3; the gate gshard takes top_k 2 only"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--gate", "switch", "--top-k", "2"}, "top_k is 2; the gate switch takes top_k 1 only"},
		{[]string{gpt, "-o", out, "--num-experts", "1", "--gate", "dc"}, "top_k is 1; the gate dc takes top_k 2 only"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--gate", "switch", "--capacity-eval", "0"}, "capacity_factor_eval is 0, must be above 0"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--gate", "switch", "--capacity-train=-2"}, "capacity_factor_train is -2, must be above 0"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--capacity-eval", "2"}, "capacity_factor_eval does not go with the gate naive"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--gate", "switch", "--selection-bias"}, "the gate switch takes no selection bias"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--gate", "switch", "--workers-per-node", "2"}, "workers per node mean nothing to the gate switch"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--scores", "tanh"}, `scores "tanh" are not known`},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--jitter", "much"}, `"much"`},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--init", "zero"}, `expert init "zero" is not known`},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--hidden", "64"}, "needs expert init random"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--noise-scale", "0.1"}, "needs expert init noise"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--drop-ratio", "0.1"}, "needs expert init drop"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--init", "drop", "--drop-ratio", "0"}, "--drop-ratio=0 must be above 0"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--init", "virtual-group", "--granularity", "3"}, "no multiple of the granularity"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--shared-weight", "0.5"}, "needs a shared expert"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--external", "often"}, "use auto, always or never"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--expert-weights", "int3"}, `"int3" of experts' weights is not known`},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--block-size", "32"}, "needs experts' weights of int8 or int4"},
		{[]string{gpt, "-o", out, "--expert", "gpt.onnx"}, "--expert gpt.onnx is not N=FILE"},
		{[]string{gpt, "-o", out, "--expert", "-1=gpt.onnx"}, "--expert -1=gpt.onnx is not N=FILE"},
		{[]string{gpt, "-o", out, "--expert", "1=a", "--expert", "1=b"}, "--expert 1 is given twice"},
		{[]string{gpt, "-o", out, "--expert", "4=a.onnx", "--num-experts", "2"}, "models are given for experts 4 to 4"},
		{[]string{gpt, "-o", out, "--expert", "1=a.onnx", "--init", "noise"}, "a model for an expert needs expert init models, not noise"},
		{[]string{gpt, "-o", out, "--num-experts", "2", "--tokenizer", "bytes"}, "--tokenizer needs --prompts or --calibrate"},
		{[]string{gpt, "-o", out, "--num-experts", "2", "--gate-init", "prompts"}, "needs prompts for each expert (--prompts FILE)"},
		{[]string{gpt, "-o", out, "--num-experts", "2", "--gate-scale", "2"}, "needs gate init orthogonal or prompts"},
		{[]string{gpt, "--list", "--num-experts", "4"}, "--num-experts has no effect on --list"},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, stdout, stderr := execute(t, test.args...)
			if code != cli.Misuse || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q, want exit code %d and one line with %q", code, stdout, stderr, cli.Misuse, test.want)
			}
		})
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("wrong use wrote a file")
	}
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.onnx")
	if err := os.WriteFile(broken, []byte("not a model"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.onnx")
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"nowhere.onnx", "--list"}, "nowhere.onnx"},
		{[]string{broken, "--list"}, "broken.onnx"},
		{[]string{broken, "-o", out, "--num-experts", "4"}, "broken.onnx"},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--include", "decoder*"}, `"decoder*" selects none`},
		{[]string{gpt, "-o", out, "--num-experts", "4", "--token-mask", "attention_mask"}, `token mask "attention_mask" is no value`},
		{[]string{gpt, "-o", filepath.Join(dir, "nowhere", "out.onnx"), "--num-experts", "4"}, "nowhere"},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, _, stderr := execute(t, test.args...)
			if code != cli.Failure || !strings.HasPrefix(stderr, "fmoefy: ") || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "internal error") {
				t.Errorf("exit code %d, stderr %q, want exit code %d and %q", code, stderr, cli.Failure, test.want)
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}

func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name    string
		flags   []string
		experts int64
		topK    int
		layers  int
		hidden  int64
		equal   bool
	}{
		{"experts in all", []string{"--num-experts", "8"}, 8, 2, 6, 512, true},
		{"experts per worker", []string{"--experts-per-worker", "2", "--workers", "3", "--top-k", "1"}, 6, 1, 6, 512, true},
		{"some blocks", []string{"--num-experts", "2", "--include", "0-3", "--exclude", "1"}, 2, 2, 3, 512, true},
		{"every second", []string{"--num-experts", "2", "--every", "2"}, 2, 2, 3, 512, true},
		{"noise", []string{"--num-experts", "2", "--init", "noise", "--noise-scale", "0.1"}, 2, 2, 6, 512, false},
		{"random and narrow", []string{"--num-experts", "2", "--init", "random", "--random-std", "0.1", "--hidden", "64"}, 2, 2, 6, 64, false},
		{"int8", []string{"--num-experts", "4", "--expert-weights", "int8"}, 4, 2, 6, 512, false},
		{"int4", []string{"--num-experts", "4", "--expert-weights", "int4", "--block-size", "64"}, 4, 2, 6, 512, false},
		{"bfloat16", []string{"--num-experts", "4", "--expert-weights", "bf16"}, 4, 2, 6, 512, false},
		{"switch", []string{"--num-experts", "4", "--gate", "switch", "--capacity-eval", "unlimited", "--softmax-over-all=false"}, 4, 1, 6, 512, true},
		{"gshard", []string{"--num-experts", "4", "--gate", "gshard", "--random-routing=false"}, 4, 2, 6, 512, false},
		{"another weighting", []string{"--num-experts", "4", "--softmax-over-all"}, 4, 2, 6, 512, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out := filepath.Join(dir, strings.ReplaceAll(test.name, " ", "-")+".onnx")
			var result rewriteResult
			succeed(t, &result, append([]string{gpt, "-o", out, "--json"}, test.flags...)...)
			if result.Equal != test.equal || result.Output != out {
				t.Errorf("got %+v", result)
			}
			d := describe(t, out)
			if len(d.Layers) != test.layers {
				t.Fatalf("%d FMoE layers, want %d", len(d.Layers), test.layers)
			}
			for _, l := range d.Layers {
				if l.Experts != test.experts || l.TopK != test.topK || l.DHidden != test.hidden || l.DModel != 128 {
					t.Errorf("layer %+v", l)
				}
			}
			if p := d.Parameters; p.Total != result.ParametersAfter || p.Active != result.ParametersActive {
				t.Errorf("the report has %d parameters, %d active; the file %d and %d", result.ParametersAfter, result.ParametersActive, p.Total, p.Active)
			}
		})
	}
}

func describe(t *testing.T, path string) *inspect.Description {
	t.Helper()
	m, err := onnx.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := onnx.Check(m); err != nil {
		t.Fatal(err)
	}
	d, err := inspect.Describe(m)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRewriteIsDecidedByItsSeed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, seed string) []byte {
		out := filepath.Join(dir, name)
		var result rewriteResult
		succeed(t, &result, bert, "-o", out, "--json", "--num-experts", "4", "--init", "noise", "--gate-std", "0.1", "--seed", seed)
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := write("a.onnx", "7")
	if !bytes.Equal(first, write("b.onnx", "7")) {
		t.Error("the same seed gave two files")
	}
	if bytes.Equal(first, write("c.onnx", "8")) {
		t.Error("two seeds gave one file")
	}
}

func TestExternalData(t *testing.T) {
	for mode, want := range map[string]bool{"auto": false, "never": false, "always": true} {
		out := filepath.Join(t.TempDir(), "out.onnx")
		var result rewriteResult
		succeed(t, &result, bert, "-o", out, "--json", "--num-experts", "2", "--external", mode)
		_, err := os.Stat(out + ".data")
		if (err == nil) != want {
			t.Errorf("--external %s: data file: %v", mode, err)
		}
		if d := describe(t, out); len(d.Layers) != 2 {
			t.Errorf("--external %s: %d FMoE layers, want 2", mode, len(d.Layers))
		}
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.onnx")
	for _, args := range [][]string{{bert, "--dry-run"}, {bert, "--dry-run", "-o", out}} {
		var result rewriteResult
		succeed(t, &result, append(args, "--num-experts", "2", "--json")...)
		if result.Output != "" || result.ParametersAfter <= result.ParametersBefore {
			t.Errorf("%v: got %+v", args, result)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("there is a file")
	}
}

func TestTables(t *testing.T) {
	tests := []struct {
		args []string
		want []string // rows, with single spaces
	}{
		{[]string{bert, "--list"}, []string{
			"block where kind d_model d_hidden activation parameters",
			"0 encoder.layer.0 plain 64 128 gelu 16,576",
		}},
		{[]string{bert, "--dry-run", "--num-experts", "8"}, []string{
			"0 encoder.layer.0 plain 64 128 gelu 16,576 → 133,120",
			"experts 8 per block, top-2, naive gate, init copy, seed 0",
			"function the same as before, up to rounding: every expert is a copy of the MLP and a token's scores sum to one",
		}},
		{[]string{bert, "--dry-run", "--num-experts", "8", "--workers", "4", "--exclude", "1", "--init", "noise"}, []string{
			"1 encoder.layer.1 plain 64 128 gelu 16,576 not replaced: excluded",
			"experts 8 per block, top-2, naive gate, init noise, seed 0; 2 on each of 4 workers",
			"function another than before: every expert has noise of its own",
		}},
		{[]string{bert, "--dry-run", "--num-experts", "8", "--init", "drop", "--drop-ratio", "0.25"}, []string{
			"function another than before: 25 % of every expert's hidden columns start anew",
		}},
		{[]string{bert, "--dry-run", "--num-experts", "8", "--init", "virtual-group", "--granularity", "4", "--shared-expert"}, []string{
			"experts 8 per block, top-8, naive gate, init virtual-group, seed 0; a shared expert of weight 0.5",
			"function the same as before, up to rounding: the shared expert is the MLP, every group of 4 experts is the MLP, a token gets whole groups and a token's scores sum to one",
		}},
		{[]string{bert, "--dry-run", "--num-experts", "8", "--target", "onnxruntime", "--allow-gelu-approximation"}, []string{
			"function nearly the same as before: every expert is a copy of the MLP and a token's scores sum to one, but an approximation of GELU changes hidden values by up to 0.0005",
		}},
		{[]string{bert, "--dry-run", "--num-experts", "8", "--expert-weights", "int8"}, []string{
			"storage experts' weights in int8, a scale for each 32 of a row",
			"function nearly the same as before: every expert is a copy of the MLP and a token's scores sum to one, but storing weights changes them by 0.52 % (root mean square)",
		}},
	}
	for _, test := range tests {
		code, stdout, stderr := execute(t, test.args...)
		if code != cli.Success {
			t.Fatalf("%v: exit code %d, stderr %q", test.args, code, stderr)
		}
		var rows []string
		for line := range strings.Lines(stdout) {
			rows = append(rows, strings.Join(strings.Fields(line), " "))
		}
		all := strings.Join(rows, "\n") + "\n"
		for _, want := range test.want {
			if !strings.Contains(all, want+"\n") {
				t.Errorf("%v: no row %q in\n%s", test.args, want, stdout)
			}
		}
	}
}

func TestListSaysWhyCandidatesAreRefused(t *testing.T) {
	path := filepath.Join("..", "..", "..", "shared", "models", "distilbert-optimum.onnx")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not here", path)
	}
	var result listResult
	succeed(t, &result, path, "--list", "--json")
	var replaceable, refused int
	for _, b := range result.Blocks {
		if b.Reason == "" {
			replaceable++
		} else {
			refused++
		}
	}
	if replaceable != 2 || refused != 1 {
		t.Errorf("%d blocks and %d refused, want 2 and the classifier head", replaceable, refused)
	}
	if _, stdout, _ := execute(t, path, "--list"); !strings.Contains(stdout, "refused: ") {
		t.Errorf("no reason in\n%s", stdout)
	}
}

func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	code := command.Execute(ctx, []string{bert, "-o", filepath.Join(dir, "out.onnx"), "--num-experts", "2"}, &stdout, &stderr)
	if code != cli.Interrupted || stderr.String() != "fmoefy: interrupted\n" || stdout.Len() != 0 {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, &stdout, &stderr)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}
