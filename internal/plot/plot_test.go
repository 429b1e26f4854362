package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image/color"
	"image/png"
	"io"
	"math"
	"strings"
	"testing"
)

func example() Heatmap {
	return Heatmap{Title: "Load & more", Subtitle: "a <b>", RowTitle: "layer", ColumnTitle: "expert", Rows: []string{"0", "1"}, Columns: []string{"0", "1", "2"},
		Values: [][]float64{{0, 0.5, 1}, {math.NaN(), 0.25}}, Most: 1, Format: func(x float64) string { return fmt.Sprintf("%.2f", x) },
		Beside: []Column{{Title: "CV", Cells: []string{"0.1", "0.2"}}}}
}

// TestPNG: the colours of cells are those of their numbers.
func TestPNG(t *testing.T) {
	p := Draw(example())
	var file bytes.Buffer
	if err := p.WritePNG(&file); err != nil {
		t.Fatal(err)
	}
	m, err := png.Decode(&file)
	if err != nil {
		t.Fatal(err)
	}
	if m.Bounds().Dx() != int(math.Round(2*p.width)) || m.Bounds().Dy() != int(math.Round(2*p.height)) {
		t.Errorf("%v for a picture of %v × %v points", m.Bounds(), p.width, p.height)
	}
	for i, want := range []color.RGBA{scale[0], scale[2], scale[4], missing, scale[1]} {
		r := p.rectangles[i]
		at := m.At(int(2*(r.x+3)), int(2*(r.y+3)))
		if got := color.RGBAModel.Convert(at); got != want {
			t.Errorf("cell %d is %v, want %v", i, got, want)
		}
	}
	dark := 0 // pixels of text
	for x := range m.Bounds().Dx() {
		for y := range m.Bounds().Dy() {
			if r, _, _, _ := m.At(x, y).RGBA(); r < 0x4000 {
				dark++
			}
		}
	}
	if dark < 1000 {
		t.Errorf("%d dark pixels: there is no text", dark)
	}
}

// TestSVG: what is drawn is there, and nothing of a name is markup.
func TestSVG(t *testing.T) {
	h := example()
	h.Rows[1] = "\x00\"&"
	var file bytes.Buffer
	if err := Draw(h, h).WriteSVG(&file); err != nil {
		t.Fatal(err)
	}
	var texts []string
	rectangles := 0
	for d := xml.NewDecoder(&file); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			if x.Name.Local == "rect" {
				rectangles++
			}
		case xml.CharData:
			if s := strings.TrimSpace(string(x)); s != "" {
				texts = append(texts, s)
			}
		}
	}
	all := strings.Join(texts, "|")
	for _, want := range []string{"Load & more", "a <b>", "layer", "expert", "0.50", "CV|0.1|0.2", "\uFFFD\"&"} {
		if strings.Count(all, want) < 2 {
			t.Errorf("%q is not there twice in %q", want, all)
		}
	}
	if want := 1 + 2*(5+40); rectangles != want {
		t.Errorf("%d rectangles, want %d", rectangles, want)
	}
}

// TestSizes: matrices of all sizes are drawn, those that are too large not as
// pixels.
func TestSizes(t *testing.T) {
	for _, test := range []struct {
		rows, columns int
		fits          bool
	}{{0, 0, true}, {1, 1, true}, {60, 256, true}, {3, 60000, false}} {
		h := Heatmap{Rows: make([]string, test.rows), Columns: make([]string, test.columns), Values: make([][]float64, test.rows)}
		for i := range h.Values {
			h.Values[i] = make([]float64, test.columns)
		}
		p := Draw(h)
		if err := p.WritePNG(io.Discard); (err == nil) != test.fits {
			t.Errorf("%d × %d: %v", test.rows, test.columns, err)
		}
		if err := p.WriteSVG(io.Discard); err != nil {
			t.Errorf("%d × %d: %v", test.rows, test.columns, err)
		}
	}
}
