package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// A loop runs over one dimension of elements that are to and from apart in
// two tensors.
type loop struct{ length, to, from int }

// maxLoops bounds the depth of a nest of loops. Each has at least two steps,
// so that no tensor in memory needs more.
const maxLoops = 48

// stridedCopy copies the elements that a nest of loops visits.
type stridedCopy struct {
	loops    []loop // the last one fastest
	to, from int    // where the nest begins
	count    int    // the number of elements

	// tile is not 0 where the copy is a transposition: the innermost loop is
	// contiguous in one tensor only, and the one around it in the other. Both
	// are then cut into tiles of that length, which caches can hold.
	tile int
}

// newStridedCopy prepares a copy by loops over the given lengths. Loops that
// continue one another become one.
func newStridedCopy(loops []loop, to, from int) (*stridedCopy, error) {
	s := &stridedCopy{to: to, from: from, count: 1}
	for _, l := range loops {
		s.count *= l.length
		if l.length == 1 {
			continue
		}
		if n := len(s.loops) - 1; n >= 0 && s.loops[n].to == l.to*l.length && s.loops[n].from == l.from*l.length {
			s.loops[n] = loop{s.loops[n].length * l.length, l.to, l.from}
		} else {
			s.loops = append(s.loops, l)
		}
	}
	if len(s.loops) == 0 {
		s.loops = []loop{{1, 1, 1}}
	}
	if len(s.loops) > maxLoops {
		return nil, fmt.Errorf("a copy over %d dimensions is not supported", len(s.loops))
	}
	s.findTiles()
	return s, nil
}

// tileLength is the length of tiles, of which one in each tensor fits the
// first-level cache.
const tileLength = 64

// findTiles makes the copy one by tiles where the innermost loop is
// contiguous in the target and another one in the source.
func (s *stridedCopy) findTiles() {
	last := len(s.loops) - 1
	inner := s.loops[last]
	if inner.to != 1 || inner.from == 1 || inner.from == 0 || inner.length < 4 {
		return
	}
	for i, l := range s.loops[:last] {
		if l.from == 1 && l.length >= 4 {
			copy(s.loops[i:], s.loops[i+1:last])
			s.loops[last-1] = l
			s.tile = tileLength
			return
		}
	}
}

// odometer counts through a nest of loops.
type odometer struct {
	loops    []loop
	to, from int
	at       [maxLoops]int
}

// seek moves to step i of the nest.
func (o *odometer) seek(i int) {
	o.to, o.from = 0, 0
	for j := len(o.loops) - 1; j >= 0; j-- {
		l := &o.loops[j]
		o.at[j] = i % l.length
		i /= l.length
		o.to += o.at[j] * l.to
		o.from += o.at[j] * l.from
	}
}

// next moves one step on.
func (o *odometer) next() {
	for j := len(o.loops) - 1; j >= 0; j-- {
		l := &o.loops[j]
		o.at[j]++
		o.to += l.to
		o.from += l.from
		if o.at[j] < l.length {
			return
		}
		o.to -= l.length * l.to
		o.from -= l.length * l.from
		o.at[j] = 0
	}
}

func (m moverOf[T]) strided(to, from *tensor.Tensor, s *stridedCopy, lo, hi int) {
	y, x := m.view(to), m.view(from)
	last := len(s.loops) - 1
	row := s.loops[last]
	o := odometer{loops: s.loops[:last]}
	o.seek(lo / row.length)
	for at := lo % row.length; lo < hi; at = 0 {
		n := min(row.length-at, hi-lo)
		copyRow(y, x, s.to+o.to+at*row.to, s.from+o.from+at*row.from, n, row)
		lo += n
		o.next()
	}
}

// copyRow copies n elements of one loop.
func copyRow[T any](y, x []T, to, from, n int, row loop) {
	switch {
	case row.to == 1 && row.from == 1:
		copy(y[to:to+n], x[from:])
	case row.to == 1 && row.from == 0:
		fill(y[to:to+n], x[from])
	default:
		for range n {
			y[to] = x[from]
			to += row.to
			from += row.from
		}
	}
}

func (m moverOf[T]) transposed(to, from *tensor.Tensor, s *stridedCopy, lo, hi int) {
	y, x := m.view(to), m.view(from)
	last := len(s.loops) - 1
	rows, columns := s.loops[last-1], s.loops[last]
	bands := s.bands()
	o := odometer{loops: s.loops[:last-1]}
	for i := lo; i < hi; i++ {
		o.seek(i / bands)
		top := i % bands * s.tile
		height := min(s.tile, rows.length-top)
		for left := 0; left < columns.length; left += s.tile {
			width := min(s.tile, columns.length-left)
			source := s.from + o.from + top + left*columns.from
			target := s.to + o.to + top*rows.to + left
			transposeTile(y[target:], x[source:], height, width, rows.to, columns.from)
		}
	}
}

// transposeTile transposes a tile that has height rows in the target, which
// are rowStep apart, and width columns in the source, columnStep apart. It
// takes four rows at a time, so that what a cache line of the source holds is
// used while it is there.
func transposeTile[T any](y, x []T, height, width, rowStep, columnStep int) {
	r := 0
	for ; r+4 <= height; r += 4 {
		line0, line1 := y[r*rowStep:][:width], y[(r+1)*rowStep:][:width]
		line2, line3 := y[(r+2)*rowStep:][:width], y[(r+3)*rowStep:][:width]
		at := r
		for c := range line0 {
			column := x[at : at+4 : at+4]
			line0[c], line1[c], line2[c], line3[c] = column[0], column[1], column[2], column[3]
			at += columnStep
		}
	}
	for ; r < height; r++ {
		line, at := y[r*rowStep:][:width], r
		for c := range line {
			line[c] = x[at]
			at += columnStep
		}
	}
}

// bands returns into how many bands of tiles the rows of a transposition are
// cut.
func (s *stridedCopy) bands() int {
	return (s.loops[len(s.loops)-2].length + s.tile - 1) / s.tile
}

// transfer is one strided copy between two tensors.
type transfer struct {
	to, from *tensor.Tensor
	copy     *stridedCopy
}

// bindTransfers returns a function that does strided copies one after the
// other. The tensors all have the same element type.
func (d *Device) bindTransfers(transfers ...transfer) (func() error, error) {
	var list []func()
	for _, t := range transfers {
		if t.copy.count == 0 {
			continue
		}
		m, err := moverFor(t.to.Type)
		if err != nil {
			return nil, err
		}
		body, n, worth := func(lo, hi int) { m.strided(t.to, t.from, t.copy, lo, hi) }, t.copy.count, moveGrain
		if s := t.copy; s.tile > 0 {
			columns := s.loops[len(s.loops)-1].length
			rows := s.loops[len(s.loops)-2].length
			body = func(lo, hi int) { m.transposed(t.to, t.from, s, lo, hi) }
			n, worth = s.count/rows/columns*s.bands(), grain(columns*s.tile)
		}
		list = append(list, func() { d.pool.run(n, worth, body) })
	}
	return steps(list...), nil
}

// steps returns a function that calls others one after the other.
func steps(list ...func()) func() error {
	return func() error {
		for _, step := range list {
			step()
		}
		return nil
	}
}

// bindTransfer is bindTransfers for one copy from input 0 to output 0.
func (d *Device) bindTransfer(c *device.Call, loops []loop, to, from int) (func() error, error) {
	s, err := newStridedCopy(loops, to, from)
	if err != nil {
		return nil, err
	}
	return d.bindTransfers(transfer{c.Out[0], c.In[0], s})
}

// stridesOf returns how far the elements of a row-major tensor lie apart along
// each axis.
func stridesOf(shape []int) []int {
	strides, n := make([]int, len(shape)), 1
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i] = n
		n *= shape[i]
	}
	return strides
}
