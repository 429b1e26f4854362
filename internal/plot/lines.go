package plot

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Lines are a plot of numbers over steps, for a page.
type Lines struct {
	Title    string
	Subtitle string
	X        string // what the horizontal axis counts
	Wide     bool   // as wide as two others
	Log      bool   // the vertical axis is logarithmic
	Zero     bool   // it begins at 0
	Lines    []Line
}

// Line is one of a plot. Where Y is not a number it has a gap.
type Line struct {
	Name      string
	X, Y      []float64 // equally many
	Low, High []float64 // of a Band, instead of Y
	Kind      Kind
	Colour    Colour
	Dash      int  // 0 is a line without gaps; three more
	Unnamed   bool // not in the legend
}

// Kind says how a line is drawn.
type Kind string

const (
	Plain Kind = "line"
	Bold  Kind = "line bold"
	Thin  Kind = "line thin"
	Dots  Kind = "dots" // at the points, with no line
	Band  Kind = "band" // what is between Low and High
)

// Colour is one of a page's.
type Colour string

const seriesColours = 6

// Series returns the colour of one of several lines.
func Series(i int) Colour { return Colour(fmt.Sprintf("s%d", i%seriesColours)) }

// Order returns the colour of line i of n that have an order.
func Order(i, n int) Colour {
	return Colour(fmt.Sprintf("o%d", i*(orderLevels-1)/max(n-1, 1)))
}

// Lengths in a picture of lines.
const (
	linesWidth  = 600.0
	wideWidth   = 1220.0
	linesHeight = 250.0
	wideHeight  = 320.0
	topRoom     = 8.0
	bottomRoom  = 36.0
	rightRoom   = 12.0
	legendNames = 8 // more lines than these have a legend of the first and the last
)

// WriteHTML writes the plot as a figure with a picture in SVG, whose style is
// that of the page.
func (l *Lines) WriteHTML(w io.Writer) error {
	var m markup
	m.printf(`<figure class="plot%s">`, map[bool]string{true: " wide"}[l.Wide])
	m.caption(l.Title, l.Subtitle)
	l.legend(&m)
	width, height := linesWidth, linesHeight
	if l.Wide {
		width, height = wideWidth, wideHeight
	}
	var xs, ys [][]float64
	for _, line := range l.Lines {
		xs, ys = append(xs, line.X), append(ys, line.Y, line.Low, line.High)
	}
	x, ok := newAxis(false, false, 0, xs...)
	y, some := newAxis(l.Log, l.Zero, 0.04, ys...)
	if !ok || !some {
		return m.nothing(w, width, l.Title, l.Subtitle)
	}
	yTicks := y.ticks(5)
	yLabels := labels(yTicks)
	f := frame{x: x, y: y, x0: labelsWidth(yLabels) + 10, x1: width - rightRoom, y0: topRoom, y1: height - bottomRoom}
	m.printf(`<svg class="picture lines" viewBox="0 0 %g %g" role="img" aria-label="%s" data-x="%s" data-box="%s %s %s %s" data-range="%g %g %g %g" data-log="%d">`,
		width, height, spoken(l.Title, l.Subtitle), html.EscapeString(l.X), place(f.x0), place(f.x1), place(f.y0), place(f.y1),
		x.low, x.high, y.low, y.high, map[bool]int{true: 1}[l.Log])
	f.grid(&m, l.X, yTicks, yLabels)
	for _, line := range l.Lines {
		f.line(&m, line)
	}
	m.printf(`<line class="cross" x1="0" x2="0" y1="%s" y2="%s"/></svg></figure>`+"\n", place(f.y0), place(f.y1))
	_, err := io.WriteString(w, m.String())
	return err
}

// legend writes the names of the lines; of many that have an order the first
// and the last.
func (l *Lines) legend(m *markup) {
	var named []Line
	for _, line := range l.Lines {
		if !line.Unnamed {
			named = append(named, line)
		}
	}
	m.printf(`<div class="legend">`)
	if len(named) > legendNames {
		first, last := named[0], named[len(named)-1]
		m.printf(`<span>%s <svg style="width:96px" aria-hidden="true">`, html.EscapeString(first.Name))
		for i := range orderLevels {
			m.printf(`<rect class="key o%d" x="%d" width="6.3" height="10"/>`, i, 6*i)
		}
		m.printf(`</svg>%s</span>`, html.EscapeString(last.Name))
		named = nil
	}
	for _, line := range named {
		mark := fmt.Sprintf(`<path class="%s" d="M0 5H22"/>`, line.class())
		switch line.Kind {
		case Dots:
			mark = fmt.Sprintf(`<path class="%s" d="M11 5h0"/>`, line.class())
		case Band:
			mark = fmt.Sprintf(`<rect class="%s" width="22" height="10"/>`, line.class())
		}
		m.printf(`<span><svg aria-hidden="true">%s</svg>%s</span>`, mark, html.EscapeString(line.Name))
	}
	m.printf("</div>\n")
}

func (l Line) class() string {
	class := string(l.Kind) + " " + string(l.Colour)
	if l.Dash > 0 {
		class += fmt.Sprintf(" d%d", 1+(l.Dash-1)%3)
	}
	return class
}

// frame is where a plot's axes are in its picture.
type frame struct {
	x, y           axis
	x0, x1, y0, y1 float64
}

func (f *frame) left(x float64) float64 { return f.x0 + f.x.at(x)*(f.x1-f.x0) }
func (f *frame) top(y float64) float64  { return f.y1 - f.y.at(y)*(f.y1-f.y0) }

// grid draws the axes.
func (f *frame) grid(m *markup, title string, ticks []float64, names []string) {
	m.printf(`<path class="grid" d="`)
	for _, y := range ticks {
		m.printf("M%s %sH%s", place(f.x0), place(f.top(y)), place(f.x1))
	}
	m.printf(`"/>`)
	for i, y := range ticks {
		m.text(f.x0-8, f.top(y)+4, "a", names[i])
	}
	across := f.x.ticks(int((f.x1 - f.x0) / 80))
	for i, s := range labels(across) {
		if across[i] == math.Trunc(across[i]) {
			m.text(f.left(across[i]), f.y1+17, "m", s)
		}
	}
	m.text((f.x0+f.x1)/2, f.y1+33, "m", title)
}

// line draws a line, whose data the page's script reads from its path.
func (f *frame) line(m *markup, l Line) {
	if l.Kind == Band {
		f.band(m, l)
		return
	}
	var path strings.Builder
	gap := true
	for i, y := range l.Y {
		if !f.x.has(l.X[i]) || !f.y.has(y) {
			gap = true
			continue
		}
		at := place(f.left(l.X[i])) + " " + place(f.top(y))
		if gap || l.Kind == Dots {
			path.WriteString("M" + at)
		}
		// A point between gaps is a line to itself, which is drawn as a dot.
		if last := i+1 == len(l.Y) || !f.y.has(l.Y[i+1]); !gap || last || l.Kind == Dots {
			path.WriteString("L" + at)
		}
		gap = false
	}
	if path.Len() == 0 {
		return
	}
	m.printf(`<path class="%s" data-name="%s" data-colour="%s" d="%s"/>`, l.class(), html.EscapeString(l.Name), l.Colour, path.String())
}

// band draws what is between two lines, a piece between gaps at a time.
func (f *frame) band(m *markup, l Line) {
	var path strings.Builder
	known := func(i int) bool { return f.x.has(l.X[i]) && f.y.has(l.Low[i]) && f.y.has(l.High[i]) }
	for i := 0; i < len(l.X); i++ {
		first := i
		for i < len(l.X) && known(i) {
			i++
		}
		if i-first < 2 {
			continue
		}
		for j := first; j < i; j++ {
			path.WriteString(map[bool]string{true: "M", false: "L"}[j == first] + place(f.left(l.X[j])) + " " + place(f.top(l.High[j])))
		}
		for j := i - 1; j >= first; j-- {
			path.WriteString("L" + place(f.left(l.X[j])) + " " + place(f.top(l.Low[j])))
		}
		path.WriteString("Z")
	}
	if path.Len() > 0 {
		m.printf(`<path class="%s" d="%s"/>`, l.class(), path.String())
	}
}
