package report

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/runtime/routing"
)

// eventFiles returns the contents of the files in a directory.
func eventFiles(t *testing.T, dir string) (files []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		files = append(files, contents(t, path))
	}
	return files
}

// TestTensorBoard compares an event file with one that TensorBoard's own
// package wrote (testdata/events.py). What is not known is in neither.
func TestTensorBoard(t *testing.T) {
	want, err := os.ReadFile("testdata/events.reference")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new", "events")
	b, err := NewTensorBoard(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.file.cut(0); err != nil {
		t.Fatal(err)
	}
	b.now = func() time.Time { return time.UnixMicro(1767323045250000) }
	if err := b.begin(299); err != nil {
		t.Fatal(err)
	}
	layer := Layer{Name: "/h.0/mlp/FMoE", Balance: routing.BalanceOf([]int64{40, 20, 20, 0}, 85), BalanceLoss: 1.25, ZLoss: 3.5}
	other := layer
	other.Name, other.BalanceLoss = "/h.1/mlp/FMoE", 0
	s := Step{Step: 300, Tokens: 300000, Loss: 2.75, BalanceLoss: 1.25, ZLoss: 7, Total: 2.8, GradientNorm: Number(math.Inf(1)),
		LearningRates: map[string]Number{"weights": 1e-3, "router": 1e-4}, Skipped: 2, TokensPerSecond: 12345, Memory: 1 << 30, Layers: []Layer{layer, other}}
	if err := b.Step(s); err != nil {
		t.Fatal(err)
	}
	if err := b.Evaluation(Evaluation{Step: 300, Loss: 2.5, Perplexity: 12.1825}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := []byte(eventFiles(t, dir)[0]); !bytes.Equal(got, want) {
		t.Errorf("the file is\n%q\nand not\n%q", got, want)
	}
}

// TestTensorBoardResumes: each run has a file of its own, the later one behind
// the earlier, whatever the clock says.
func TestTensorBoardResumes(t *testing.T) {
	dir := t.TempDir()
	later := filepath.Join(dir, eventsPrefix+"2000000000.other")
	if err := os.WriteFile(later, []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, step := range []int64{0, 10} {
		b, err := NewTensorBoard(dir, step)
		if err != nil {
			t.Fatal(err)
		}
		write(t, b, step, 20, 4)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files := eventFiles(t, dir)
	if len(files) != 3 || files[0] != "other" || len(files[1]) < len(files[2]) {
		t.Errorf("%d files", len(files))
	}
	if kept := os.Getenv("REPORT_EVENTS"); kept != "" { // to look at them with testdata/events.py
		if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
}
