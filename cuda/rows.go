//go:build fmoecuda

package cuda

import (
	"slices"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", bindReduce, "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
	register(moe.Domain, bindSumTo, "SumTo")
	register("", bindSoftmax, "Softmax", "LogSoftmax")
	register(moe.Domain, bindSoftmaxGradient, "SoftmaxGradient", "LogSoftmaxGradient")
	register("", bindNormalization, "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
	register("com.microsoft", bindNormalization, "SimplifiedLayerNormalization")
}

// The parameters of kernels, laid out as in rows.cu.
type linesParameters struct {
	x, y          uintptr
	lines         int64
	length, inner int32
}

// bindLines binds a kernel that looks at lines of elements inner apart.
func bindLines(d *Device, name string, c *device.Call, lines, length, inner int) (func() error, error) {
	end, err := ending(c.In[0].Type)
	if err != nil {
		return nil, err
	}
	if length == 0 || length > 1<<31-1 || inner > 1<<31-1 || lines > 1<<31-1 {
		return nil, errForm
	}
	l, err := newLaunch[linesParameters](d, name+end, lineThreads(length), lines)
	if err != nil {
		return nil, err
	}
	l.p.lines, l.p.length, l.p.inner = int64(lines), int32(length), int32(inner)
	return func() error {
		l.p.x, l.p.y = address(c.In[0]), address(c.Out[0])
		return l.run()
	}, nil
}

// lineThreads returns the threads for a line: whole warps.
func lineThreads(length int) int { return min(512, max(32, (length+127)/128*32)) }

func bindReduce(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	given := n.Ints("axes")
	if at(c.In, 1) != nil {
		var err error
		if given, err = c.In[1].Ints(); err != nil {
			return nil, err
		}
	}
	axes, err := op.ReduceAxes(n, given, c.In[0].Rank())
	if err != nil {
		return nil, err
	}
	return bindReduction(d, n.OpType, c, axes)
}

// bindSumTo adds up the axes along which the output is repeated in the input.
func bindSumTo(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
	from, to := c.In[0].Shape, c.Out[0].Shape
	var axes []int
	for i, n := range from {
		if j := i - (len(from) - len(to)); j < 0 || to[j] != n {
			axes = append(axes, i)
		}
	}
	return bindReduction(d, "ReduceSum", c, axes)
}

// bindReduction binds a reduction of the first input over axes in ascending
// order. Where they do not lie side by side, they are moved behind the others
// first.
func bindReduction(d *Device, name string, c *device.Call, axes []int) (func() error, error) {
	x := c.In[0]
	if len(axes) == 0 {
		return nil, errForm
	}
	first, last := axes[0], axes[len(axes)-1]
	if last-first == len(axes)-1 {
		outer, length, inner := tensor.Count(x.Shape[:first]), tensor.Count(x.Shape[first:last+1]), tensor.Count(x.Shape[last+1:])
		if inner >= 32 && length > 0 {
			return bindColumns(d, name, c, outer, length, inner)
		}
		return bindLines(d, name, c, outer*inner, length, max(inner, 1))
	}
	order := make([]int, 0, x.Rank())
	for i := range x.Shape {
		if !slices.Contains(axes, i) {
			order = append(order, i)
		}
	}
	kept := len(order)
	order = append(order, axes...)
	moved, strides, from := &tensor.Tensor{Type: x.Type}, denseStrides(x.Shape), make([]int, len(order))
	for i, axis := range order {
		moved.Shape, from[i] = append(moved.Shape, x.Shape[axis]), strides[axis]
	}
	size := x.Len() * x.Type.Bits() / 8
	c.Scratch.Reserve(size)
	move, err := bindMove(d, x, moved, moved.Shape, from, denseStrides(moved.Shape), 0, 0)
	if err != nil {
		return nil, err
	}
	inner := &device.Call{In: []*tensor.Tensor{moved}, Out: c.Out}
	reduce, err := bindLines(d, name, inner, tensor.Count(moved.Shape[:kept]), tensor.Count(moved.Shape[kept:]), 1)
	if err != nil {
		return nil, err
	}
	return func() error {
		moved.Data = c.Scratch.Bytes()[:size]
		if err := move(); err != nil {
			return err
		}
		return reduce()
	}, nil
}

type columnsParameters struct {
	x, y, parts                uintptr
	outer                      int64
	length, inner, part, count int32
}

// partsOf cuts a sum of many terms into parts of 256 at least, so that together
// with the other sums there are some hundred blocks. It depends on the shape
// alone.
func partsOf(terms, others int) (length, count int) {
	count = max(1, min(ceilDiv(terms, 256), ceilDiv(1024, max(others, 1))))
	length = ceilDiv(terms, count)
	return length, ceilDiv(terms, max(length, 1))
}

// bindColumns reduces the middle of [outer, length, inner].
func bindColumns(d *Device, name string, c *device.Call, outer, length, inner int) (func() error, error) {
	end, err := ending(c.In[0].Type)
	if err != nil {
		return nil, err
	}
	across := outer * ceilDiv(inner, 32)
	if length > 1<<31-1 || inner > 1<<31-1 || across > 1<<31-1 {
		return nil, errForm
	}
	part, count := partsOf(length, across)
	down, err := newLaunch[columnsParameters](d, name+"_columns"+end, 256, across, count)
	if err != nil {
		return nil, err
	}
	join, err := newLaunch[columnsParameters](d, name+"_join"+end, blockThreads, ceilDiv(outer*inner, blockThreads))
	if err != nil {
		return nil, err
	}
	*down.p = columnsParameters{outer: int64(outer), length: int32(length), inner: int32(inner), part: int32(part), count: int32(count)}
	join.p = down.p
	if count > 1 {
		c.Scratch.Reserve(4 * count * outer * inner)
	}
	return func() error {
		p := down.p
		p.x, p.y = address(c.In[0]), address(c.Out[0])
		if count == 1 {
			return down.run()
		}
		p.parts = scratchOf(c)
		return inOrder(down.run, join.run)()
	}, nil
}

func bindSoftmax(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	shape := c.In[0].Shape
	axis, err := op.SoftmaxAxis(n, len(shape))
	if err != nil {
		return nil, err
	}
	if axis == len(shape) {
		return nil, errForm
	}
	length, inner := shape[axis], tensor.Count(shape[axis+1:])
	if n.Since < 13 {
		length, inner = length*inner, 1
	}
	return bindLines(d, n.OpType, c, tensor.Count(shape[:axis])*inner, length, max(inner, 1))
}

type normalizationParameters struct {
	x, scale, bias, y, mean, deviation uintptr
	length, center                     int32
	epsilon                            float32
}

func bindNormalization(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, scale, bias := c.In[0], c.In[1], at(c.In, 2)
	end, err := endingOfAll(x, scale, bias)
	if err != nil {
		return nil, err
	}
	axis, err := op.Axis(n.Int("axis", -1), x.Rank())
	if err != nil {
		return nil, err
	}
	lines, length := tensor.Count(x.Shape[:axis]), tensor.Count(x.Shape[axis:])
	if length == 0 || length > 1<<31-1 || scale.Len() != length || bias != nil && bias.Len() != length {
		return nil, errForm
	}
	if end != "_f32" && !wantsOnly(c, 1) {
		return nil, errForm
	}
	l, err := newLaunch[normalizationParameters](d, "normalize"+end, lineThreads(length), lines)
	if err != nil {
		return nil, err
	}
	l.p.length, l.p.epsilon = int32(length), n.Float("epsilon", 1e-5)
	mean, deviation := at(c.Out, 1), at(c.Out, 2)
	if n.OpType == "LayerNormalization" {
		l.p.center = 1
	} else {
		mean, deviation = nil, mean
	}
	return func() error {
		l.p.x, l.p.scale, l.p.bias, l.p.y = address(x), address(scale), address(bias), address(c.Out[0])
		l.p.mean, l.p.deviation = address(mean), address(deviation)
		return l.run()
	}, nil
}

type linesGradientParameters struct {
	dy, y, dx     uintptr
	lines         int64
	length, inner int32
}

func bindSoftmaxGradient(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	end, err := endingOfAll(c.In...)
	if err != nil {
		return nil, err
	}
	shape := c.In[0].Shape
	axis, err := op.Axis(n.Int("axis", -1), len(shape))
	if err != nil {
		return nil, err
	}
	length, inner := shape[axis], tensor.Count(shape[axis+1:])
	lines := tensor.Count(shape[:axis]) * inner
	if length == 0 || length > 1<<31-1 || inner > 1<<31-1 || lines > 1<<31-1 {
		return nil, errForm
	}
	l, err := newLaunch[linesGradientParameters](d, n.OpType+end, lineThreads(length), lines)
	if err != nil {
		return nil, err
	}
	l.p.lines, l.p.length, l.p.inner = int64(lines), int32(length), int32(max(inner, 1))
	return func() error {
		l.p.dy, l.p.y, l.p.dx = address(c.In[0]), address(c.In[1]), address(c.Out[0])
		return l.run()
	}, nil
}
