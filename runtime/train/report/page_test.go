package report

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// newPage writes the page of a run and returns its path and text.
func newPage(t *testing.T, steps int64, experts ...int) (path, text string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "report.html")
	p := NewPage(path, testRun, time.Hour)
	write(t, p, 0, steps, experts...)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return path, contents(t, path)
}

var (
	linePath = regexp.MustCompile(`<path class="(?:line|dots|band)[^>]* d="([^"]*)"`)
	cellMap  = regexp.MustCompile(`(?s)data-values="([^"]*)">.*?class="cells">(.*?)</svg>`)
	cell     = regexp.MustCompile(`M\d+ \d+h1`)
	outside  = regexp.MustCompile(`(?:src|href)="|url\(|@import|https?:`)
)

// plots returns how many pictures a page has, and how many cells their heat
// maps have in all.
func plots(t *testing.T, page string) (lines, maps, cells int) {
	t.Helper()
	for _, m := range cellMap.FindAllStringSubmatch(page, -1) {
		values := len(strings.FieldsFunc(m[1], func(r rune) bool { return r == ' ' || r == ';' }))
		if drawn := len(cell.FindAllString(m[2], -1)); drawn != values || drawn == 0 {
			t.Errorf("a heat map has %d numbers and %d cells", values, drawn)
		}
		cells += values
	}
	for _, m := range linePath.FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(m[1], "M") || strings.ContainsAny(m[1], "NIn") {
			t.Errorf("a line is %.60q", m[1])
		}
	}
	return strings.Count(page, `class="picture lines"`), strings.Count(page, `class="picture heatmap"`), cells
}

func TestPage(t *testing.T) {
	for _, test := range []struct {
		name               string
		steps              int64
		experts            []int
		lines, maps, cells int
	}{
		{"mixture", 100, []int{8, 4}, 9, 3, 8 + 4 + 100*(8+4)},
		{"long", 1000, []int{8, 4}, 9, 3, 8 + 4 + 63*(8+4)},
		{"dense", 100, nil, 4, 0, 0},
		{"one step", 1, []int{2}, 9, 2, 2 + 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, page := newPage(t, test.steps, test.experts...)
			if lines, maps, cells := plots(t, page); lines != test.lines || maps != test.maps || cells != test.cells {
				t.Errorf("%d plots of lines and %d heat maps of %d cells, want %d, %d and %d", lines, maps, cells, test.lines, test.maps, test.cells)
			}
			for _, want := range []string{"<title>Training of moe.onnx</title>", "12,345,678 parameters", "&lt;a &amp; b&gt;"} {
				if !strings.Contains(page, want) {
					t.Errorf("there is no %q", want)
				}
			}
			for _, at := range outside.FindAllString(page, -1) {
				if at != `href="` || strings.Count(page, at) != 1 { // the icon, which is empty
					t.Errorf("the page takes something from outside: %s", at)
				}
			}
		})
	}
}

// TestPageOfNothing: a run that fails before its first step has a page, and so
// has one of which nothing is finite.
func TestPageOfNothing(t *testing.T) {
	if _, page := newPage(t, 0); !strings.Contains(page, "no numbers") {
		t.Error("a run without steps has numbers")
	}
	p := NewPage(filepath.Join(t.TempDir(), "report.html"), Run{}, 0)
	for _, x := range []float64{math.NaN(), math.Inf(1), -math.MaxFloat64, math.MaxFloat64} {
		n := Number(x)
		s := Step{Step: math.MaxInt64, Loss: n, BalanceLoss: n, ZLoss: n, Total: n, GradientNorm: n, TokensPerSecond: n, Seconds: n,
			LearningRates: map[string]Number{"": n}, Layers: []Layer{{Name: strings.Repeat("<", 1000), BalanceLoss: n, ZLoss: n}, {}}}
		s.Layers[0].Load = []Number{n}
		if err := errors.Join(p.Step(s), p.Evaluation(Evaluation{Loss: n, Perplexity: n})); err != nil {
			t.Fatal(err)
		}
	}
	plots(t, contents(t, p.path))
}

// TestFromLog: the page of a log equals that which the run wrote itself,
// whether it was resumed or not.
func TestFromLog(t *testing.T) {
	log, text := newLog(t, 60, 8, 8)
	_, want := newPage(t, 60, 8, 8)
	path := filepath.Join(t.TempDir(), "report.html")
	s, err := FromLog(log, path)
	if err != nil {
		t.Fatal(err)
	}
	if contents(t, path) != want {
		t.Error("the page of the log differs from that of the run")
	}
	if s.Run != testRun || s.Step.Step != 60 || *s.Evaluation != testEvaluation(60) || *s.Best != testEvaluation(60) {
		t.Errorf("the log ends with %+v", s)
	}
	p := NewPage(path, testRun, 0)
	half := strings.Index(text, `{"record":"step","step":31,`)
	if err := p.Read(strings.NewReader(text[:half])); err != nil {
		t.Fatal(err)
	}
	write(t, p, 30, 60, 8, 8)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if contents(t, path) != want {
		t.Error("the page of the resumed run differs")
	}
}

func TestFromLogRefuses(t *testing.T) {
	for name, text := range map[string]string{"no steps": `{"record":"run"}` + "\n", "is damaged": "{\n{\n"} {
		log := filepath.Join(t.TempDir(), "log.jsonl")
		if err := os.WriteFile(log, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := FromLog(log, log+".html"); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), log) {
			t.Errorf("%q: %v", text, err)
		}
		if _, err := os.Stat(log + ".html"); err == nil {
			t.Errorf("%q: there is a page", text)
		}
	}
	if _, err := FromLog(filepath.Join(t.TempDir(), "none"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
}

// TestPageSize: the page of any run is small, and so is what it is made from.
func TestPageSize(t *testing.T) {
	for _, test := range []struct {
		name            string
		steps           int64
		layers, experts int
	}{{"many steps", 1_000_000, 2, 4}, {"many layers", 500, 400, 8}, {"many experts", 500, 60, 256}} {
		t.Run(test.name, func(t *testing.T) {
			experts := make([]int, test.layers)
			for i := range experts {
				experts[i] = test.experts
			}
			h := newHistory()
			s := testStep(100, experts...)
			for step := range test.steps {
				s.Step, s.Loss = step, testStep(step+1).Loss
				h.step(s)
			}
			h.evaluation(testEvaluation(test.steps))
			var page bytes.Buffer
			if err := h.writePage(&page); err != nil {
				t.Fatal(err)
			}
			plots(t, page.String())
			if n := page.Len(); n > 2<<20 {
				t.Errorf("the page has %d bytes", n)
			}
		})
	}
}

// TestMemory: all sinks together need no more memory for more steps.
func TestMemory(t *testing.T) {
	dir := t.TempDir()
	l, err := CreateLog(filepath.Join(dir, "log.jsonl"), testRun)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewTensorBoard(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	var terminal bytes.Buffer
	p := NewProgress(&terminal, 4000, time.Hour)
	all := Sinks{l, b, p, NewPage(filepath.Join(dir, "report.html"), testRun, time.Hour)}
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	write(t, all, 0, 2000, 8, 8)
	before := inUse()
	write(t, all, 2000, 4000, 8, 8)
	if after := inUse(); after > before+1<<18 {
		t.Errorf("%d bytes after 2,000 steps, %d after 4,000", before, after)
	}
	if err := all.Close(); err != nil {
		t.Fatal(err)
	}
}

// FuzzLog reads anything as a log: it is refused, or there is a page of it.
func FuzzLog(f *testing.F) {
	for _, text := range []string{
		`{"record":"run","model":"<m>","steps":-5}` + "\n" + `{"record":"step","step":-1,"loss":1e999}` + "\n\n",
		`{"record":"step","step":1,"layers":[{"load":[1,null]},{"load":[]}],"learning_rates":{"a":null}}` + "\n" + `{"record":"step","step":9,"layers":[{"load":[1,2,3]}]}` + "\n",
		`{"record":"evaluation","loss":1e308,"perplexity":-1e308}` + "\n" + `{"record":"evaluation","loss":-1e308}` + "\n{",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		p := NewPage(filepath.Join(t.TempDir(), "report.html"), Run{}, 0)
		if err := p.Read(bytes.NewReader(log)); err != nil {
			return
		}
		if err := p.Write(); err != nil {
			t.Fatal(err)
		}
		plots(t, contents(t, p.path))
	})
}
