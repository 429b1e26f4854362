package plot

import (
	_ "embed"
	"fmt"
	"html"
	"image/color"
	"io"
	"math"
	"strconv"
	"strings"
)

//go:embed page.css
var pageStyle string

// Script is the JavaScript that shows the numbers of a page's plots under the
// pointer. It belongs at the end of the page's body.
//
//go:embed page.js
var Script string

// The colours of a page, light and dark: those of cells from 0 over what is
// neutral to the largest number, and those of lines in an order.
var (
	cellColours = [2][]color.RGBA{
		{{0x1b, 0x6c, 0xa8, 255}, {0x9c, 0xc4, 0xdf, 255}, {0xf1, 0xf1, 0xee, 255}, {0xf2, 0xb2, 0x7c, 255}, {0xc2, 0x4a, 0x06, 255}},
		{{0x5c, 0xb8, 0xea, 255}, {0x33, 0x6a, 0x8a, 255}, {0x2a, 0x2f, 0x35, 255}, {0x9a, 0x58, 0x26, 255}, {0xff, 0x9a, 0x4d, 255}},
	}
	orderColours = [2][]color.RGBA{
		{{0x1f, 0x4e, 0x9e, 255}, {0x80, 0x42, 0xa6, 255}, {0xcf, 0x45, 0x63, 255}, {0xdb, 0x8a, 0x14, 255}},
		{{0x6f, 0xa8, 0xff, 255}, {0xbf, 0x8d, 0xf2, 255}, {0xff, 0x88, 0x96, 255}, {0xff, 0xc7, 0x5c, 255}},
	}
	missingColours = [2]color.RGBA{{0xdd, 0xdf, 0xe2, 255}, {0x45, 0x4b, 0x52, 255}}
)

// How many colours a page has for cells and for lines in an order.
const (
	cellLevels  = 21
	orderLevels = 16
)

// Style returns the style sheet of a page with plots, in light and dark.
func Style() string {
	var b strings.Builder
	b.WriteString(pageStyle)
	for mode := range cellColours {
		if mode == 1 {
			b.WriteString("@media (prefers-color-scheme: dark) {\n")
		}
		for i := range cellLevels {
			fmt.Fprintf(&b, ".h%d { --c: %s }\n", i, hex(blend(cellColours[mode], float64(i)/(cellLevels-1))))
		}
		fmt.Fprintf(&b, ".hn { --c: %s }\n", hex(missingColours[mode]))
		for i := range orderLevels {
			fmt.Fprintf(&b, ".o%d { --c: %s }\n", i, hex(blend(orderColours[mode], float64(i)/(orderLevels-1))))
		}
	}
	b.WriteString("}\n")
	for i := range seriesColours {
		fmt.Fprintf(&b, ".s%d { --c: var(--s%d) }\n", i, i)
	}
	b.WriteString(".cells path { stroke: var(--c) }\n.key { fill: var(--c) }\n")
	return b.String()
}

// blend returns the colour at x from 0 to 1 between those of a scale.
func blend(scale []color.RGBA, x float64) color.RGBA {
	at := x * float64(len(scale)-1)
	i := min(int(at), len(scale)-2)
	mix := func(a, b uint8) uint8 {
		return uint8(math.Round(float64(a) + (at-float64(i))*(float64(b)-float64(a))))
	}
	a, b := scale[i], scale[i+1]
	return color.RGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 255}
}

// markup is HTML that is being written.
type markup struct{ strings.Builder }

func (m *markup) printf(format string, args ...any) { fmt.Fprintf(m, format, args...) }

// text writes a label at a place of a picture.
func (m *markup) text(x, y float64, class, s string) {
	m.printf(`<text x="%s" y="%s" class="%s">%s</text>`, place(x), place(y), class, html.EscapeString(s))
}

// caption writes what stands above a picture.
func (m *markup) caption(title, subtitle string) {
	m.printf(`<figcaption>%s`, html.EscapeString(title))
	if subtitle != "" {
		m.printf(`<small>%s</small>`, html.EscapeString(subtitle))
	}
	m.printf("</figcaption>\n")
}

// nothing ends a figure in which there is nothing to draw.
func (m *markup) nothing(w io.Writer, width float64, title, subtitle string) error {
	const height = 100
	m.printf(`<svg class="picture" viewBox="0 0 %g %d" role="img" aria-label="%s"><text x="%g" y="%d" class="none">no numbers</text></svg></figure>`+"\n",
		width, height, spoken(title, subtitle), width/2, height/2)
	_, err := io.WriteString(w, m.String())
	return err
}

// spoken returns what a picture is called where it is not seen.
func spoken(title, subtitle string) string {
	if subtitle != "" {
		title += ", " + subtitle
	}
	return html.EscapeString(title)
}

// place writes a coordinate.
func place(x float64) string { return strconv.FormatFloat(math.Round(x*100)/100, 'f', -1, 64) }

// letter is about how wide a letter of a label is.
const letter = 6.6

// labelsWidth returns how wide the longest of some labels is, about.
func labelsWidth(labels []string) float64 {
	n := 0
	for _, s := range labels {
		n = max(n, len([]rune(s)))
	}
	return letter * float64(n)
}
