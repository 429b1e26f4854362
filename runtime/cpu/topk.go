package cpu

import (
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, name := range []string{"TopK", "ArgMax", "ArgMin", "Hardmax"} {
		register("", name, newElementwise)
	}
}

// line is the elements along one axis, stride apart, in the order of a TopK:
// the largest or the smallest first, of equal ones the one with the lower
// index. NaN is larger than every number.
type line[T number] struct {
	x       []T
	stride  int
	largest bool
}

func (l *line[T]) before(i, j int64) bool {
	a, b := l.x[int(i)*l.stride], l.x[int(j)*l.stride]
	switch {
	case a == b || a != a && b != b:
		return i < j
	case a != a:
		return l.largest
	case b != b:
		return !l.largest
	}
	return (a > b) == l.largest
}

// top writes the indices of the first k of n elements, step apart. It keeps
// the best k so far in a heap with the last of them at the root, and sorts
// the heap at the end.
func (l *line[T]) top(heap []int64, step, k, n int) {
	if k == 0 {
		return
	}
	for i := range k {
		heap[i*step] = int64(i)
	}
	for i := k/2 - 1; i >= 0; i-- {
		l.sink(heap, step, i, k)
	}
	for i := int64(k); i < int64(n); i++ {
		if l.before(i, heap[0]) {
			heap[0] = i
			l.sink(heap, step, 0, k)
		}
	}
	for last := k - 1; last > 0; last-- {
		heap[0], heap[last*step] = heap[last*step], heap[0]
		l.sink(heap, step, 0, last)
	}
}

// sink moves entry i of a heap of the given size down to where no entry below
// comes later.
func (l *line[T]) sink(heap []int64, step, i, size int) {
	for {
		child := 2*i + 1
		if child >= size {
			return
		}
		if child+1 < size && l.before(heap[child*step], heap[(child+1)*step]) {
			child++
		}
		if !l.before(heap[i*step], heap[child*step]) {
			return
		}
		heap[i*step], heap[child*step] = heap[child*step], heap[i*step]
		i = child
	}
}

func bindTopK[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	axis, err := op.Axis(n.Int("axis", -1), c.In[0].Rank())
	if err != nil {
		return nil, err
	}
	values, indices := c.Out[0], at(c.Out, 1)
	shape := indices
	if values != nil {
		shape = values
	}
	outer, length, inner := splitAt(c.In[0].Shape, axis)
	_, k, _ := splitAt(shape.Shape, axis)
	if indices == nil {
		reservePlaces(c, outer*k*inner)
	}
	largest := n.Int("largest", 1) != 0
	body := func(lo, hi int) {
		x := tensor.Of[T](c.In[0])
		var chosen []int64
		if indices != nil {
			chosen = tensor.Of[int64](indices)
		} else {
			chosen = places(c, outer*k*inner)
		}
		for i := lo; i < hi; i++ {
			l := line[T]{x[i/inner*length*inner+i%inner:], inner, largest}
			first := i/inner*k*inner + i%inner
			l.top(chosen[first:], inner, k, length)
			if values == nil {
				continue
			}
			y := tensor.Of[T](values)[first:]
			for j := range k {
				y[j*inner] = l.x[int(chosen[first+j*inner])*inner]
			}
		}
	}
	lines := outer * inner
	if k == 0 {
		lines = 0
	}
	return d.overLines(lines, length, body), nil
}

// overLines returns a function that runs body over a number of lines of the
// given length.
func (d *Device) overLines(lines, length int, body func(lo, hi int)) func() error {
	worth := max(1, elementwiseGrain/max(length, 1))
	return func() error {
		d.pool.run(lines, worth, body)
		return nil
	}
}

// extreme returns the index of the first (or last) largest or smallest of n
// elements that lie stride apart. A NaN counts as the extreme, as in numpy.
func extreme[T number](x []T, n, stride int, smallest, last bool) int {
	best := 0
	for i := 1; i < n; i++ {
		a, b := x[i*stride], x[best*stride]
		better := a > b
		if smallest {
			better = a < b
		}
		if better = better && b == b || a != a && b == b; better || last && (a == b || a != a && b != b) {
			best = i
		}
	}
	return best
}

func bindArgument[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	axis, err := op.Axis(n.Int("axis", 0), c.In[0].Rank())
	if err != nil {
		return nil, err
	}
	outer, length, inner := splitAt(c.In[0].Shape, axis)
	smallest, last := n.OpType == "ArgMin", n.Int("select_last_index", 0) != 0
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[int64](c.Out[0])
		for i := lo; i < hi; i++ {
			y[i] = int64(extreme(x[i/inner*length*inner+i%inner:], length, inner, smallest, last))
		}
	}
	return d.overLines(outer*inner, length, body), nil
}

func bindHardmax[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	axis, err := op.SoftmaxAxis(n, c.In[0].Rank())
	if err != nil {
		return nil, err
	}
	outer, length, inner := splitAt(c.In[0].Shape, axis)
	if n.Since < 13 {
		length, inner = length*inner, 1
	}
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			first := i/inner*length*inner + i%inner
			for j := range length {
				y[first+j*inner] = 0
			}
			y[first+extreme(x[first:], length, inner, false, false)*inner] = 1
		}
	}
	lines := outer * inner
	if length == 0 {
		lines = 0
	}
	return d.overLines(lines, length, body), nil
}
