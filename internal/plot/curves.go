package plot

import (
	"fmt"
	"image/color"
	"math"
)

// Curves is a picture of lines over powers of two, both axes logarithmic.
type Curves struct {
	Title, Subtitle, X, Y string
	Curves                []Curve
}

// Curve is one of the lines. Numbers must be above 0.
type Curve struct {
	Name string
	X, Y []float64 // equally many
}

const (
	curvesWidth  = 640.0
	curvesHeight = 360.0
	curvesLeft   = 86.0
	curvesTop    = 64.0
	curvesBottom = 52.0
	dot          = 5.0
	thin         = 1.6
)

// Draw draws the picture. Without points it has axes only.
func (c *Curves) Draw() *Picture {
	p := &Picture{width: curvesWidth, height: curvesHeight}
	write := func(x, y, size float64, a anchor, fill color.RGBA, s string) {
		p.texts = append(p.texts, text{x, y, size, a, fill, s})
	}
	write(margin, 24, 15, left, ink, c.Title)
	write(margin, 42, 12, left, faint, c.Subtitle)
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, curve := range c.Curves {
		for i, x := range curve.X {
			x0, x1 = min(x0, math.Log2(x)), max(x1, math.Log2(x))
			y0, y1 = min(y0, math.Log10(curve.Y[i])), max(y1, math.Log10(curve.Y[i]))
		}
	}
	if !(x0 <= x1 && y0 <= y1) || math.IsInf(y0, 0) || math.IsInf(y1, 0) || math.IsInf(x1, 0) {
		x0, x1, y0, y1 = 0, 1, 0, 1
	}
	y0, y1 = math.Floor(y0), math.Ceil(y1)
	x1, y1 = max(x1, x0+1), max(y1, y0+1)
	atX := func(x float64) float64 { return curvesLeft + (x-x0)/(x1-x0)*(curvesWidth-curvesLeft-2*margin) }
	atY := func(y float64) float64 {
		return curvesHeight - curvesBottom - (y-y0)/(y1-y0)*(curvesHeight-curvesBottom-curvesTop)
	}
	for y := y0; y <= y1; y++ {
		p.rectangles = append(p.rectangles, rectangle{curvesLeft, atY(y), atX(x1) - curvesLeft, 0.7, missing})
		write(curvesLeft-8, atY(y)+4, 11, right, faint, fmt.Sprintf("%.3g", math.Pow(10, y)))
	}
	for x := x0; x <= x1; x++ {
		p.rectangles = append(p.rectangles, rectangle{atX(x), atY(y0), 0.7, 4, faint})
		write(atX(x), atY(y0)+17, 11, centre, faint, fmt.Sprintf("%.0f", math.Exp2(x)))
	}
	write(atX((x0+x1)/2), curvesHeight-14, 12, centre, ink, c.X)
	write(curvesLeft-8, curvesTop-8, 12, left, ink, c.Y)
	for i, curve := range c.Curves {
		fill := scale[max(1, len(scale)-2-i)]
		for j := range curve.X {
			x, y := atX(math.Log2(curve.X[j])), atY(math.Log10(curve.Y[j]))
			p.rectangles = append(p.rectangles, rectangle{x - dot/2, y - dot/2, dot, dot, fill})
			if j == 0 {
				continue
			}
			fromX, fromY := atX(math.Log2(curve.X[j-1])), atY(math.Log10(curve.Y[j-1]))
			n := math.Ceil(math.Hypot(x-fromX, y-fromY) / thin)
			for k := 1.0; k < n; k++ { // a picture has rectangles only
				p.rectangles = append(p.rectangles, rectangle{fromX + (x-fromX)*k/n - thin/2, fromY + (y-fromY)*k/n - thin/2, thin, thin, fill})
			}
		}
		if n := len(curve.X); n > 0 {
			write(atX(x1)-4-150*float64(i), curvesTop-8, 12, right, fill, curve.Name)
		}
	}
	return p
}
