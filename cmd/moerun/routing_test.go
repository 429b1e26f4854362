package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
)

// noisy is the trained sample with experts that differ.
func noisy(t *testing.T) string {
	return rewrite(t, gpt, fmoefy.Options{NumExperts: 8, TopK: 2, Init: fmoefy.Noise, NoiseScale: 0.05, Seed: 7})
}

// TestRoutingIsDeterministic: the same numbers to the last digit for any
// number of threads, and on a second run.
func TestRoutingIsDeterministic(t *testing.T) {
	path := noisy(t)
	for _, data := range [][]string{
		{"--text", gptText, "--max-tokens", "701"},
		{"--text", gptText, "--max-tokens", "301", "--training", "--step", "3", "--seed", "5"},
		{"--data", gptData, "--data", gptData},
		{"--random", "--dim", "batch=3,sequence=31"},
	} {
		want := ""
		for _, threads := range []string{"1", "2", "4", "2"} {
			args := append([]string{"routing", path, "--json", "--threads", threads}, data...)
			code, stdout, stderr := execute(t, args...)
			if code != cli.Success {
				t.Fatalf("%v: exit code %d, stderr %q", args, code, stderr)
			}
			if want == "" {
				want = stdout
			}
			if stdout != want {
				t.Errorf("%v: other numbers with %s threads:\n%s\nthan before:\n%s", data, threads, stdout, want)
			}
		}
	}
}

// TestRoutingCountsAllData: two directories count twice as much as one, and a
// text as many tokens as are predicted.
func TestRoutingCountsAllData(t *testing.T) {
	path := noisy(t)
	var once, twice, text routingResult
	succeed(t, &once, "routing", path, "--data", gptData, "--json")
	succeed(t, &twice, "routing", path, "--data", gptData, "--data", gptData, "--json")
	succeed(t, &text, "routing", path, "--text", gptText, "--max-tokens", "301", "--window", "100", "--json")
	if once.Routing.Runs != 1 || twice.Routing.Runs != 2 || text.Routing.Runs != 3 || len(once.Routing.Layers) != 6 {
		t.Fatalf("%d, %d and %d runs", once.Routing.Runs, twice.Routing.Runs, text.Routing.Runs)
	}
	for i, l := range once.Routing.Layers {
		other := twice.Routing.Layers[i]
		for e, n := range l.Rows {
			if other.Rows[e] != 2*n {
				t.Errorf("layer %d, expert %d: %d rows of the data once, %d twice", i, e, n, other.Rows[e])
			}
		}
		if l.Variation != other.Variation || other.Tokens != 2*l.Tokens || text.Routing.Layers[i].Tokens != 300 {
			t.Errorf("layer %d: %+v, twice %+v", i, l, other)
		}
	}
}

func TestRunShowsRouting(t *testing.T) {
	path := noisy(t)
	var plain, watched runResult
	succeed(t, &plain, "run", path, "--data", gptData, "--json")
	succeed(t, &watched, "run", path, "--data", gptData, "--routing-stats", "--json")
	if plain.Routing != nil || watched.Routing == nil || len(watched.Routing.Layers) != 6 {
		t.Fatalf("routing %v and %v", plain.Routing, watched.Routing)
	}
	a, _ := json.Marshal(plain.Outputs)
	b, _ := json.Marshal(watched.Outputs)
	if string(a) != string(b) {
		t.Errorf("outputs %s, without looking at routing %s", b, a)
	}
	code, stdout, stderr := execute(t, "run", path, "--data", gptData, "--routing-stats")
	for _, want := range []string{"output  logits", "layers language_model.encoder.layers.*.mlp.FMoE, 1 run\n", "2 of 8", "agreement"} {
		if code != cli.Success || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, stderr %q, no %q in\n%s", code, stderr, want, stdout)
		}
	}
}

func TestHeatmapFiles(t *testing.T) {
	path, dir := noisy(t), t.TempDir()
	for _, test := range []struct {
		heatmap string
		want    []string
	}{
		{"load.png", []string{"load.png"}},
		{"load.svg", []string{"load.svg"}},
		{"new", []string{"new/routing.png", "new/routing.svg"}},
		{"new", []string{"new/routing.png", "new/routing.svg"}},
	} {
		var result routingResult
		succeed(t, &result, "routing", path, "--data", gptData, "--heatmap", filepath.Join(dir, test.heatmap), "--json")
		for i, want := range test.want {
			if want = filepath.Join(dir, want); len(result.Files) != len(test.want) || result.Files[i] != want {
				t.Fatalf("wrote %v, want %v", result.Files, test.want)
			}
			checkPicture(t, want)
		}
	}
}

// checkPicture reads a picture as others do.
func checkPicture(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if filepath.Ext(path) == ".png" {
		if m, err := png.Decode(f); err != nil || m.Bounds().Dx() < 500 {
			t.Errorf("%s: %v, %v", path, m, err)
		}
		return
	}
	for d := xml.NewDecoder(f); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}
