package cpu

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// broadcast is a walk over the elements of an output that reads operands of
// smaller shapes, repeated as numpy's broadcasting has it. Adjacent dimensions
// in which every operand does the same are one dimension of the walk.
type broadcast struct {
	dims []int
	// strides has the strides of each operand; nil for one that has all
	// elements of the output and is read in order.
	strides [][]int
}

// shortRow is the length below which rows (the last dimension of a walk) are
// gathered into longer pieces.
const shortRow = 64

// newBroadcast fails where an operand's shape does not broadcast to out.
func newBroadcast(out []int, operands ...[]int) (*broadcast, error) {
	b := &broadcast{strides: make([][]int, len(operands))}
	repeats := make([][]bool, 0, len(out)) // by dimension of the walk and operand
	for i, dim := range out {
		repeated := make([]bool, len(operands))
		for k, shape := range operands {
			size := 1
			if j := i - (len(out) - len(shape)); j >= 0 {
				size = shape[j]
			}
			if size != dim && size != 1 || len(shape) > len(out) {
				return nil, fmt.Errorf("shape %s does not broadcast to %s", tensor.FormatShape(shape), tensor.FormatShape(out))
			}
			repeated[k] = size != dim
		}
		if dim == 1 {
			continue
		}
		if last := len(b.dims) - 1; last >= 0 && slices.Equal(repeats[last], repeated) {
			b.dims[last] *= dim
		} else {
			b.dims, repeats = append(b.dims, dim), append(repeats, repeated)
		}
	}
	for k, shape := range operands {
		if tensor.Count(shape) == tensor.Count(out) {
			continue
		}
		strides, step := make([]int, len(b.dims)), 1
		for i := len(b.dims) - 1; i >= 0; i-- {
			if !repeats[i][k] {
				strides[i] = step
				step *= b.dims[i]
			}
		}
		b.strides[k] = strides
	}
	return b, nil
}

// plain reports whether every operand has all elements of the output.
func (b *broadcast) plain() bool {
	return !slices.ContainsFunc(b.strides, func(s []int) bool { return s != nil })
}

// piece returns how many of the elements from lo to before hi to handle at
// once. Pieces end with long rows, so that operands need not be copied.
func (b *broadcast) piece(lo, hi int) int {
	n := min(elementwiseChunk, hi-lo)
	if last := len(b.dims) - 1; last >= 0 && b.dims[last] >= shortRow {
		n = min(n, b.dims[last]-lo%b.dims[last])
	}
	return n
}

// operands has the views of one input of a walk, one for each thread.
type operands[T any] struct {
	spare *spares[operand[T]]
}

// operand gives an input of a walk as if it had the output's shape.
type operand[T any] struct {
	dims, strides []int
	index         []int // of a row in the dimensions before the last
	start         int   // where the row begins in data
	data          []T
	buffer        []T
	repeated      int // the buffer begins with that many copies of data[source]
	source        int
}

// newOperands prepares input k of a walk, or only a buffer where k is −1.
func newOperands[T any](d *Device, b *broadcast, k int) *operands[T] {
	var strides []int
	needsBuffer := k < 0
	if k >= 0 && b.strides[k] != nil {
		strides = b.strides[k]
		last := len(strides) - 1
		needsBuffer = strides[last] == 0 || b.dims[last] < shortRow
	}
	return &operands[T]{newSpares(d, func() *operand[T] {
		o := &operand[T]{dims: b.dims, strides: strides}
		if strides != nil {
			o.index = make([]int, len(strides)-1)
		}
		if needsBuffer {
			o.buffer = make([]T, elementwiseChunk)
		}
		return o
	})}
}

func (p *operands[T]) take(data []T) *operand[T] {
	o := p.spare.take()
	o.data, o.repeated = data, 0
	return o
}

func (p *operands[T]) give(o *operand[T]) {
	o.data = nil
	p.spare.give(o)
}

// at returns what the operand has for the elements lo … lo+n−1 of the output,
// n being at most elementwiseChunk. It is valid until the next call.
func (o *operand[T]) at(lo, n int) []T {
	if o.strides == nil {
		return o.data[lo : lo+n]
	}
	last := len(o.dims) - 1
	length, step := o.dims[last], o.strides[last]
	column := lo % length
	from := o.enter(lo/length) + column*step
	if length-column >= n && step == 1 {
		return o.data[from : from+n]
	}
	if o.buffer == nil { // the piece is not one of the walk
		o.buffer = make([]T, elementwiseChunk)
	}
	if length-column >= n {
		if o.repeated < n || o.source != from {
			fill(o.buffer[:n], o.data[from])
			o.repeated, o.source = n, from
		}
		return o.buffer[:n]
	}
	o.repeated = 0
	for done := 0; done < n; {
		run := min(length-column, n-done)
		if into := o.buffer[done : done+run]; step == 0 {
			fill(into, o.data[from])
		} else if run >= 16 {
			copy(into, o.data[from:])
		} else {
			for i, v := range o.data[from : from+run] { //nolint:staticcheck // a call of copy would take longer
				into[i] = v
			}
		}
		done += run
		column = 0
		from = o.next()
	}
	return o.buffer[:n]
}

// enter returns where the operand has what a row of the walk begins with.
func (o *operand[T]) enter(row int) int {
	o.start = 0
	for i := len(o.index) - 1; i >= 0; i-- {
		o.index[i] = row % o.dims[i]
		row /= o.dims[i]
		o.start += o.index[i] * o.strides[i]
	}
	return o.start
}

// next does the same for the row after the one entered last.
func (o *operand[T]) next() int {
	for i := len(o.index) - 1; i >= 0; i-- {
		o.index[i]++
		o.start += o.strides[i]
		if o.index[i] < o.dims[i] {
			break
		}
		o.start -= o.dims[i] * o.strides[i]
		o.index[i] = 0
	}
	return o.start
}

func fill[T any](s []T, v T) {
	for i := range s {
		s[i] = v
	}
}
