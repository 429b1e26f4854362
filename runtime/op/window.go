package op

import (
	"fmt"
	"math"
)

// Windows says how the kernel of a convolution or pooling slides over the
// spatial dimensions of an image. Every list has an entry for each of them.
type Windows struct {
	Kernel, Stride, Dilation []int
	Before, After            []int // padding at both ends of the image

	autoPad string
	ceil    bool // ceil_mode: a last window may reach over the end
}

// windowAttributes are the names that [WindowsOf] reads.
var windowAttributes = []string{"auto_pad", "dilations", "kernel_shape", "pads", "strides"}

// maxWindowValue bounds attributes of windows, so that their products do not
// overflow.
const maxWindowValue = 1 << 20

// WindowsOf reads the windows of a node over a number of spatial dimensions.
// kernel is the shape of the kernel, where that is known from a weight; nil
// takes the attribute kernel_shape.
func WindowsOf(n *Node, rank int, kernel []int64) (*Windows, error) {
	if rank < 1 {
		return nil, fmt.Errorf("needs at least one spatial dimension")
	}
	if given := n.Ints("kernel_shape"); given != nil {
		for i := range kernel {
			if len(given) != len(kernel) || given[i] != kernel[i] {
				return nil, fmt.Errorf("kernel_shape is %v, but the weight has %v", given, kernel)
			}
		}
		kernel = given
	}
	if kernel == nil {
		return nil, fmt.Errorf("lacks the attribute kernel_shape")
	}
	w := &Windows{autoPad: n.String("auto_pad", "NOTSET"), ceil: n.Int("ceil_mode", 0) != 0}
	var err error
	read := func(name string, values []int64, length, least int) []int {
		out := make([]int, length)
		if values == nil {
			for i := range out {
				out[i] = least
			}
			return out
		}
		if len(values) != length {
			err = fmt.Errorf("%s is %v, needs %d values", name, values, length)
			return out
		}
		for i, v := range values {
			if v < int64(least) || v > maxWindowValue {
				err = fmt.Errorf("%s is %v, needs values from %d to %d", name, values, least, maxWindowValue)
			}
			out[i] = int(v)
		}
		return out
	}
	w.Kernel = read("kernel_shape", kernel, rank, 1)
	taps := 1
	for _, k := range w.Kernel {
		if taps *= k; taps > 1<<30 {
			return nil, fmt.Errorf("a kernel of shape %v is too large", kernel)
		}
	}
	w.Stride = read("strides", n.Ints("strides"), rank, 1)
	w.Dilation = read("dilations", n.Ints("dilations"), rank, 1)
	pads := read("pads", n.Ints("pads"), 2*rank, 0)
	w.Before, w.After = pads[:rank], pads[rank:]
	switch w.autoPad {
	case "NOTSET", "":
	case "VALID", "SAME_UPPER", "SAME_LOWER":
		w.Before, w.After = make([]int, rank), make([]int, rank)
	default:
		err = fmt.Errorf("auto_pad %q is not known", w.autoPad)
	}
	return w, err
}

// extent returns the length that a kernel covers along an axis.
func (w *Windows) extent(axis int) int { return (w.Kernel[axis]-1)*w.Dilation[axis] + 1 }

// Positions returns how many windows an image has along each axis. It decides
// the padding where auto_pad leaves that open.
func (w *Windows) Positions(image []int) ([]int, error) {
	out := make([]int, len(image))
	for i, length := range image {
		var err error
		if out[i], err = w.slide(i, length); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (w *Windows) slide(axis, length int) (int, error) {
	if length > math.MaxInt/4 {
		return 0, fmt.Errorf("spatial dimension %d is too large", length)
	}
	stride, extent := w.Stride[axis], w.extent(axis)
	if w.autoPad == "SAME_UPPER" || w.autoPad == "SAME_LOWER" {
		count := (length + stride - 1) / stride
		padding := max((count-1)*stride+extent-length, 0)
		w.Before[axis] = padding / 2
		if w.autoPad == "SAME_LOWER" {
			w.Before[axis] = padding - padding/2
		}
		w.After[axis] = padding - w.Before[axis]
		return count, nil
	}
	room := length + w.Before[axis] + w.After[axis] - extent
	if room < 0 {
		return 0, fmt.Errorf("a kernel that covers %d elements does not fit into %d with padding %d and %d",
			extent, length, w.Before[axis], w.After[axis])
	}
	count := room/stride + 1
	if w.ceil && room%stride != 0 && count*stride < length+w.Before[axis] {
		count++ // a window must not begin in the padding at the end
	}
	return count, nil
}

// unslide returns the length of the image whose windows a transposed
// convolution sums, given their number along an axis. wanted is that length
// where output_shape states it, or negative.
func (w *Windows) unslide(axis, count, extra, wanted int) (int, error) {
	if count > math.MaxInt/4/w.Stride[axis] {
		return 0, fmt.Errorf("spatial dimension %d is too large", count)
	}
	whole := w.Stride[axis]*(count-1) + extra + w.extent(axis)
	same := w.autoPad == "SAME_UPPER" || w.autoPad == "SAME_LOWER"
	if wanted < 0 && same {
		wanted = count * w.Stride[axis]
	}
	if wanted >= 0 {
		padding := max(whole-wanted, 0)
		w.Before[axis] = padding - padding/2
		if w.autoPad == "SAME_UPPER" {
			w.Before[axis] = padding / 2
		}
		w.After[axis] = padding - w.Before[axis]
		return wanted, nil
	}
	length := whole - w.Before[axis] - w.After[axis]
	if length < 0 {
		return 0, fmt.Errorf("padding %d and %d removes all of %d elements", w.Before[axis], w.After[axis], whole)
	}
	return length, nil
}
