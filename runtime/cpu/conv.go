package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Conv", floatKernel(bindConv[float32], bindConv[float64], 0))
	register("", "ConvTranspose", floatKernel(bindConvTranspose[float32], bindConvTranspose[float64], 0))
	register("", "ConvInteger", newConvInteger)
	register("", "QLinearConv", newQLinearConv)
}

// convolution computes y = w·x for each batch and group, where x's windows are
// the columns of a matrix.
type convolution[T simd.Number] struct {
	*sliding
	batch, groups int
	in, out       int        // channels of a group
	x, w, y, bias func() []T // bias is nil where there is none
}

func newConvolution[T simd.Number](n *op.Node, x, w *tensor.Tensor) (*convolution[T], error) {
	windows, err := op.ConvWindows(n, w.Shape)
	if err != nil {
		return nil, err
	}
	groups, err := op.ConvGroups(n)
	if err != nil {
		return nil, err
	}
	grid, err := windows.Positions(x.Shape[2:])
	if err != nil {
		return nil, err
	}
	return &convolution[T]{sliding: newSliding(windows, x.Shape[2:], grid),
		batch: x.Shape[0], groups: groups, in: w.Shape[1], out: w.Shape[0] / groups,
		x: elements[T](x), w: elements[T](w)}, nil
}

// elements returns a function that looks a tensor up.
func elements[T simd.Number](t *tensor.Tensor) func() []T {
	return func() []T { return tensor.Of[T](t) }
}

func bindConv[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	v, err := newConvolution[T](n, c.In[0], c.In[1])
	if err != nil {
		return nil, err
	}
	v.y = elements[T](c.Out[0])
	if bias := at(c.In, 2); bias != nil {
		v.bias = elements[T](bias)
	}
	return v.bind(d, c.Scratch), nil
}

// bind cuts the work by batch, group, output channels and positions, in the
// same way for any number of threads.
func (v *convolution[T]) bind(d *Device, scratch *device.Scratch) func() error {
	depth := v.in * v.taps
	rows := min(v.out, 128)
	cols := min(v.positions, max(64, 1<<17/max(depth, 1)/16*16))
	if v.batch*v.groups*rows*cols == 0 {
		return func() error { return nil }
	}
	downs, rights := (v.out+rows-1)/rows, (v.positions+cols-1)/cols
	direct := v.identity()
	gathered := depth * cols
	if direct {
		gathered = 0
	}
	space := newWorkspace[T](d, scratch, 0, gathered+simd.WorkLen[T](rows, depth, cols))
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		x, w, y := v.x(), v.w(), v.y()
		for i := lo; i < hi; i++ {
			down, right, image := i%downs*rows, i/downs%rights*cols, i/downs/rights
			group := image % v.groups
			height, width := min(rows, v.out-down), min(cols, v.positions-right)
			channels := x[image*v.in*v.size:]
			windows := simd.Matrix[T]{Rows: depth, Cols: width, RowStride: width, ColStride: 1}
			if direct {
				windows.RowStride = v.size
				if depth > 0 {
					windows.Data = channels[right:]
				}
			} else {
				windows.Data = work[:gathered]
				v.gather(windows.Data, channels, right, width)
			}
			first := group*v.out + down
			out := y[(image*v.out+down)*v.positions+right:]
			weights := simd.RowMajor(w[first*depth:], height, depth)
			simd.Multiply(out, v.positions, weights, windows, work[gathered:])
			if v.bias != nil {
				bias := v.bias()[first:]
				for j := range height {
					addScalar(out[j*v.positions:][:width], bias[j])
				}
			}
		}
	}
	grain := max(1, pieceWork/max(1, rows*cols*depth))
	return func() error {
		space.open()
		d.pool.run(v.batch*v.groups*downs*rights, grain, body)
		return nil
	}
}

// gather writes the windows at positions from … from+count−1 as columns: a row
// for each channel and tap.
func (v *convolution[T]) gather(to, channels []T, from, count int) {
	clear(to[:v.in*v.taps*count])
	step := v.step()
	for r := range v.in * v.taps {
		x, row := channels[r/v.taps*v.size:], to[r*count:][:count]
		v.runs(r%v.taps, from, from+count, func(position, element, count int) {
			row := row[position-from:][:count]
			if step == 1 {
				copy(row, x[element:])
				return
			}
			for j := range row {
				row[j] = x[element+j*step]
			}
		})
	}
}

func addScalar[T simd.Number](x []T, v T) {
	for i := range x {
		x[i] += v
	}
}

// bindConvTranspose computes the products of weights and inputs for every tap
// and adds them up where the taps lie in the output.
func bindConvTranspose[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	x, w := c.In[0], c.In[1]
	windows, image, err := op.ConvTransposeWindows(n, w.Shape, x.Shape[2:])
	if err != nil {
		return nil, err
	}
	groups, err := op.ConvGroups(n)
	if err != nil {
		return nil, err
	}
	s := newSliding(windows, image, x.Shape[2:])
	in, out := w.Shape[0]/groups, w.Shape[1]
	rows := max(1, min(out, 1<<16/max(s.taps*s.positions, 1))) // output channels of a piece
	downs := (out + rows - 1) / rows
	products := rows * s.taps * s.positions
	space := newWorkspace[T](d, c.Scratch, 0, products+simd.WorkLen[T](rows*s.taps, in, s.positions))
	step := s.step()
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		images, weights, y := tensor.Of[T](x), tensor.Of[T](w), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			image, first := i/downs, i%downs*rows
			group := image % groups
			count := min(rows, out-first)
			if in*s.positions > 0 {
				left := simd.Matrix[T]{Data: weights[(group*in*out+first)*s.taps:], Rows: count * s.taps, Cols: in,
					RowStride: 1, ColStride: out * s.taps}
				right := simd.RowMajor(images[image*in*s.positions:], in, s.positions)
				simd.Multiply(work, s.positions, left, right, work[products:])
			} else {
				clear(work[:products])
			}
			for j := range count {
				channel := y[(image*out+first+j)*s.size:][:s.size]
				clear(channel)
				if bias := at(c.In, 2); bias != nil {
					addScalar(channel, tensor.Of[T](bias)[group*out+first+j])
				}
				for tap := range s.taps {
					from := work[(j*s.taps+tap)*s.positions:]
					s.runs(tap, 0, s.positions, func(position, element, count int) {
						for k, v := range from[position:][:count] {
							channel[element+k*step] += v
						}
					})
				}
			}
		}
	}
	pieces := x.Shape[0] * groups * downs
	if s.size == 0 || out == 0 {
		pieces = 0
	}
	return func() error {
		space.open()
		d.pool.run(pieces, max(1, pieceWork/max(1, products*in)), body)
		return nil
	}, nil
}

// newConvInteger makes the kernel of ConvInteger, whose inputs are x, w and
// their zero points.
func newConvInteger(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		return bindIntegerSum(d, c, n, c.In[0], at(c.In, 2), c.In[1], at(c.In, 3), nil, c.Out[0])
	}), nil
}

// bindIntegerSum convolves 8-bit tensors in int32, after their zero points are
// subtracted.
func bindIntegerSum(d *Device, c *device.Call, n *op.Node, x, xZero, w, wZero, bias, y *tensor.Tensor) (func() error, error) {
	wideX, wideW := tensor.New(onnx.Int32, x.Shape...), tensor.New(onnx.Int32, w.Shape...)
	v, err := newConvolution[int32](n, wideX, wideW)
	if err != nil {
		return nil, err
	}
	v.y = elements[int32](y)
	if bias != nil {
		v.bias = elements[int32](bias)
	}
	loadX, loadW := centered(wideX, x, xZero), centered(wideW, w, wZero)
	convolve := v.bind(d, c.Scratch)
	return func() error {
		loadX()
		loadW()
		return convolve()
	}, nil
}

// centered returns the function that subtracts from an 8-bit tensor its zero
// point: one for all, one for each entry of dimension 0, or none.
func centered(to, from, zero *tensor.Tensor) func() {
	values := tensor.Of[int32](to)
	if zero == nil || len(values) == 0 {
		return func() { load(values, from) }
	}
	shifts := make([]int32, zero.Len())
	each := len(values) / len(shifts)
	return func() {
		load(values, from)
		load(shifts, zero)
		for i := range values {
			values[i] -= shifts[i/each]
		}
	}
}

func load(to []int32, from *tensor.Tensor) {
	if from.Type == onnx.Int8 {
		for i, v := range tensor.Of[int8](from) {
			to[i] = int32(v)
		}
		return
	}
	for i, v := range tensor.Of[uint8](from) {
		to[i] = int32(v)
	}
}

// newQLinearConv makes the kernel of QLinearConv: x, w and y each come with a
// scale and a zero point, then the bias in int32.
func newQLinearConv(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		sums := tensor.New(onnx.Int32, c.Out[0].Shape...)
		sum, err := bindIntegerSum(d, c, n, c.In[0], c.In[2], c.In[3], c.In[5], at(c.In, 8), sums)
		if err != nil {
			return nil, err
		}
		_, channels, plane := channelSplit(c.Out[0].Shape)
		return func() error {
			if err := sum(); err != nil {
				return err
			}
			scale := float64(tensor.Of[float32](c.In[1])[0]) / float64(tensor.Of[float32](c.In[6])[0])
			weights := tensor.Of[float32](c.In[4])
			var zero [1]int32
			load(zero[:], c.In[7])
			for i, v := range tensor.Of[int32](sums) {
				weight := weights[i/plane%channels%len(weights)]
				scaled := math.RoundToEven(float64(v)*scale*float64(weight)) + float64(zero[0])
				if c.Out[0].Type == onnx.Int8 {
					tensor.Of[int8](c.Out[0])[i] = int8(max(-128, min(127, scaled)))
				} else {
					tensor.Of[uint8](c.Out[0])[i] = uint8(max(0, min(255, scaled)))
				}
			}
			return nil
		}, nil
	}), nil
}
