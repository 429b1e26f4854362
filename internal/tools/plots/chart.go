package main

import (
	"cmp"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// chart is a picture of something, by default times in ms, over something, with
// a line for each program.
type chart struct {
	title, x   string
	y          string // "" stands for ms
	ticks      []int  // of the x axis
	logX, logY bool
}

type line struct {
	label  string
	points plotter.XYs
}

// The colours and glyphs of the lines, which also differ without colour.
var (
	colours = []color.Color{color.RGBA{0x0b, 0x6e, 0x99, 255}, color.RGBA{0xd9, 0x73, 0x0d, 255}, color.RGBA{0x6b, 0x6f, 0x76, 255}}
	glyphs  = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}}
	faint   = color.RGBA{0xe3, 0xe5, 0xe8, 255}
)

func (c chart) save(lines []line, path string) error {
	plot.DefaultFont.Variant = "Sans"
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.Title.Padding = c.title, vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = c.x, cmp.Or(c.y, "ms")
	p.X.Padding, p.Y.Padding = vg.Points(6), vg.Points(6)
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(3)
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), vg.Points(-4)
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = faint, faint
	p.Add(grid)
	for i, l := range lines {
		curve, points, err := plotter.NewLinePoints(l.points)
		if err != nil {
			return err
		}
		curve.Color, curve.Width = colours[i], vg.Points(2)
		points.Color, points.Shape, points.Radius = colours[i], glyphs[i], vg.Points(3.5)
		p.Add(curve, points)
		p.Legend.Add(l.label, curve, points)
	}
	c.axes(p)
	return p.Save(vg.Points(520), vg.Points(340), path)
}

// axes sets the ticks and ranges, with room for the legend above the lines.
func (c chart) axes(p *plot.Plot) {
	if c.logX {
		p.X.Scale = plot.LogScale{}
		p.X.Min, p.X.Max = p.X.Min/1.06, p.X.Max*1.06
	} else {
		p.X.Min, p.X.Max = p.X.Min-0.25, p.X.Max+0.25
	}
	if c.logY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
		p.Y.Min, p.Y.Max = p.Y.Min/1.3, p.Y.Max*4
	} else {
		p.Y.Min, p.Y.Max = 0, p.Y.Max*1.35
	}
	ticks := make([]plot.Tick, len(c.ticks))
	for i, n := range c.ticks {
		ticks[i] = plot.Tick{Value: float64(n), Label: strconv.Itoa(n)}
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
}

// decades are ticks at 1, 2 and 5 of each power of ten.
type decades struct{}

// Ticks implements [plot.Ticker].
func (decades) Ticks(least, most float64) (ticks []plot.Tick) {
	for e := math.Floor(math.Log10(least)); e <= math.Ceil(math.Log10(most)); e++ {
		for _, m := range []float64{1, 2, 5} {
			if x := m * math.Pow(10, e); x >= least && x <= most {
				ticks = append(ticks, plot.Tick{Value: x, Label: strconv.FormatFloat(x, 'g', 6, 64)})
			}
		}
	}
	return ticks
}
