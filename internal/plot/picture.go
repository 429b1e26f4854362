// Package plot draws heat maps as PNG and SVG, and plots of lines and heat maps
// for pages of HTML.
package plot

import (
	"encoding/xml"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
	"strings"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// Picture is a list of rectangles and lines of text on white. Lengths are in
// points, from the upper left corner.
type Picture struct {
	width, height float64
	rectangles    []rectangle
	texts         []text
}

type rectangle struct {
	x, y, width, height float64
	fill                color.RGBA
}

type text struct {
	x, y   float64 // of the anchor, on the base line
	size   float64
	anchor anchor
	fill   color.RGBA
	text   string
}

// anchor says which part of a text is at its place; the values are those of
// SVG's text-anchor.
type anchor string

const (
	left   anchor = "start"
	centre anchor = "middle"
	right  anchor = "end"
)

// WriteSVG writes the picture as SVG. Its text is in a font of the viewer's.
func (p *Picture) WriteSVG(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" font-family="Go, Helvetica, Arial, sans-serif">`+"\n",
		p.width, p.height, p.width, p.height)
	fmt.Fprintf(&b, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", p.width, p.height)
	for _, r := range p.rectangles {
		fmt.Fprintf(&b, `<rect x="%.2f" y="%.2f" width="%.2f" height="%.2f" fill="%s"/>`+"\n", r.x, r.y, r.width, r.height, hex(r.fill))
	}
	for _, t := range p.texts {
		fmt.Fprintf(&b, `<text x="%.2f" y="%.2f" font-size="%.0f" text-anchor="%s" fill="%s">`, t.x, t.y, t.size, t.anchor, hex(t.fill))
		if err := xml.EscapeText(&b, []byte(t.text)); err != nil {
			return err
		}
		b.WriteString("</text>\n")
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func hex(c color.RGBA) string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

// pixels is how many pixels of a PNG a point has, for screens of today.
const pixels = 2

// maxPixels bounds the memory that a PNG takes.
const maxPixels = 1 << 26

// WritePNG writes the picture as PNG, two pixels a point. It fails for one
// that is too large; as SVG it is smaller.
func (p *Picture) WritePNG(w io.Writer) error {
	if n := pixels * pixels * p.width * p.height; n > maxPixels {
		return fmt.Errorf("the picture would have %.0f million pixels, more than %d: draw it as SVG", n/1e6, maxPixels/1_000_000)
	}
	pixel := func(x float64) int { return int(math.Round(pixels * x)) }
	m := image.NewRGBA(image.Rect(0, 0, pixel(p.width), pixel(p.height)))
	draw.Draw(m, m.Bounds(), image.White, image.Point{}, draw.Src)
	for _, r := range p.rectangles {
		area := image.Rect(pixel(r.x), pixel(r.y), pixel(r.x+r.width), pixel(r.y+r.height))
		draw.Draw(m, area, image.NewUniform(r.fill), image.Point{}, draw.Src)
	}
	for _, t := range p.texts {
		x := t.x
		switch t.anchor {
		case centre:
			x -= width(t.text, t.size) / 2
		case right:
			x -= width(t.text, t.size)
		}
		d := font.Drawer{Dst: m, Src: image.NewUniform(t.fill), Face: newFace(pixels * t.size), Dot: fixed.P(pixel(x), pixel(t.y))}
		d.DrawString(t.text)
	}
	return png.Encode(w, m)
}

var regular = sync.OnceValue(func() *opentype.Font {
	f, err := opentype.Parse(goregular.TTF)
	if err != nil {
		panic(err) // the font is part of the program
	}
	return f
})

var (
	facesLock sync.Mutex
	faces     = map[float64]font.Face{}
)

// newFace returns the font in a size in pixels.
func newFace(size float64) font.Face {
	facesLock.Lock()
	defer facesLock.Unlock()
	if faces[size] == nil {
		face, err := opentype.NewFace(regular(), &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
		if err != nil {
			panic(err) // it fails for sizes that no text has
		}
		faces[size] = face
	}
	return faces[size]
}

// width returns the width of a text in points.
func width(s string, size float64) float64 {
	return float64(font.MeasureString(newFace(pixels*size), s)) / 64 / pixels
}
