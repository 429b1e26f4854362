package cpu

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// A binder prepares an elementwise node whose operands have certain element
// types.
type binder func(d *Device, n *op.Node, c *device.Call) (func() error, error)

// elementwise has the arithmetic of elementwise operators, by operator and by
// the element type of the first operand.
var elementwise = map[string]map[onnx.DataType]binder{}

// define gives an operator its arithmetic on elements of type T.
func define[T tensor.Element](opType string, b binder) {
	if elementwise[opType] == nil {
		elementwise[opType] = map[onnx.DataType]binder{}
	}
	elementwise[opType][tensor.TypeOf[T]()] = b
}

// newElementwise makes the kernel of an operator that define knows.
func newElementwise(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	table := elementwise[n.OpType]
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		bind := table[c.In[0].Type]
		if bind == nil {
			return nil, device.UnsupportedType(c.In[0].Type)
		}
		return bind(d, n, c)
	}), nil
}

type (
	integer interface {
		int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
	}
	float  interface{ float32 | float64 }
	number interface{ integer | float }
)

const (
	// elementwiseChunk is how many elements a loop handles at a time: few
	// enough for the first-level cache, many enough to forget the call.
	elementwiseChunk = 1024
	// elementwiseGrain is how many elements are worth a thread.
	elementwiseGrain = 8 * elementwiseChunk
)

// each makes a loop over elements from a function of one element.
func each[T, O any](f func(T) O) func(out []O, x []T) {
	return func(out []O, x []T) {
		x = x[:len(out)]
		for i := range out {
			out[i] = f(x[i])
		}
	}
}

// eachPair makes a loop over pairs of elements from a function of two.
func eachPair[A, B, O any](f func(A, B) O) func(out []O, a []A, b []B) {
	return func(out []O, a []A, b []B) {
		a, b = a[:len(out)], b[:len(out)]
		for i := range out {
			out[i] = f(a[i], b[i])
		}
	}
}

// inPlace makes a loop from input to output of one that overwrites its input.
func inPlace[T any](f func([]T)) func(out, x []T) {
	return func(out, x []T) {
		copy(out, x)
		f(out)
	}
}

// overOne binds a loop over input 0. The loop gets pieces of input and output
// that may be the same memory.
func overOne[T, O tensor.Element](loop func(out []O, x []T)) binder {
	return func(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
		body := func(lo, hi int) {
			x, out := tensor.Of[T](c.In[0]), tensor.Of[O](c.Out[0])
			for ; lo < hi; lo += elementwiseChunk {
				end := min(lo+elementwiseChunk, hi)
				loop(out[lo:end], x[lo:end])
			}
		}
		return d.overElements(c.Out[0], body), nil
	}
}

// overTwo binds a loop over inputs 0 and 1, which broadcast to the output.
func overTwo[A, B, O tensor.Element](loop func(out []O, a []A, b []B)) binder {
	return overTwoOf(tensor.Of[A], tensor.Of[B], tensor.Of[O], loop)
}

// overTwoOf is overTwo for any elements that the given functions find in a
// tensor.
func overTwoOf[A, B, O any](inA func(*tensor.Tensor) []A, inB func(*tensor.Tensor) []B, inOut func(*tensor.Tensor) []O,
	loop func(out []O, a []A, b []B)) binder {
	return func(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
		walk, err := newBroadcast(c.Out[0].Shape, c.In[0].Shape, c.In[1].Shape)
		if err != nil {
			return nil, err
		}
		if walk.plain() {
			body := func(lo, hi int) {
				a, b, out := inA(c.In[0]), inB(c.In[1]), inOut(c.Out[0])
				for ; lo < hi; lo += elementwiseChunk {
					end := min(lo+elementwiseChunk, hi)
					loop(out[lo:end], a[lo:end], b[lo:end])
				}
			}
			return d.overElements(c.Out[0], body), nil
		}
		left, right := newOperands[A](d, walk, 0), newOperands[B](d, walk, 1)
		body := func(lo, hi int) {
			a, b, out := left.take(inA(c.In[0])), right.take(inB(c.In[1])), inOut(c.Out[0])
			for lo < hi {
				n := walk.piece(lo, hi)
				loop(out[lo:lo+n], a.at(lo, n), b.at(lo, n))
				lo += n
			}
			left.give(a)
			right.give(b)
		}
		return d.overElements(c.Out[0], body), nil
	}
}

func stringsOf(t *tensor.Tensor) []string { return t.Strings }

// overMany binds a loop of two operands that folds any number of inputs,
// which broadcast to the output, from left to right. finish, where it is not
// nil, is applied to the result of n inputs.
func overMany[T number](loop func(out, a, b []T), finish func(out []T, n int)) binder {
	return func(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
		shapes := make([][]int, len(c.In))
		for i, t := range c.In {
			shapes[i] = t.Shape
		}
		walk, err := newBroadcast(c.Out[0].Shape, shapes...)
		if err != nil {
			return nil, err
		}
		inputs := make([]*operands[T], len(c.In))
		for i := range inputs {
			inputs[i] = newOperands[T](d, walk, i)
		}
		sums := newOperands[T](d, walk, -1)
		body := func(lo, hi int) {
			out := tensor.Of[T](c.Out[0])
			// The output may have the memory of any input, so it is written
			// only when they all are read.
			sum := sums.take(nil)
			for lo < hi {
				n := walk.piece(lo, hi)
				total := sum.buffer[:n]
				for i, input := range inputs {
					x := input.take(tensor.Of[T](c.In[i]))
					if values := x.at(lo, n); i == 0 {
						copy(total, values)
					} else {
						loop(total, total, values)
					}
					input.give(x)
				}
				if finish != nil {
					finish(total, len(inputs))
				}
				copy(out[lo:lo+n], total)
				lo += n
			}
			sums.give(sum)
		}
		return d.overElements(c.Out[0], body), nil
	}
}

// overElements returns a function that runs body over the elements of a
// tensor, which may be a vector that has become shorter (see chain.go).
func (d *Device) overElements(t *tensor.Tensor, body func(lo, hi int)) func() error {
	return func() error {
		d.pool.run(t.Len(), elementwiseGrain, body)
		return nil
	}
}
