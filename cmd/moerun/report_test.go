package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/routing"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

// trainingLog writes the log of a run of two steps.
func trainingLog(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.jsonl")
	l, err := report.CreateLog(path, report.Run{Model: "moe.onnx", Steps: 1000})
	if err != nil {
		t.Fatal(err)
	}
	layer := report.Layer{Name: "h.0.mlp", Balance: routing.BalanceOf([]int64{40, 20, 20, 0}, 85), BalanceLoss: 1.25}
	for step := range int64(2) {
		if err := l.Step(report.Step{Step: step + 1, Tokens: 1024 * (step + 1), Loss: report.Number(3 - step), Layers: []report.Layer{layer}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Evaluation(report.Evaluation{Step: 2, Loss: 2.5, Perplexity: 12.1825}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReport(t *testing.T) {
	log := trainingLog(t)
	page := strings.TrimSuffix(log, ".jsonl") + ".html"
	code, stdout, stderr := execute(t, "report", log)
	want := `step 2 of 1,000, 2,048 tokens: loss 2.0000, held-out loss 2.5000, perplexity 12.182
FMoE layers h.0.mlp
layer  experts  dropped  entropy     CV  balance      z  load
0            4    5.9 %    0.750  0.707    1.250  0.000  █▄▄·
load: ▄ an even share, █ twice that or more, · nothing
wrote ` + page + "\n"
	if code != cli.Success || stderr != "" || stdout != want {
		t.Errorf("exit code %d, stderr %q, got\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "Training of moe.onnx") {
		t.Errorf("the page is %.200s, %v", text, err)
	}
	var result reportResult
	succeed(t, &result, "report", log, "-o", filepath.Join(t.TempDir(), "other.html"), "--json")
	if result.Step.Step != 2 || result.Step.Layers[0].Dropped.Percent() != "5.9 %" || result.Best.Step != 2 || filepath.Base(result.Page) != "other.html" {
		t.Errorf("got %+v", result)
	}
}

func TestReportRefuses(t *testing.T) {
	log := trainingLog(t)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{log, "-o", log}, cli.Misuse, "would replace the log"},
		{[]string{gptText}, cli.Failure, "line 1 is damaged"},
		{[]string{log, "-o", filepath.Join(t.TempDir(), "none", "page.html")}, cli.Failure, "none"},
	} {
		if code, _, stderr := execute(t, append([]string{"report"}, test.args...)...); code != test.code || !strings.Contains(stderr, test.want) {
			t.Errorf("%v: exit code %d, stderr %q", test.args, code, stderr)
		}
	}
	if after, err := os.ReadFile(log); err != nil || string(after) != string(text) {
		t.Errorf("the log changed: %v", err)
	}
}
