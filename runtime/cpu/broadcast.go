package cpu

import (
	"fmt"
	"slices"
	"sync"

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

// piece returns how many of the elements from lo to before hi to handle at
// once. Pieces end with long rows, so that operands need not be copied.
func (b *broadcast) piece(lo, hi int) int {
	n := min(elementwiseChunk, hi-lo)
	if last := len(b.dims) - 1; last >= 0 && b.dims[last] >= shortRow {
		n = min(n, b.dims[last]-lo%b.dims[last])
	}
	return n
}

// operands makes the operands of one input of a walk. Each thread takes its
// own.
type operands[T any] struct {
	pool sync.Pool
}

// operand gives an input of a walk as if it had the output's shape.
type operand[T any] struct {
	dims, strides []int
	data          []T
	buffer        []T
	repeated      int // the buffer begins with that many copies of data[source]
	source        int
}

// newOperands prepares input k of a walk, or only a buffer where k is −1.
func newOperands[T any](b *broadcast, k int) *operands[T] {
	var strides []int
	if k >= 0 {
		strides = b.strides[k]
	}
	needsBuffer := k < 0 || strides != nil
	return &operands[T]{pool: sync.Pool{New: func() any {
		o := &operand[T]{dims: b.dims, strides: strides}
		if needsBuffer {
			o.buffer = make([]T, elementwiseChunk)
		}
		return o
	}}}
}

func (p *operands[T]) take(data []T) *operand[T] {
	o := p.pool.Get().(*operand[T])
	o.data, o.repeated = data, 0
	return o
}

func (p *operands[T]) give(o *operand[T]) {
	o.data = nil
	p.pool.Put(o)
}

// at returns what the operand has for the elements lo … lo+n−1 of the output,
// n being at most elementwiseChunk. It is valid until the next call.
func (o *operand[T]) at(lo, n int) []T {
	if o.strides == nil {
		return o.data[lo : lo+n]
	}
	last := len(o.dims) - 1
	row, step := o.dims[last], o.strides[last]
	for done := 0; done < n; {
		column := (lo + done) % row
		run := min(row-column, n-done)
		from := column * step
		for i, rest := last-1, (lo+done)/row; i >= 0; i-- {
			from += rest % o.dims[i] * o.strides[i]
			rest /= o.dims[i]
		}
		switch {
		case step == 1 && run == n:
			return o.data[from : from+n]
		case step == 1:
			copy(o.buffer[done:], o.data[from:from+run])
		case run < n:
			fill(o.buffer[done:done+run], o.data[from])
			o.repeated = 0
		case o.repeated < n || o.source != from:
			fill(o.buffer[:n], o.data[from])
			o.repeated, o.source = n, from
		}
		done += run
	}
	return o.buffer[:n]
}

func fill[T any](s []T, v T) {
	for i := range s {
		s[i] = v
	}
}
