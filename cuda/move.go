//go:build fmoecuda

package cuda

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", bindTranspose, "Transpose")
	register("", bindSlice, "Slice")
	register("", bindExpand, "Expand")
	register("", bindConcat, "Concat")
	register("", bindSplit, "Split")
	register("", bindGather, "Gather")
}

// The parameters of kernels, laid out as in move.cu.
type moveParameters struct {
	x, y         uintptr
	n            int64
	rank         int32
	dims         [maxRank]int32
	from, to     [maxRank]int64
	first, start int64
}

// newMove makes the launch that copies elements at strides.
func newMove(d *Device, t onnx.DataType, dims, from, to []int, first, start int) (*launch[moveParameters], error) {
	width, err := widthOf(t)
	if err != nil {
		return nil, err
	}
	n := tensor.Count(dims)
	l, err := newLaunch[moveParameters](d, "move"+width, blockThreads, blocks(n))
	if err != nil {
		return nil, err
	}
	dims, strides := collapse(dims, [][]int{from, to})
	if len(dims) > maxRank {
		return nil, errForm
	}
	l.p.n, l.p.rank, l.p.first, l.p.start = int64(n), int32(len(dims)), int64(first), int64(start)
	for i, n := range dims {
		l.p.dims[i], l.p.from[i], l.p.to[i] = int32(n), int64(strides[0][i]), int64(strides[1][i])
	}
	return l, nil
}

// bindMove binds newMove from one tensor to another.
func bindMove(d *Device, x, y *tensor.Tensor, dims, from, to []int, first, start int) (func() error, error) {
	l, err := newMove(d, y.Type, dims, from, to, first, start)
	if err != nil {
		return nil, err
	}
	return func() error {
		l.p.x, l.p.y = address(x), address(y)
		return l.run()
	}, nil
}

// denseStrides returns the strides of a dense tensor.
func denseStrides(shape []int) []int {
	strides, n := make([]int, len(shape)), 1
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i] = n
		n *= shape[i]
	}
	return strides
}

func bindTranspose(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, y := c.In[0], c.Out[0]
	order, err := op.Permutation(n, x.Rank())
	if err != nil {
		return nil, err
	}
	strides := denseStrides(x.Shape)
	from := make([]int, len(order))
	for i, axis := range order {
		from[i] = strides[axis]
	}
	return bindMove(d, x, y, y.Shape, from, denseStrides(y.Shape), 0, 0)
}

func bindSlice(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, y := c.In[0], c.Out[0]
	picked, err := op.SliceStrides(n, op.Dims(x.Shape...), content(c))
	if err != nil {
		return nil, err
	}
	if picked == nil {
		return nil, errForm
	}
	strides := denseStrides(x.Shape)
	from, first := make([]int, len(picked)), 0
	for i, p := range picked {
		from[i] = p.Step * strides[i]
		first += p.Start * strides[i]
	}
	return bindMove(d, x, y, y.Shape, from, denseStrides(y.Shape), first, 0)
}

func bindExpand(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
	x, y := c.In[0], c.Out[0]
	from, err := broadcastStrides(x.Shape, y.Shape)
	if err != nil {
		return nil, err
	}
	return bindMove(d, x, y, y.Shape, from, denseStrides(y.Shape), 0, 0)
}

func bindConcat(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	y := c.Out[0]
	axis, err := op.Axis(n.Int("axis", 0), y.Rank())
	if err != nil {
		return nil, err
	}
	strides := denseStrides(y.Shape)
	moves, start := make([]func() error, len(c.In)), 0
	for i, x := range c.In {
		if moves[i], err = bindMove(d, x, y, x.Shape, denseStrides(x.Shape), strides, 0, start); err != nil {
			return nil, err
		}
		start += x.Shape[axis] * strides[axis]
	}
	return inOrder(moves...), nil
}

func bindSplit(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x := c.In[0]
	axis, err := op.Axis(n.Int("axis", 0), x.Rank())
	if err != nil {
		return nil, err
	}
	lengths, err := op.SplitLengths(n, op.Dim(x.Shape[axis]), len(c.Out), content(c))
	if err != nil {
		return nil, err
	}
	if lengths == nil {
		return nil, errForm
	}
	strides := denseStrides(x.Shape)
	var moves []func() error
	first := 0
	for i, y := range c.Out {
		if y != nil {
			m, err := bindMove(d, x, y, y.Shape, strides, denseStrides(y.Shape), first, 0)
			if err != nil {
				return nil, err
			}
			moves = append(moves, m)
		}
		first += int(lengths[i]) * strides[axis]
	}
	return inOrder(moves...), nil
}

// inOrder runs steps one after the other.
func inOrder(steps ...func() error) func() error {
	return func() error {
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}
}

type gatherParameters struct {
	x, indices, y, fault uintptr
	n                    int64
	wide                 int32
	axis, count, inner   int64
}

func bindGather(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, indices, y := c.In[0], c.In[1], c.Out[0]
	axis, err := op.Axis(n.Int("axis", 0), x.Rank())
	if err != nil {
		return nil, err
	}
	width, err := widthOf(x.Type)
	if err != nil {
		return nil, err
	}
	l, err := newLaunch[gatherParameters](d, "gather"+width, blockThreads, blocks(y.Len()))
	if err != nil {
		return nil, err
	}
	switch indices.Type {
	case onnx.Int64:
		l.p.wide = 1
	case onnx.Int32:
	default:
		return nil, errForm
	}
	if x.Len() == 0 {
		return nil, errForm
	}
	l.p.n, l.p.axis, l.p.count, l.p.inner = int64(y.Len()), int64(x.Shape[axis]), int64(indices.Len()), int64(tensor.Count(x.Shape[axis+1:]))
	fault := &tensor.Tensor{Data: d.fault}
	return func() error {
		l.p.x, l.p.indices, l.p.y, l.p.fault = address(x), address(indices), address(y), address(fault)
		return l.run()
	}, nil
}
