package plot

import (
	"bytes"
	"encoding/xml"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		name      string
		log, zero bool
		numbers   []float64
		want      string
	}{
		{"losses", false, false, []float64{1.52, 4.61, math.NaN(), math.Inf(1)}, "2 3 4"},
		{"from zero", false, true, []float64{8000, 9500}, "0 2000 4000 6000 8000"},
		{"one number", false, false, []float64{5}, "4.6 4.8 5 5.2 5.4"},
		{"zeros", false, true, []float64{0, 0}, "0 0.2 0.4 0.6 0.8 1"},
		{"zeros in the middle", false, false, []float64{0}, "-1 -0.5 0 0.5 1"},
		{"equal but for rounding", false, false, []float64{1, 1 + 1e-15}, "0.9 0.95 1 1.05 1.1"},
		{"below zero", false, false, []float64{-3, 4}, "-2 0 2 4"},
		{"small", false, true, []float64{3e-4}, "0 0.0001 0.0002 0.0003"},
		{"millions", false, true, []float64{4e6}, "0 1M 2M 3M 4M"},
		{"thousands", false, true, []float64{2e4}, "0 5k 10k 15k 20k"},
		{"huge", false, false, []float64{-1e149, 1e149}, "-1e+149 -5e+148 0 5e+148 1e+149"},
		{"too large", false, false, []float64{2, math.MaxFloat64}, "1.8 1.9 2 2.1 2.2"},
		{"powers", true, false, []float64{0.02, 3000, 0, -1}, "0.1 1 10 100 1000"},
		{"a few powers", true, false, []float64{0.5, 9}, "0.5 1 2 5 10"},
		{"hardly powers", true, false, []float64{1, 2}, "1 1.5 2"},
		{"very many powers", true, false, []float64{1e-140, 1e140}, "1e-92 1e-32 1e+28 1e+88 1e+148"},
	} {
		a, ok := newAxis(test.log, test.zero, 0.04, test.numbers)
		if got := strings.Join(labels(a.ticks(5)), " "); !ok || got != test.want {
			t.Errorf("%s: ticks %s from %v to %v, want %s", test.name, got, a.low, a.high, test.want)
		}
		for _, x := range test.numbers {
			if at := a.at(x); a.has(x) && !(at >= 0 && at <= 1) {
				t.Errorf("%s: %v is at %v", test.name, x, at)
			}
		}
	}
	if _, ok := newAxis(false, false, 0, []float64{math.NaN()}, nil); ok {
		t.Error("nothing has an axis")
	}
}

// figure returns the attributes of each element of a figure, by its name.
func figure(t *testing.T, text string) map[string][]map[string]string {
	t.Helper()
	elements := map[string][]map[string]string{}
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if token == nil {
			return elements
		}
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if e, ok := token.(xml.StartElement); ok {
			attributes := map[string]string{}
			for _, a := range e.Attr {
				attributes[a.Name.Local] = a.Value
			}
			elements[e.Name.Local] = append(elements[e.Name.Local], attributes)
		}
	}
}

func TestLines(t *testing.T) {
	nan := math.NaN()
	l := Lines{Title: "Loss & more", X: "step", Lines: []Line{
		{Name: "a <b>", X: []float64{0, 1, 2, 3, 4, 5}, Y: []float64{0, 10, nan, 5, nan, 10}, Kind: Plain, Colour: Series(0)},
		{Name: "dots", X: []float64{0, 5}, Y: []float64{5, 5}, Kind: Dots, Colour: Series(1)},
		{Name: "range", X: []float64{0, 1, 2, 3}, Low: []float64{0, 1, nan, 1}, High: []float64{9, 8, 9, 9}, Kind: Band, Colour: Series(2)},
		{Name: "nothing", X: []float64{0}, Y: []float64{nan}, Kind: Plain, Dash: 4},
	}}
	var out bytes.Buffer
	if err := l.WriteHTML(&out); err != nil {
		t.Fatal(err)
	}
	elements := figure(t, out.String())
	var paths []string
	for _, p := range elements["path"] {
		if p["data-name"] != "" || strings.HasPrefix(p["class"], "band") && p["d"] != "" {
			paths = append(paths, p["data-name"]+" "+p["d"])
		}
	}
	// From 23.2 to 588 across, down from 8, above 10, to 214, below 0.
	want := []string{
		"a <b> M23.2 206.37L136.16 15.63M362.08 111L362.08 111M588 15.63L588 15.63",
		"dots M23.2 111L23.2 111M588 111L588 111",
		" M23.2 34.7L136.16 53.78L136.16 187.3L23.2 206.37Z",
	}
	if !slices.Equal(paths, want) {
		t.Errorf("the lines are\n%s\nwant\n%s", strings.Join(paths, "\n"), strings.Join(want, "\n"))
	}
	if svg := elements["svg"][len(elements["svg"])-1]; svg["aria-label"] != "Loss & more" || svg["data-range"] != "0 5 -0.4 10.4" {
		t.Errorf("the picture has %v", svg)
	}
	if n := len(elements["span"]); n != 4 {
		t.Errorf("the legend has %d names", n)
	}
	l.Lines = l.Lines[3:]
	out.Reset()
	if err := l.WriteHTML(&out); err != nil || !strings.Contains(out.String(), "no numbers") {
		t.Errorf("a plot of nothing is %s, %v", &out, err)
	}
}

// TestManyLines: lines in an order have a legend of the first and the last.
func TestManyLines(t *testing.T) {
	var l Lines
	for i := range 20 {
		l.Lines = append(l.Lines, Line{Name: "layer " + string(rune('a'+i)), X: []float64{1, 2}, Y: []float64{0, float64(i)}, Kind: Plain, Colour: Order(i, 20)})
	}
	var out bytes.Buffer
	if err := l.WriteHTML(&out); err != nil {
		t.Fatal(err)
	}
	legend, _, _ := strings.Cut(out.String(), "</div>")
	if strings.Count(legend, "layer ") != 2 || strings.Count(legend, "<rect") != orderLevels {
		t.Errorf("the legend is %s", legend)
	}
	if Order(0, 20) != "o0" || Order(19, 20) != "o15" || Order(0, 1) != "o0" {
		t.Error("the first and the last have not the first and the last colour")
	}
}

func TestCells(t *testing.T) {
	h := example() // 0, 0.5, 1; not a number, 0.25
	h.Rows[0] = `"<0>`
	var out bytes.Buffer
	if err := h.WriteHTML(&out, true); err != nil {
		t.Fatal(err)
	}
	elements := figure(t, out.String())
	var cells []string
	for _, p := range elements["path"] {
		cells = append(cells, p["class"]+" "+p["d"])
	}
	if want := []string{"h0 M0 0h1", "h10 M1 0h1", "h20 M2 0h1", "hn M0 1h1", "h5 M1 1h1"}; !slices.Equal(cells, want) {
		t.Errorf("the cells are %q, want %q", cells, want)
	}
	if svg := elements["svg"][1]; svg["data-values"] != "0 0.5 1;- 0.25" || svg["data-rows"] != "\"<0>\n1" || svg["data-columns"] != "0\n1\n2" {
		t.Errorf("the picture has %v", svg)
	}
	for _, want := range []string{`class="out">0.00<`, `class="in">0.50<`, `class="out">1.00<`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no cell has %s", want)
		}
	}
	out.Reset()
	if err := (&Heatmap{Title: "none"}).WriteHTML(&out, false); err != nil || !strings.Contains(out.String(), "no numbers") {
		t.Errorf("a map of nothing is %s, %v", &out, err)
	}
}

// TestStyle: all colours that plots use are there, light and dark.
func TestStyle(t *testing.T) {
	style := Style()
	for class, times := range map[string]int{".h0 ": 2, ".h20 ": 2, ".hn ": 2, ".o0 ": 2, ".o15 ": 2, ".s5 ": 1, "--s5: #": 2} {
		if n := strings.Count(style, class); n != times {
			t.Errorf("%q is there %d times, want %d", class, n, times)
		}
	}
	if open, closed := strings.Count(style, "{"), strings.Count(style, "}"); open != closed {
		t.Errorf("%d braces open, %d closed", open, closed)
	}
}
