package cpu

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register("", "Einsum", newEinsum) }

func newEinsum(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		switch t := c.In[0].Type; t {
		case onnx.Float32:
			return bindEinsum[float32](d, n, c)
		case onnx.Float64:
			return bindEinsum[float64](d, n, c)
		case onnx.Int32:
			return bindEinsum[int32](d, n, c)
		case onnx.Int64:
			return bindEinsum[int64](d, n, c)
		case onnx.Uint32:
			return bindEinsum[uint32](d, n, c)
		case onnx.Uint64:
			return bindEinsum[uint64](d, n, c)
		default:
			return nil, device.UnsupportedType(t)
		}
	}), nil
}

// indexed is a tensor in an einsum: its indices, none of which has length 1,
// and how far apart elements lie along each.
type indexed[T simd.Number] struct {
	indices, strides []int
	data             func() []T // looks the elements up
}

// einsumLimit bounds the elements of what an equation of several operands
// needs between them.
const einsumLimit = 1 << 31

// einsum contracts operands two at a time, from the left. Each contraction is
// a batch of matrix products, whose operands are used where they lie if their
// axes allow it and are copied into order first if not.
type einsum[T simd.Number] struct {
	device  *Device
	scratch *device.Scratch
	length  []int // of each index
	used    int   // elements of scratch memory that are taken
	memory  []T   // the scratch memory, looked up by each run
	steps   []func() error
}

func bindEinsum[T simd.Number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	ranks := make([]int, len(c.In))
	for i, in := range c.In {
		ranks[i] = in.Rank()
	}
	equation, err := op.ParseEquation(n, ranks)
	if err != nil {
		return nil, err
	}
	out := func() []T { return tensor.Of[T](c.Out[0]) }
	e := &einsum[T]{device: d, scratch: c.Scratch, length: make([]int, equation.Indices)}
	for i := range e.length {
		e.length[i] = 1
	}
	for i, in := range c.In {
		for axis, index := range equation.Inputs[i] {
			if in.Shape[axis] != 1 {
				e.length[index] = in.Shape[axis]
			}
		}
	}
	if c.Out[0].Len() == 0 {
		return func() error { return nil }, nil
	}
	if slices.Contains(e.length, 0) { // sums of nothing
		return func() error { clear(out()); return nil }, nil
	}
	output := e.without1(equation.Output)
	left := e.operand(c.In[0], equation.Inputs[0])
	for i := 1; i < len(c.In); i++ {
		right := e.operand(c.In[i], equation.Inputs[i])
		keep := slices.Clone(output)
		for j := i + 1; j < len(c.In); j++ {
			keep = append(keep, equation.Inputs[j]...)
		}
		target := out
		if i < len(c.In)-1 {
			target = nil
		}
		left = e.contract(left, right, keep, output, target)
	}
	if len(c.In) == 1 || !slices.Equal(left.indices, output) {
		e.copyTo(out, output, left, nil)
	}
	if e.used >= einsumLimit {
		return nil, fmt.Errorf("equation %q needs more than %d elements between its operands; write it as several Einsum nodes in a better order",
			n.String("equation", ""), einsumLimit)
	}
	reserve[T](c.Scratch, e.used)
	return func() error {
		e.memory = lookUp[T](c.Scratch)
		for _, step := range e.steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// without1 returns the indices that are longer than 1.
func (e *einsum[T]) without1(indices []int) []int {
	return slices.DeleteFunc(slices.Clone(indices), func(i int) bool { return e.length[i] == 1 })
}

// operand reads an input. Axes of length 1 go, and axes that share an index
// become one, along the diagonal.
func (e *einsum[T]) operand(t *tensor.Tensor, indices []int) *indexed[T] {
	x := &indexed[T]{data: func() []T { return tensor.Of[T](t) }}
	stride := t.Len()
	for axis, index := range indices {
		stride /= t.Shape[axis]
		if t.Shape[axis] == 1 {
			continue
		}
		if at := slices.Index(x.indices, index); at >= 0 {
			x.strides[at] += stride
			continue
		}
		x.indices, x.strides = append(x.indices, index), append(x.strides, stride)
	}
	return x
}

// dense makes room for a tensor with the given indices, in memory that target
// looks up, or in scratch memory where that is nil.
func (e *einsum[T]) dense(indices []int, target func() []T) *indexed[T] {
	x := &indexed[T]{indices: indices, strides: make([]int, len(indices)), data: target}
	count := 1
	for i := len(indices) - 1; i >= 0; i-- {
		x.strides[i] = count
		if n := e.length[indices[i]]; count <= einsumLimit/n {
			count *= n
		} else {
			count = einsumLimit // bindEinsum refuses it
		}
	}
	if target == nil {
		from := e.used
		e.used += roundUp(count, 16)
		x.data = func() []T { return e.memory[from:][:count] }
	}
	return x
}

// spans returns the walk through x along indices; those that x does not have
// stay in place.
func (e *einsum[T]) spans(x *indexed[T], indices []int) spans {
	walk := make(spans, len(indices))
	for i, index := range indices {
		walk[i].length = e.length[index]
		if at := slices.Index(x.indices, index); at >= 0 {
			walk[i].stride = x.strides[at]
		}
	}
	return walk
}

// only returns the indices of a that are in b, or with in unset those that
// are not.
func only(a, b []int, in bool) []int {
	return slices.DeleteFunc(slices.Clone(a), func(i int) bool { return slices.Contains(b, i) != in })
}

// contract multiplies two tensors and sums over the indices not in keep. The
// result is in target, where given and its order is that of output; else it
// may have its indices in any order.
func (e *einsum[T]) contract(a, b *indexed[T], keep, output []int, target func() []T) *indexed[T] {
	a, b = e.sumAlone(a, b, keep), e.sumAlone(b, a, keep)
	shared := only(a.indices, b.indices, true)
	batch, inner := only(shared, keep, true), only(shared, keep, false)
	rows, cols := only(a.indices, b.indices, false), only(b.indices, a.indices, false)
	for _, group := range [][]int{batch, rows, cols} {
		slices.SortStableFunc(group, func(i, j int) int { return slices.Index(output, i) - slices.Index(output, j) })
	}
	if order := slices.Concat(batch, cols, rows); slices.Equal(order, output) && len(rows) > 0 {
		a, b, rows, cols = b, a, cols, rows
	}
	order := slices.Concat(batch, rows, cols)
	if !slices.Equal(order, output) {
		target = nil
	}
	result := e.dense(order, target)
	if len(rows) == 0 && len(cols) == 0 { // matrices of one element
		e.multiply(result, a, b, batch, inner)
		return result
	}
	a, b = e.matrices(a, batch, rows, inner), e.matrices(b, batch, inner, cols)
	p := &product[T]{a: e.stack(a, batch, rows, inner), b: e.stack(b, batch, inner, cols), used: e.used}
	e.steps = append(e.steps, p.bind(e.device, e.scratch, func() (c, left, right []T) {
		return result.data(), a.data(), b.data()
	}))
	return result
}

// sumAlone sums x over the indices that neither y nor keep has.
func (e *einsum[T]) sumAlone(x, y *indexed[T], keep []int) *indexed[T] {
	alone := only(only(x.indices, y.indices, false), keep, false)
	if len(alone) == 0 {
		return x
	}
	kept := only(x.indices, alone, false)
	sum := e.dense(kept, nil)
	e.copyTo(sum.data, kept, x, alone)
	return sum
}

// copyTo writes x to dense memory in the order of indices, summed over those
// of its indices that are missing there, or over the given ones.
func (e *einsum[T]) copyTo(target func() []T, indices []int, x *indexed[T], sum []int) {
	if sum == nil {
		sum = only(x.indices, indices, false)
	}
	one := []T{1}
	unit := &indexed[T]{data: func() []T { return one }}
	e.multiply(&indexed[T]{indices: indices, data: target}, x, unit, indices, sum)
}

// multiply computes dense elements Σ a·b, one for each step along keep, by a
// sum along the indices inner.
func (e *einsum[T]) multiply(result, a, b *indexed[T], keep, inner []int) {
	keepA, keepB := e.spans(a, keep), e.spans(b, keep)
	sumA, sumB := e.spans(a, inner), e.spans(b, inner)
	// The innermost dimensions are loops of their own.
	_, rowA := keepA.cutLast()
	_, rowB := keepB.cutLast()
	outerA, lineA := sumA.cutLast()
	outerB, lineB := sumB.cutLast()
	blocks := outerA.count()
	body := func(lo, hi int) {
		out, x, y := result.data(), a.data(), b.data()
		for i := lo; i < hi; {
			fromA, fromB := keepA.offset(i), keepB.offset(i)
			for range min(rowA.length-i%rowA.length, hi-i) {
				var sum T
				for block := range blocks {
					atA, atB := fromA+outerA.offset(block), fromB+outerB.offset(block)
					for range lineA.length {
						sum += x[atA] * y[atB]
						atA, atB = atA+lineA.stride, atB+lineB.stride
					}
				}
				out[i] = sum
				i, fromA, fromB = i+1, fromA+rowA.stride, fromB+rowB.stride
			}
		}
	}
	count, grain := keepA.count(), max(1, 1<<14/sumA.count())
	e.steps = append(e.steps, func() error {
		e.device.pool.run(count, grain, body)
		return nil
	})
}

// cutLast splits a walk into its innermost dimension and the others.
func (s spans) cutLast() (others spans, last span) {
	if len(s) == 0 {
		return nil, span{length: 1}
	}
	return s[:len(s)-1], s[len(s)-1]
}

// matrices returns x itself where the groups of indices down and across each
// step through it evenly, so that it is a batch of matrices as it lies, and a
// copy in order where not.
func (e *einsum[T]) matrices(x *indexed[T], batch, down, across []int) *indexed[T] {
	if _, even := e.spans(x, down).even(); even {
		if _, even := e.spans(x, across).even(); even {
			return x
		}
	}
	ordered := e.dense(slices.Concat(batch, down, across), nil)
	e.copyTo(ordered.data, ordered.indices, x, nil)
	return ordered
}

// even returns the stride of a walk that is the same at every step.
func (s spans) even() (stride int, even bool) {
	for i := len(s) - 1; i > 0; i-- {
		if s[i-1].stride != s[i].stride*s[i].length {
			return 0, false
		}
	}
	if len(s) == 0 {
		return 1, true
	}
	return s[len(s)-1].stride, true
}

// stack describes x as a batch of matrices.
func (e *einsum[T]) stack(x *indexed[T], batch, down, across []int) stack {
	rows, cols, batches := e.spans(x, down), e.spans(x, across), e.spans(x, batch)
	s := stack{rows: rows.count(), cols: cols.count()}
	s.rowStride, _ = rows.even()
	s.colStride, _ = cols.even()
	for i := range batches.count() {
		s.at, s.of = append(s.at, batches.offset(i)), append(s.of, i)
	}
	return s
}
