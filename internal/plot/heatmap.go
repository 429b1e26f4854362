package plot

import (
	"image/color"
	"math"
)

// Heatmap is a matrix of numbers, drawn as colours from 0, the lightest, to
// the largest one, the darkest.
type Heatmap struct {
	Title         string
	Subtitle      string
	RowTitle      string
	ColumnTitle   string
	Rows, Columns []string
	Values        [][]float64 // [rows][columns or fewer]; what is not a number stays grey
	Most          float64     // the number of the darkest colour

	// Format writes a number into its cell, where there is room.
	Format func(x float64) string

	// Beside are columns of text at the right of the matrix.
	Beside []Column
}

// Column is text beside the rows of a heat map.
type Column struct {
	Title string
	Cells []string // [rows]
}

// Lengths in points.
const (
	margin     = 20.0
	gap        = 8.0
	textSize   = 12.0
	titleSize  = 15.0
	least      = 5.0  // width of a cell
	widest     = 48.0 // likewise
	spread     = 640.0
	lineHeight = 24.0
	tightLine  = 15.0 // where there are many rows
	manyRows   = 40
)

var (
	ink     = color.RGBA{0x22, 0x26, 0x2a, 255}
	paper   = color.RGBA{255, 255, 255, 255}
	faint   = color.RGBA{0x6b, 0x6f, 0x76, 255}
	missing = color.RGBA{0xe3, 0xe5, 0xe8, 255}
	scale   = []color.RGBA{{0xf3, 0xf7, 0xf9, 255}, {0xb5, 0xd8, 0xe3, 255}, {0x5a, 0xa9, 0xc4, 255}, {0x0b, 0x6e, 0x99, 255}, {0x06, 0x33, 0x4b, 255}}
)

// Draw draws heat maps, one below the other.
func Draw(maps ...Heatmap) *Picture {
	p := &Picture{height: margin}
	for i := range maps {
		p.heatmap(&maps[i])
	}
	p.width += margin
	return p
}

// heatmap draws below what is there.
func (p *Picture) heatmap(h *Heatmap) {
	write := func(x, y, size float64, a anchor, fill color.RGBA, s string) {
		p.texts = append(p.texts, text{x, y, size, a, fill, s})
		if a == left {
			x += width(s, size)
		}
		p.width = max(p.width, x)
	}
	y := p.height + titleSize
	write(margin, y, titleSize, left, ink, h.Title)
	if h.Subtitle != "" {
		y += textSize + 6
		write(margin, y, textSize, left, faint, h.Subtitle)
	}

	labels := width(h.RowTitle, textSize)
	for _, s := range h.Rows {
		labels = max(labels, width(s, textSize))
	}
	x0, cell, line := margin+labels+gap, min(max(spread/float64(max(len(h.Columns), 1)), least), widest), lineHeight
	if len(h.Rows) > manyRows {
		line = tightLine
	}

	// The titles of the columns, as many as there is room for.
	y += 1.5 * lineHeight
	write(margin, y, textSize, left, faint, h.RowTitle)
	room := 0.0
	for _, s := range h.Columns {
		room = max(room, width(s, textSize)+gap)
	}
	step := max(1, int(math.Ceil(room/cell)))
	for i := 0; i < len(h.Columns); i += step {
		write(x0+(float64(i)+0.5)*cell, y, textSize, centre, faint, h.Columns[i])
	}
	right0 := x0 + cell*float64(len(h.Columns))
	write(x0+cell*float64(len(h.Columns))/2, y-textSize-4, textSize, centre, faint, h.ColumnTitle)

	y += gap
	for i, row := range h.Values {
		top := y + float64(i)*line
		base := top + line/2 + 0.35*textSize
		write(x0-gap, base, textSize, right, ink, h.Rows[i])
		for j, v := range row {
			p.cell(h, v, x0+float64(j)*cell, top, cell, line)
		}
	}
	p.width = max(p.width, right0)
	for _, c := range h.Beside {
		w := width(c.Title, textSize)
		for _, s := range c.Cells {
			w = max(w, width(s, textSize))
		}
		right0 += 2*gap + w
		write(right0, y-gap, textSize, right, faint, c.Title)
		for i, s := range c.Cells {
			write(right0, y+float64(i)*line+line/2+0.35*textSize, textSize, right, ink, s)
		}
	}
	y += float64(len(h.Values))*line + gap
	p.legend(h, x0, y, write)
	p.height = y + lineHeight + margin
}

// cell draws a number.
func (p *Picture) cell(h *Heatmap, v, x, y, w, height float64) {
	fill, border := missing, 1.0
	if w < 3*least {
		border = 0
	}
	known := !math.IsNaN(v)
	if known {
		fill = shade(v / h.Most)
	}
	p.rectangles = append(p.rectangles, rectangle{x, y, w - border, height - border, fill})
	if !known || h.Format == nil {
		return
	}
	if s := h.Format(v); width(s, textSize-1) <= w-4 {
		on := ink
		if v/h.Most > 0.55 {
			on = paper
		}
		p.texts = append(p.texts, text{x + (w-border)/2, y + height/2 + 0.35*(textSize-1), textSize - 1, centre, on, s})
	}
}

// legend draws the colours and what they stand for.
func (p *Picture) legend(h *Heatmap, x, y float64, write func(x, y, size float64, a anchor, fill color.RGBA, s string)) {
	const steps, step, height = 40, 4.0, 10.0
	if h.Format == nil {
		return
	}
	base := y + height
	zero := h.Format(0)
	write(x, base, textSize, left, faint, zero)
	x += width(zero, textSize) + gap
	for i := range steps {
		p.rectangles = append(p.rectangles, rectangle{x + float64(i)*step, y, step, height, shade(float64(i) / (steps - 1))})
	}
	write(x+steps*step+gap, base, textSize, left, faint, h.Format(h.Most))
}

// shade returns the colour of x from 0 to 1, that of 0 for what is not a
// number.
func shade(x float64) color.RGBA {
	if !(x > 0) {
		x = 0
	}
	return blend(scale, min(x, 1))
}
