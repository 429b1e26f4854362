package cpu

import (
	"unsafe"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// A mover moves elements of one width, whatever they mean. Each method is a
// piece of a loop that may run in parallel with the loop's other pieces.
type mover interface {
	// strided copies the elements lo to hi of a strided copy; strided.go.
	strided(to, from *tensor.Tensor, s *stridedCopy, lo, hi int)
	// transposed copies the bands lo to hi of one with tiles; strided.go.
	transposed(to, from *tensor.Tensor, s *stridedCopy, lo, hi int)
	// looked copies the rows lo to hi of a copy by tables; tables.go.
	looked(to, from *tensor.Tensor, t *tableCopy, lo, hi int)
	// gather copies the runs lo to hi to one another's end; gather.go.
	gather(to, from *tensor.Tensor, places []int64, g *gathering, lo, hi int)
	// scatter copies the elements lo to hi of every run to the run's place;
	// scatter.go.
	scatter(to, from *tensor.Tensor, places []int64, length, lo, hi int)
	// fill sets the elements lo to hi to element i of a tensor.
	fill(to *tensor.Tensor, lo, hi int, from *tensor.Tensor, i int)
	// clear sets the elements lo to hi to zero.
	clear(to *tensor.Tensor, lo, hi int)
}

// moverOf moves elements of Go type T, which view finds in a tensor.
type moverOf[T any] struct {
	view func(*tensor.Tensor) []T
}

// moverFor returns the mover of a type's elements. The packed types have none.
func moverFor(t onnx.DataType) (mover, error) {
	switch {
	case t == onnx.String:
		return moverOf[string]{stringsOf}, nil
	case t.Bits() == 8:
		return moverOf[uint8]{tensor.Of[uint8]}, nil
	case t.Bits() == 16:
		return moverOf[uint16]{tensor.Of[uint16]}, nil
	case t.Bits() == 32:
		return moverOf[uint32]{tensor.Of[uint32]}, nil
	case t.Bits() == 64:
		return moverOf[uint64]{tensor.Of[uint64]}, nil
	case t.Bits() == 128:
		return moverOf[complex128]{tensor.Of[complex128]}, nil
	}
	return nil, device.UnsupportedType(t)
}

func (m moverOf[T]) fill(to *tensor.Tensor, lo, hi int, from *tensor.Tensor, i int) {
	fill(m.view(to)[lo:hi], m.view(from)[i])
}

func (m moverOf[T]) clear(to *tensor.Tensor, lo, hi int) { clear(m.view(to)[lo:hi]) }

// moveGrain is how many moved elements are worth a thread.
const moveGrain = 1 << 15

// grain returns how many iterations of the given number of elements are worth
// a thread.
func grain(elements int) int { return max(1, moveGrain/max(1, elements)) }

// content reads the integers in a call's inputs, for the functions of package
// op that resolve a node's parameters.
func content(c *device.Call) op.Content {
	return func(i int) ([]int64, bool) {
		if i >= len(c.In) || c.In[i] == nil {
			return nil, false
		}
		list, err := c.In[i].Ints()
		return list, err == nil
	}
}

// knownShape returns a concrete shape as dimensions.
func knownShape(t *tensor.Tensor) []op.Dim { return op.Dims(t.Shape...) }

// reservePlaces reserves scratch memory for n places.
func reservePlaces(c *device.Call, n int) { c.Scratch.Reserve(8 * n) }

// places returns scratch memory as a list of n places.
func places(c *device.Call, n int) []int64 {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*int64)(unsafe.Pointer(unsafe.SliceData(c.Scratch.Bytes()))), n)
}

// openShapes are the outputs of a call that get their shapes when it runs.
type openShapes struct {
	call *device.Call
	open []bool
}

func openOutputs(c *device.Call) *openShapes {
	s := &openShapes{call: c, open: make([]bool, len(c.Out))}
	for i, t := range c.Out {
		s.open[i] = t != nil && t.Shape == nil
	}
	return s
}

// shape gives output i a shape and memory where it has none yet.
func (s *openShapes) shape(i int, shape ...int) {
	if s.open[i] {
		s.call.Allocate(i, shape...)
	}
}
