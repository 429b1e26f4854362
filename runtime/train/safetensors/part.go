package safetensors

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Part is where in a larger tensor a part begins, which is as long along each
// axis as its own shape says.
type Part struct {
	Shape []int // of the larger one
	From  []int // the first index along each axis
}

// Whole returns the shape of the whole tensor.
func (n Named) Whole() []int {
	if n.Part == nil {
		return n.Shape
	}
	return n.Part.Shape
}

// Ranges calls f with the runs of bytes of the part, in their order: where
// each begins in the whole tensor, and where in the part. It ends with the
// first error of f, or with one where the part is not within the whole.
func (n Named) Ranges(f func(whole, part int64, bytes int) error) error {
	if n.Part == nil {
		return f(0, 0, tensor.ByteSize(n.Type, n.Len()))
	}
	whole, from, size := n.Part.Shape, n.Part.From, n.Shape
	if len(whole) != len(size) || len(from) != len(size) {
		return n.misplaced()
	}
	for i := range size {
		if from[i] < 0 || size[i] > whole[i]-from[i] {
			return n.misplaced()
		}
	}
	width := n.Type.Bits() / 8
	if n.Type.Bits()%8 != 0 {
		return fmt.Errorf("tensor %q: elements of type %s are not whole bytes, and cannot be divided", n.Name, n.Type)
	}
	// All axes behind the last one that is divided lie in one run.
	axis := len(size) - 1
	for axis > 0 && size[axis] == whole[axis] {
		axis--
	}
	if n.Len() == 0 {
		return nil
	}
	if len(size) == 0 {
		return f(0, 0, width)
	}
	inner := tensor.Count(whole[axis+1:])
	run := size[axis] * inner
	index := make([]int, axis) // along the axes before
	for at := int64(0); ; at += int64(run) {
		start := 0
		for i, x := range index {
			start = start*whole[i] + from[i] + x
		}
		start = (start*whole[axis] + from[axis]) * inner
		if err := f(int64(start)*int64(width), at*int64(width), run*width); err != nil {
			return err
		}
		i := axis - 1
		for ; i >= 0; i-- {
			if index[i]++; index[i] < size[i] {
				break
			}
			index[i] = 0
		}
		if i < 0 {
			return nil
		}
	}
}

func (n Named) misplaced() error {
	return fmt.Errorf("tensor %q: %s at %v is no part of %s", n.Name, tensor.FormatShape(n.Shape), n.Part.From, tensor.FormatShape(n.Part.Shape))
}

// TakeFrom copies the part, or all, of a whole tensor of the same type.
func (n Named) TakeFrom(whole *tensor.Tensor) error {
	if whole.Type != n.Type || !slices.Equal(whole.Shape, n.Whole()) {
		return fmt.Errorf("tensor %q is %s, not %s%s", n.Name, whole, n.Type, tensor.FormatShape(n.Whole()))
	}
	return n.Ranges(func(from, to int64, bytes int) error {
		copy(n.Data[to:to+int64(bytes)], whole.Data[from:])
		return nil
	})
}
