package report

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/runtime/routing"
)

var nan = Number(math.NaN())

// testRun has lines and letters that JSON, HTML and others write otherwise.
var testRun = Run{Model: "moe.onnx", Parameters: 12345678, Steps: 300, Config: "model: moe.onnx\ntext: \"<a & b>\"\n", Machine: "2 × CPU", Version: "v1",
	Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}

// testStep makes records of a run with layers of so many experts, which
// depend on the step alone. Step 7 is one that was skipped.
func testStep(step int64, experts ...int) Step {
	x := float64(step)
	s := Step{Step: step, Tokens: 1024 * step, Loss: Number(1.5 + 3*math.Exp(-x/100) + 0.1*math.Sin(7*x)), BalanceLoss: Number(1 + 1/x), ZLoss: Number(2 + 1/x),
		GradientNorm: Number(1 + math.Cos(x)/2), LearningRates: map[string]Number{"weights": Number(1e-3 * min(x/100, 1)), "router": 1e-4},
		TokensPerSecond: Number(9000 + 500*math.Sin(x/9)), Memory: 1 << 28, Seconds: Number(x / 9)}
	s.Total = s.Loss + 0.01*s.BalanceLoss
	for i, n := range experts {
		rows := make([]int64, n)
		for e := range rows {
			rows[e] = int64(100 + 90*math.Sin(float64(e+i)+x/50)*math.Exp(-x/200))
		}
		s.Layers = append(s.Layers, Layer{Name: fmt.Sprintf("/h.%d/mlp/FMoE", i), Balance: routing.BalanceOf(rows, int64(110*n)),
			BalanceLoss: s.BalanceLoss / Number(len(experts)), ZLoss: s.ZLoss / Number(len(experts))})
	}
	if step >= 7 {
		s.Skipped = 1
	}
	if step == 7 {
		s.Loss, s.Total, s.GradientNorm = nan, nan, Number(math.Inf(1))
	}
	return s
}

func testEvaluation(step int64) Evaluation {
	loss := 1.6 + 3*math.Exp(-float64(step)/100)
	return Evaluation{Step: step, Loss: Number(loss), Perplexity: Number(math.Exp(loss)), Tokens: 4096}
}

// write gives a sink the records of steps after one, up to another, with an
// evaluation every 10 steps.
func write(t *testing.T, s Sink, after, last int64, experts ...int) {
	t.Helper()
	for step := after + 1; step <= last; step++ {
		if err := s.Step(testStep(step, experts...)); err != nil {
			t.Fatal(err)
		}
		if step%10 == 0 {
			if err := s.Evaluation(testEvaluation(step)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// newLog writes the log of a run and returns its path and text.
func newLog(t *testing.T, steps int64, experts ...int) (path, text string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log.jsonl")
	l, err := CreateLog(path, testRun)
	if err != nil {
		t.Fatal(err)
	}
	write(t, l, 0, steps, experts...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path, contents(t, path)
}

func contents(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLog: what is read is what was written, but for what JSON does not have.
func TestLog(t *testing.T) {
	path, text := newLog(t, 20, 4, 1)
	if _, err := CreateLog(path, testRun); err == nil || !strings.Contains(err.Error(), "another run") {
		t.Errorf("a second run in the same file: %v", err)
	}
	if want := `{"record":"run","model":"moe.onnx",`; !strings.HasPrefix(text, want) {
		t.Errorf("the log begins with %.50s, not with %s", text, want)
	}
	if want := `{"record":"step","step":7,"tokens":7168,"loss":null,`; !strings.Contains(text, want) {
		t.Errorf("there is no line %s…", want)
	}
	var got []Record
	for r, err := range ReadLog(strings.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if len(got) != 1+20+2 || *got[0].Run != testRun || *got[11].Evaluation != testEvaluation(10) {
		t.Fatalf("%d records, the first %+v, the twelfth %+v", len(got), got[0], got[11])
	}
	for i, step := range map[int]int64{1: 1, 12: 11, 21: 20} {
		if want := testStep(step, 4, 1); !reflect.DeepEqual(*got[i].Step, want) {
			t.Errorf("step %d is %+v, want %+v", step, *got[i].Step, want)
		}
	}
	if s := got[7].Step; !math.IsNaN(float64(s.Loss)) || !math.IsNaN(float64(s.GradientNorm)) {
		t.Errorf("the step that was skipped has a loss of %v and a norm of %v", s.Loss, s.GradientNorm)
	}
}

// TestResumeLog: the log of a resumed run equals that of an uninterrupted one,
// wherever the run was killed.
func TestResumeLog(t *testing.T) {
	_, want := newLog(t, 30, 3)
	for _, killed := range []int{0, 1, 100, len(want) / 2, len(want)/2 + 1, len(want) - 1, len(want)} {
		for _, step := range []int64{0, 1, 9, 10, 30} {
			path := filepath.Join(t.TempDir(), "log.jsonl")
			if err := os.WriteFile(path, []byte(want[:killed]), 0o644); err != nil {
				t.Fatal(err)
			}
			again := testRun
			again.Started = again.Started.Add(time.Hour)
			l, err := ResumeLog(path, again, step)
			if err != nil {
				t.Fatal(err)
			}
			whole := killed > 0 && strings.Count(want[:killed], "\n") > int(step+step/10)
			write(t, l, step, 30, 3)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, path); whole && got != want {
				t.Errorf("killed after %d bytes and resumed after step %d, the log is\n%s", killed, step, got)
			}
			for _, err := range ReadLog(strings.NewReader(contents(t, path))) {
				if err != nil {
					t.Errorf("killed after %d bytes and resumed after step %d: %v", killed, step, err)
				}
			}
		}
	}
}

// TestResumeLogAsAnother: what changed about the run is in the log.
func TestResumeLogAsAnother(t *testing.T) {
	path, text := newLog(t, 5)
	longer := testRun
	longer.Steps = 1000
	l, err := ResumeLog(path, longer, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if added := strings.TrimPrefix(contents(t, path), text); !strings.HasPrefix(added, `{"record":"run"`) || !strings.Contains(added, `"steps":1000`) {
		t.Errorf("added %q", added)
	}
}

func TestDamagedLog(t *testing.T) {
	_, text := newLog(t, 5)
	all := strings.SplitAfter(text, "\n")
	tests := []struct {
		name, text string
		records    int
		err        string
	}{
		{"empty", "", 0, ""},
		{"torn", text[:len(text)-2], 5, ""},
		{"last line not written", text + "\x00\x00\n", 6, ""},
		{"another kind", all[0] + `{"record":"note","step":[]}` + "\n" + all[1], 2, ""},
		{"line in the middle", all[0] + all[1] + "{\n" + all[2], 2, "line 3 is damaged"},
		{"wrong type", all[0] + `{"record":"step","step":"x"}` + "\n" + all[1], 1, "line 2 is damaged"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			records, text := 0, ""
			for _, err := range ReadLog(strings.NewReader(test.text)) {
				if err != nil {
					text = err.Error()
					break
				}
				records++
			}
			if records != test.records || !strings.Contains(text, test.err) || (text == "") != (test.err == "") {
				t.Errorf("%d records and error %q, want %d and %q", records, text, test.records, test.err)
			}
			path := filepath.Join(t.TempDir(), "log.jsonl")
			if err := os.WriteFile(path, []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			l, err := ResumeLog(path, testRun, 5)
			if err == nil {
				err = l.Close()
			} else if contents(t, path) != test.text {
				t.Error("a damaged log was changed")
			}
			if (err == nil) != (test.err == "") {
				t.Errorf("resuming: %v", err)
			}
		})
	}
}

func TestSinks(t *testing.T) {
	a, err := CreateLog(filepath.Join(t.TempDir(), "a"), testRun)
	if err != nil {
		t.Fatal(err)
	}
	b, err := CreateLog(filepath.Join(t.TempDir(), "b"), testRun)
	if err != nil {
		t.Fatal(err)
	}
	write(t, Sinks{a, b}, 0, 10)
	if a, b := contents(t, a.path), contents(t, b.path); a != b || strings.Count(a, "\n") != 12 {
		t.Errorf("the logs are\n%s\nand\n%s", a, b)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := (Sinks{a, b}).Step(testStep(11)); err == nil {
		t.Error("a sink that is closed takes a step")
	}
	if text := contents(t, b.path); strings.Count(text, "\n") != 13 {
		t.Error("the sink behind one that failed has no step")
	}
}
