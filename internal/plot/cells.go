package plot

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Lengths in a picture of cells.
const (
	cellsWidth  = 600.0
	cellsHeight = 200.0
	leastRow    = 14.0 // so many points a row where there is room
	mostRow     = 26.0
	readable    = 11.0 // points between labels of rows
	roomForText = 34.0 // width of a cell that has its number
)

// WriteHTML writes the heat map as a figure with a picture in SVG, whose style
// is that of the page. Half of Most has the neutral colour, Most and more the
// strongest of one side, 0 that of the other.
func (h *Heatmap) WriteHTML(w io.Writer, wide bool) error {
	var m markup
	m.printf(`<figure class="plot%s">`, map[bool]string{true: " wide"}[wide])
	m.caption(h.Title, h.Subtitle)
	h.cellsLegend(&m)
	width := cellsWidth
	if wide {
		width = wideWidth
	}
	if len(h.Rows) == 0 || len(h.Columns) == 0 {
		return m.nothing(w, width, h.Title, h.Subtitle)
	}
	rows, columns := float64(len(h.Rows)), float64(len(h.Columns))
	height := min(max(cellsHeight, leastRow*min(rows, 24)), mostRow*rows)
	x0, x1 := max(labelsWidth(h.Rows), letter*float64(len(h.RowTitle)))+12, width-rightRoom
	y0, y1 := 18.0, 18+height
	m.printf(`<svg class="picture heatmap" viewBox="0 0 %g %s" role="img" aria-label="%s" data-row="%s" data-column="%s" data-box="%s %s %s %s" data-rows="%s" data-columns="%s" data-values="%s">`,
		width, place(y1+bottomRoom), spoken(h.Title, h.Subtitle), html.EscapeString(h.RowTitle), html.EscapeString(h.ColumnTitle),
		place(x0), place(x1), place(y0), place(y1), html.EscapeString(strings.Join(h.Rows, "\n")), html.EscapeString(strings.Join(h.Columns, "\n")), h.values())
	h.cells(&m, x0, y0, x1-x0, height)

	m.text(x0-8, 12, "a", h.RowTitle)
	for i := 0; i < len(h.Rows); i += max(1, int(math.Ceil(readable*rows/height))) {
		m.text(x0-8, y0+(float64(i)+0.5)*height/rows+4, "a row", h.Rows[i])
	}
	cell := (x1 - x0) / columns
	every := max(1, int(math.Ceil((labelsWidth(h.Columns)+16)/cell)))
	for j := 0; j < len(h.Columns); j += every {
		m.text(x0+(float64(j)+0.5)*cell, y1+16, "m", h.Columns[j])
	}
	m.text((x0+x1)/2, y1+33, "m", h.ColumnTitle)
	if h.Format != nil && cell >= roomForText && height/rows >= leastRow {
		h.numbers(&m, x0, y0, cell, height/rows)
	}
	m.printf(`<rect class="mark"/></svg></figure>` + "\n")
	_, err := io.WriteString(w, m.String())
	return err
}

// values writes the numbers of the cells for the page's script.
func (h *Heatmap) values() string {
	var b strings.Builder
	for i, row := range h.Values {
		if i > 0 {
			b.WriteByte(';')
		}
		for j, v := range row {
			if j > 0 {
				b.WriteByte(' ')
			}
			if math.IsNaN(v) {
				b.WriteByte('-')
			} else {
				fmt.Fprintf(&b, "%.3g", v)
			}
		}
	}
	return b.String()
}

// level returns the class of a number's colour, and whether it is dark.
func (h *Heatmap) level(v float64) (class string, dark bool) {
	if math.IsNaN(v) {
		return "hn", false
	}
	i := int(math.Round(min(max(v/h.Most, 0), 1) * (cellLevels - 1)))
	return fmt.Sprintf("h%d", i), i < cellLevels/5 || i >= cellLevels-cellLevels/5
}

// cells draws the cells, as one path for each colour in a picture whose units
// are rows and columns.
func (h *Heatmap) cells(m *markup, x, y, width, height float64) {
	paths := map[string]*strings.Builder{}
	var classes []string
	for i, row := range h.Values {
		for j, v := range row {
			class, _ := h.level(v)
			if paths[class] == nil {
				paths[class] = new(strings.Builder)
				classes = append(classes, class)
			}
			fmt.Fprintf(paths[class], "M%d %dh1", j, i)
		}
	}
	m.printf(`<svg x="%s" y="%s" width="%s" height="%s" viewBox="0 -.5 %d %d" preserveAspectRatio="none" class="cells">`,
		place(x), place(y), place(width), place(height), len(h.Columns), len(h.Rows))
	for _, class := range classes {
		m.printf(`<path class="%s" d="%s"/>`, class, paths[class].String())
	}
	m.printf("</svg>")
}

// numbers writes numbers into their cells.
func (h *Heatmap) numbers(m *markup, x, y, width, height float64) {
	for i, row := range h.Values {
		for j, v := range row {
			if math.IsNaN(v) {
				continue
			}
			class := "in"
			if _, dark := h.level(v); dark {
				class = "out"
			}
			m.text(x+(float64(j)+0.5)*width, y+(float64(i)+0.5)*height+4, class, h.Format(v))
		}
	}
}

// cellsLegend writes the colours and what they stand for.
func (h *Heatmap) cellsLegend(m *markup) {
	m.printf(`<div class="legend">`)
	if h.Format != nil {
		m.printf(`<span>%s <svg style="width:126px" aria-hidden="true">`, html.EscapeString(h.Format(0)))
		for i := range cellLevels {
			m.printf(`<rect class="key h%d" x="%d" width="6.3" height="10"/>`, i, 6*i)
		}
		m.printf(`</svg>%s or more</span>`, html.EscapeString(h.Format(h.Most)))
	}
	m.printf("</div>\n")
}
