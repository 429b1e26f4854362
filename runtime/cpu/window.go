package cpu

import "github.com/fmoe-go/fmoe/runtime/op"

// sliding relates the windows of a convolution or pooling to the elements of
// an image of one channel. A window has a number, its position, and elements,
// its taps; both count with the last dimension fastest.
type sliding struct {
	*op.Windows
	image, grid     []int // elements and positions along each axis
	size, positions int
	taps            int
}

func newSliding(w *op.Windows, image, grid []int) *sliding {
	product := func(list []int) int {
		n := 1
		for _, v := range list {
			n *= v
		}
		return n
	}
	return &sliding{Windows: w, image: image, grid: grid,
		size: product(image), positions: product(grid), taps: product(w.Kernel)}
}

// identity reports whether window i is element i.
func (s *sliding) identity() bool {
	if s.taps != 1 || s.size != s.positions {
		return false
	}
	for i := range s.image {
		if s.Stride[i] != 1 || s.Before[i] != 0 {
			return false
		}
	}
	return true
}

// step returns how far apart the elements lie that visit sees in one run.
func (s *sliding) step() int { return s.Stride[len(s.Stride)-1] }

// runs visits where one tap of the windows at positions from … to−1 falls
// into the image: count windows from a position on have it at element, and
// step elements further for each next one.
func (s *sliding) runs(tap, from, to int, visit func(position, element, count int)) {
	last := len(s.grid) - 1
	width, stride := s.grid[last], s.Stride[last]
	shift := tap%s.Kernel[last]*s.Dilation[last] - s.Before[last]
	first := (max(-shift, 0) + stride - 1) / stride
	end := 0
	if room := s.image[last] - shift; room > 0 {
		end = (room + stride - 1) / stride
	}
	for at := from; at < to; {
		line, column := at/width, at%width
		count := min(width-column, to-at)
		lo, hi := max(column, first), min(column+count, end)
		if base, inside := s.line(tap/s.Kernel[last], line); inside && lo < hi {
			visit(at-column+lo, base+lo*stride+shift, hi-lo)
		}
		at += count
	}
}

// line returns where the line of the image begins into which a tap of a line
// of windows falls, both without the last axis.
func (s *sliding) line(tap, line int) (base int, inside bool) {
	stride := s.image[len(s.image)-1]
	for i := len(s.grid) - 2; i >= 0; i-- {
		at := line%s.grid[i]*s.Stride[i] + tap%s.Kernel[i]*s.Dilation[i] - s.Before[i]
		if at < 0 || at >= s.image[i] {
			return 0, false
		}
		base += at * stride
		stride *= s.image[i]
		line /= s.grid[i]
		tap /= s.Kernel[i]
	}
	return base, true
}
