package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

const (
	gpt     = "../../models/gpt-megatron/model.onnx"
	gptTwin = "../../models/gpt-megatron-dynamo/model.onnx"
	gptData = "../../models/gpt-megatron/test_data_set_0"
	gptText = "../../models/gpt-megatron/heldout.txt"

	gptCached = "../../models/zoo/gpt2-torchscript-cache/model.onnx"

	bert     = "../../models/bert/model.onnx"
	bertData = "../../models/bert/test_data_set_0"
	llama    = "../../models/llama/model.onnx"
)

// execute runs moerun as a user would.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = moerun.Execute(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

// succeed runs moerun and decodes the JSON that it prints.
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

// rewrite writes a model rewritten by fmoefy to a file.
func rewrite(t *testing.T, path string, o fmoefy.Options) string {
	t.Helper()
	m, err := onnx.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := fmoefy.Rewrite(m, o); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "moe.onnx")
	if err := onnx.WriteFile(out, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWrongUse(t *testing.T) {
	tests := []struct {
		args []string
		want string // what the line on stderr says
	}{
		{nil, "a subcommand is missing"},
		{[]string{"rum"}, `no subcommand "rum"`},
		{[]string{"run"}, "MODEL is missing"},
		{[]string{"run", gpt, "again"}, `unexpected argument "again"`},
		{[]string{"run", gpt}, "no value for input input_ids int64[batch,sequence]: give --data DIR"},
		{[]string{"run", gpt, "--random", "--threads=-1"}, "--threads"},
		{[]string{"run", gpt, "--random", "--max-memory", "much"}, "not a size"},
		{[]string{"run", gpt, "--random", "--dim", "length=3"}, "the model has batch, sequence"},
		{[]string{"run", gpt, "--data", gptData, "--seed", "2"}, "--seed is for random inputs"},
		{[]string{"run", gpt, "--random", "--check"}, "--check needs --data"},
		{[]string{"run", gpt, "--data", gptData, "--atol", "1"}, "are for --check"},
		{[]string{"run", gpt, "--data", gptData, "--check", "--rtol=-1"}, "--rtol and --atol"},
		{[]string{"run", gpt, "--random", "--format", "pb"}, "--format is for the files of --out"},
		{[]string{"run", gpt, "--random", "--format", "csv", "--out", "x"}, "use npy or pb"},
		{[]string{"run", gpt, "--random", "--repeat=-1"}, "--repeat"},
		{[]string{"run", gpt, "--input", "input_ids"}, "must be NAME=FILE"},
		{[]string{"run", gpt, "--input", "tokens=x.npy"}, `no input "tokens"`},
		{[]string{"bench", gpt, "--runs=-1"}, "--runs"},
		{[]string{"bench", gpt, "--decode=-1"}, "--decode"},
		{[]string{"bench", gpt, "--decode=1", "--prefill=0"}, "--prefill"},
		{[]string{"bench", gpt, "--prefill=8"}, "give --decode too"},
		{[]string{"bench", gpt, "--decode=1", "--dim=batch=1"}, "--dim is not for --decode"},
		{[]string{"compare", gpt}, "B.onnx is missing"},
		{[]string{"compare", gpt, gpt, "--tolerance=-1"}, "--tolerance"},
		{[]string{"compare", gpt, gpt, "--data", gptData, "--dim", "batch=2"}, "--dim is for random inputs"},
		{[]string{"info"}, "MODEL is missing"},
		{[]string{"generate", gpt}, "--prompt TEXT is missing"},
		{[]string{"generate", gpt, "--prompt", "a", "--max-tokens=-1"}, "--max-tokens"},
		{[]string{"generate", gpt, "--prompt", "a", "--context=-1"}, "--context"},
		{[]string{"generate", gpt, "--prompt", "a", "--temperature=-1"}, "temperature"},
		{[]string{"generate", gpt, "--prompt", "a", "--top-p=0.9"}, "--top-p needs a --temperature above 0"},
		{[]string{"perplexity", gpt}, "--text FILE is missing"},
		{[]string{"perplexity", gpt, "--text", gptText, "--window=-1"}, "--window"},
		{[]string{"perplexity", gpt, "--text", gptText, "--max-tokens=-1"}, "--max-tokens"},
		{[]string{"routing", gpt, "--text", gptText, "--data", gptData}, "give one of them"},
		{[]string{"routing", gpt, "--data", gptData, "--window", "5"}, "--window is for --text"},
		{[]string{"routing", gpt, "--text", gptText, "--seed", "5"}, "--seed is for random inputs or --training"},
		{[]string{"routing", gpt, "--text", gptText, "--step", "5"}, "--step is for --training"},
		{[]string{"routing", gpt, "--text", gptText, "--training", "--step=-1"}, "--step=-1 must be 0 or more"},
		{[]string{"routing", gpt, "--text", gptText, "--window=-1"}, "--window=-1 must be"},
		{[]string{"routing", gpt, "--text", gptText, "--heatmap", "load.jpg"}, "must be named .png or .svg"},
		{[]string{"run", gpt, "--data", gptData, "--routing-stats", "--repeat", "2"}, "give --repeat or --routing-stats"},
		{[]string{"version", "x"}, `unexpected argument "x"`},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, stdout, stderr := execute(t, test.args...)
			if code != cli.Misuse || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q, want exit code %d and one line with %q", code, stdout, stderr, cli.Misuse, test.want)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.onnx")
	if err := os.WriteFile(broken, []byte("not a model"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"run", "nowhere.onnx", "--random"}, "nowhere.onnx"},
		{[]string{"run", broken, "--random"}, "broken.onnx"},
		{[]string{"run", gpt, "--data", "nowhere"}, "must hold ONNX test data"},
		{[]string{"run", gpt, "--input", "input_ids=nowhere.npy"}, "nowhere.npy"},
		{[]string{"run", gpt, "--random", "--dim", "sequence=300"}, ""}, // more than it has positions
		{[]string{"run", gpt, "--random", "--out", broken}, "broken.onnx"},
		{[]string{"bench", gpt, "--decode=4"}, "no caches"},
		{[]string{"bench", gptCached, "--decode=400"}, "context of 64"},
		{[]string{"bench", gpt, "--runs=1", "--cpuprofile", "nowhere/cpu"}, "nowhere/cpu"},
		{[]string{"compare", gpt, bert}, bert},
		{[]string{"info", broken}, "broken.onnx"},
		{[]string{"generate", bert, "--prompt", "a"}, "token_type_ids"},
		{[]string{"routing", gpt, "--random"}, "the model has no FMoE layers; fmoefy rewrites"},
		{[]string{"routing", gpt, "--text", gptText}, "the model has no FMoE layers; fmoefy rewrites"},
		{[]string{"run", gpt, "--random", "--routing-stats"}, "the model has no FMoE layers; fmoefy rewrites"},
		{[]string{"routing", "nowhere.onnx", "--random"}, "nowhere.onnx"},
		{[]string{"perplexity", gpt, "--text", "nowhere.txt"}, "nowhere.txt"},
		{[]string{"perplexity", gpt, "--text", gptText, "--window", "300"}, "context of 256"},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, _, stderr := execute(t, test.args...)
			if code != cli.Failure || !strings.HasPrefix(stderr, "moerun "+test.args[0]+": ") || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "internal error") {
				t.Errorf("exit code %d, stderr %q, want exit code %d and %q", code, stderr, cli.Failure, test.want)
			}
		})
	}
}

func TestRunChecksEverySample(t *testing.T) {
	directories, err := filepath.Glob("../../models/*/test_data_set_*")
	if err != nil || len(directories) == 0 {
		t.Fatalf("no data sets: %v", err)
	}
	for _, dir := range directories {
		t.Run(dir, func(t *testing.T) {
			var result runResult
			succeed(t, &result, "run", filepath.Join(filepath.Dir(dir), "model.onnx"), "--data", dir, "--check", "--json")
			for _, o := range result.Outputs {
				if o.Check == nil || !o.Check.Equal {
					t.Errorf("output %s: check %+v", o.Name, o.Check)
				}
			}
		})
	}
}

func TestRunNamesTheWorstElement(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"input_0.pb", "output_0.pb"} {
		name, x, err := dataset.ReadTensor(filepath.Join(gptData, file))
		if err != nil {
			t.Fatal(err)
		}
		if file == "output_0.pb" {
			x = x.Clone()
			tensor.Of[float32](x)[3] += 1
			tensor.Of[float32](x)[x.Shape[2]+7] += 100
		}
		if err := dataset.WriteTensor(filepath.Join(dir, file), name, x); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := execute(t, "run", gpt, "--data", dir, "--check")
	if code != cli.Failure || !strings.Contains(stderr, `output "logits" differs in 2 of `) || !strings.Contains(stderr, "the worst: at [0 1 7]") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if !strings.Contains(stdout, "DIFFERENT in 2 of ") {
		t.Errorf("stdout %q", stdout)
	}
}

func TestRunWritesAndReadsTensors(t *testing.T) {
	dir := t.TempDir()
	ids := filepath.Join(dir, "ids.npy")
	if err := dataset.WriteTensor(ids, "", tensor.FromSlice([]int64{84, 104, 101}, 1, 3)); err != nil {
		t.Fatal(err)
	}
	var outputs []*tensor.Tensor
	for _, format := range []string{"npy", "pb"} {
		var result runResult
		succeed(t, &result, "run", gpt, "--input", "input_ids="+ids, "--out", filepath.Join(dir, "out"), "--format", format, "--json")
		if len(result.Outputs) != 1 || result.Inputs[0].Type != "int64[1,3]" {
			t.Fatalf("got %+v", result)
		}
		_, x, err := dataset.ReadTensor(result.Outputs[0].File)
		if err != nil || x.String() != "float32[1,3,256]" {
			t.Fatalf("%s has %v, %v", result.Outputs[0].File, x, err)
		}
		outputs = append(outputs, x)
	}
	if !bytes.Equal(outputs[0].Data, outputs[1].Data) {
		t.Error("the two formats hold different elements")
	}
}

func TestRunRepeats(t *testing.T) {
	var result runResult
	succeed(t, &result, "run", llama, "--random", "--dim", "batch=1,sequence=4", "--repeat", "3", "--threads", "1", "--json")
	if l := result.Latency; l == nil || l.Runs != 3 || !(0 < l.Min && l.Min <= l.P50 && l.P50 <= l.P90 && l.P90 <= l.P99) {
		t.Errorf("latency %+v", l)
	}
}

func TestRunDrawsWhatNoFileGives(t *testing.T) {
	code, stdout, stderr := execute(t, "run", bert, "--input", "input_ids="+bertData+"/input_0.pb", "--random", "--dim", "batch=2,sequence=12", "--repeat", "2")
	if code != cli.Success || !strings.Contains(stdout, "latency of 2 runs") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestBench(t *testing.T) {
	var result benchResult
	profile := filepath.Join(t.TempDir(), "cpu.pprof")
	succeed(t, &result, "bench", gpt, "--dim", "batch=2,sequence=8", "--threads", "1", "--runs", "3", "--profile", "--cpuprofile", profile, "--json")
	p := result.Phases[0]
	if len(result.Phases) != 1 || p.Latency.Runs != 3 || p.Tokens != 16 || !(p.GFLOP > 0.03 && p.GFLOP < 0.06) || !(p.PeakShare > 0 && p.BandwidthShare > 0) {
		t.Errorf("phases %+v", result.Phases)
	}
	if result.Memory.Weights < 5e6 || result.Memory.Plan == 0 || result.Machine.Peak <= 0 || result.Machine.Bandwidth <= 0 {
		t.Errorf("memory %+v, machine %+v", result.Memory, result.Machine)
	}
	share := 0.0
	for _, o := range result.Profile {
		share += o.Share
	}
	if share < 0.999 || share > 1.001 {
		t.Errorf("the shares of the operators sum to %v", share)
	}
	if info, err := os.Stat(profile); err != nil || info.Size() == 0 {
		t.Errorf("CPU profile %v, %v", info, err)
	}

	succeed(t, &result, "bench", gptCached, "--prefill", "8", "--decode", "4", "--runs", "2", "--json")
	if len(result.Phases) != 2 || result.Phases[0].Latency.Runs != 2 || result.Phases[1].Latency.Runs != 8 || result.Phases[0].Tokens != 8 {
		t.Errorf("phases %+v", result.Phases)
	}
	code, stdout, stderr := execute(t, "bench", gpt, "--runs", "1", "--profile")
	for _, want := range []string{"tokens/s", "GFLOP/s of multiply-adds", "MB of weights", "MatMul"} {
		if code != cli.Success || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, stderr %q, no %q in\n%s", code, stderr, want, stdout)
		}
	}
}

func TestCompare(t *testing.T) {
	var result compareResult
	succeed(t, &result, "compare", gpt, gptTwin, "--dim", "batch=1,sequence=5", "--json")
	if !result.Equal || len(result.Outputs) != 1 || result.Outputs[0].MaxAbs > 1e-4 || result.Outputs[0].Type != "float32[1,5,256]" {
		t.Errorf("two exports of one model: %+v", result)
	}
	code, stdout, stderr := execute(t, "compare", gpt, llama)
	if code != cli.Failure || !strings.Contains(stderr, `output "logits" differs in`) || !strings.Contains(stdout, "DIFFERENT") {
		t.Errorf("two models: exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if code, _, stderr := execute(t, "compare", gpt, llama, "--tolerance", "1000"); code != cli.Success {
		t.Errorf("with a wide tolerance: exit code %d, stderr %q", code, stderr)
	}
}

func TestPairOutputs(t *testing.T) {
	names := func(list ...string) (values []*onnx.ValueInfo) {
		for _, name := range list {
			values = append(values, &onnx.ValueInfo{Name: name})
		}
		return values
	}
	for _, test := range []struct {
		b    []*onnx.ValueInfo
		want string // B's outputs in the order of A's, x and y
	}{
		{names("x", "y"), "xy"},
		{names("y", "x"), "xy"},
		{names("u", "v"), "uv"},
	} {
		pairs, err := pairOutputs(names("x", "y"), test.b)
		if err != nil || pairs[0][1]+pairs[1][1] != test.want {
			t.Errorf("got %v, %v, want %q", pairs, err, test.want)
		}
	}
	if _, err := pairOutputs(names("x"), names()); err == nil {
		t.Error("a model without outputs was compared")
	}
}

func TestInfo(t *testing.T) {
	var result struct {
		Inputs     []struct{ Name, Type string }
		Opsets     map[string]int
		Parameters struct{ Total, Active int64 }
	}
	succeed(t, &result, "info", gpt, "--json")
	if len(result.Inputs) != 1 || result.Inputs[0].Type != "int64[batch,sequence]" || result.Opsets["ai.onnx"] != 17 ||
		result.Parameters.Total < 1e6 || result.Parameters.Total != result.Parameters.Active {
		t.Errorf("got %+v", result)
	}
	code, stdout, _ := execute(t, "info", gpt)
	for _, want := range []string{"input       input_ids  int64[batch,sequence]", "37  MatMul", "There are no FMoE layers."} {
		if code != cli.Success || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, no %q in\n%s", code, want, stdout)
		}
	}
}

func TestGenerate(t *testing.T) {
	var result generateResult
	args := []string{"generate", gpt, "--prompt", "The Rays", "--max-tokens", "12", "--temperature", "0.7", "--seed", "5"}
	succeed(t, &result, append(args, "--json")...)
	if len(result.Tokens) != 12 || result.TokensPerSecond <= 0 {
		t.Errorf("got %+v", result)
	}
	code, stdout, stderr := execute(t, args...)
	if want := "The Rays" + result.Text + "\n"; code != cli.Success || stdout != want {
		t.Errorf("exit code %d, stdout %q, stderr %q, want the same text %q", code, stdout, stderr, want)
	}
}

func TestPerplexity(t *testing.T) {
	var a, b perplexityResult
	succeed(t, &a, "perplexity", gpt, "--text", gptText, "--max-tokens", "301", "--window", "100", "--json")
	succeed(t, &b, "perplexity", gptTwin, "--text", gptText, "--max-tokens", "301", "--window", "100", "--json")
	if a.Tokens != 300 || b.Tokens != 300 {
		t.Errorf("predicted %d and %d tokens, want 300", a.Tokens, b.Tokens)
	}
	if d := a.LogLoss - b.LogLoss; d > 1e-5 || d < -1e-5 || a.LogLoss <= 0 {
		t.Errorf("two exports of one model have the log losses %v and %v", a.LogLoss, b.LogLoss)
	}
	code, stdout, _ := execute(t, "perplexity", gpt, "--text", gptText, "--max-tokens", "20")
	if code != cli.Success || !strings.Contains(stdout, "over 19 tokens") {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
}

// TestPerplexityOfStoredExperts: a trained model whose weights become experts
// of fewer bits predicts text nearly as well.
func TestPerplexityOfStoredExperts(t *testing.T) {
	perplexity := func(o fmoefy.Options) float64 {
		o.NumExperts = 4
		var result perplexityResult
		succeed(t, &result, "perplexity", rewrite(t, gpt, o), "--text", gptText, "--max-tokens", "2001", "--json")
		return math.Exp(float64(result.LogLoss))
	}
	dense := perplexity(fmoefy.Options{})
	for storage, most := range map[fmoefy.Storage]float64{fmoefy.StoreFloat16: 1.001, fmoefy.StoreBFloat16: 1.001, fmoefy.StoreInt8: 1.01, fmoefy.StoreInt4: 1.05} {
		if p := perplexity(fmoefy.Options{ExpertWeights: storage}); p > most*dense || p < dense/most {
			t.Errorf("%s: perplexity %v, in float32 %v", storage, p, dense)
		}
	}
}

func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	code := moerun.Execute(ctx, []string{"run", gpt, "--random"}, &stdout, &stderr)
	if code != cli.Interrupted || stderr.String() != "moerun run: interrupted\n" || stdout.Len() != 0 {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, &stdout, &stderr)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, c := range moerun.Commands {
		name := strings.TrimPrefix(c.Name, "moerun ")
		if code, stdout, _ := execute(t, name, "--help"); code != cli.Success || !strings.Contains(stdout, "Usage: "+c.Name) {
			t.Errorf("%s --help: exit code %d, stdout %q", name, code, stdout)
		}
	}
	if code, stdout, _ := execute(t, "version"); code != cli.Success || !strings.HasPrefix(stdout, "moerun ") {
		t.Errorf("version: exit code %d, stdout %q", code, stdout)
	}
}
