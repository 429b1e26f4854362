package cpu

import (
	"fmt"
	"slices"
	"sync"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Gathering happens in two parts: first indices become places, which are
// offsets in the source, and those outside it are found; then elements move.
func init() {
	registerAnyType("", "Gather", newGather)
	registerAnyType("", "GatherElements", newGatherElements)
	registerAnyType("", "GatherND", newGatherND)
	registerAnyType("", "Compress", newCompress)
	registerAnyType("", "ReverseSequence", newReverseSequence)
	for _, name := range []string{"Gather", "GatherElements", "GatherND"} {
		register(moe.Domain, name+"Gradient", floatKernel(bindGatherGradient[float32], bindGatherGradient[float64], 0))
	}
}

// gathering copies runs of length elements from each of several groups, which
// are stride apart in the source. The places of its count runs are the same in
// every group.
type gathering struct{ groups, stride, count, length int }

func (m moverOf[T]) gather(to, from *tensor.Tensor, places []int64, g *gathering, lo, hi int) {
	y, x := m.view(to), m.view(from)
	group, i := lo/g.count, lo%g.count
	for run := lo; run < hi; run++ {
		at := group*g.stride + int(places[i])
		if g.length == 1 {
			y[run] = x[at]
		} else {
			copy(y[run*g.length:(run+1)*g.length], x[at:])
		}
		if i++; i == g.count {
			group, i = group+1, 0
		}
	}
}

// bindGather returns a function that copies from input 0 to output 0, whose
// places resolve has written into the list it is given.
func (d *Device) bindGather(c *device.Call, g *gathering, resolve func(list []int64) error) (func() error, error) {
	m, err := moverFor(c.In[0].Type)
	if err != nil {
		return nil, err
	}
	reservePlaces(c, g.count)
	var list []int64
	body := func(lo, hi int) { m.gather(c.Out[0], c.In[0], list, g, lo, hi) }
	return func() error {
		list = places(c, g.count)
		if err := resolve(list); err != nil {
			return err
		}
		if g.length > 0 {
			d.pool.run(g.groups*g.count, grain(g.length), body)
		}
		return nil
	}, nil
}

// indexList is a tensor of int32 or int64.
type indexList struct {
	wide   []int64
	narrow []int32
}

func indicesOf(t *tensor.Tensor) indexList {
	if t.Type == onnx.Int32 {
		return indexList{narrow: tensor.Of[int32](t)}
	}
	return indexList{wide: tensor.Of[int64](t)}
}

func (l *indexList) get(i int) int64 {
	if l.narrow != nil {
		return int64(l.narrow[i])
	}
	return l.wide[i]
}

// at returns index i within an axis of the given length; negative ones count
// from its end. It fails for those outside the axis.
func (l *indexList) at(i, length int) (int, error) {
	v := l.get(i)
	if v < -int64(length) || v >= int64(length) {
		return 0, fmt.Errorf("index %d (element %d of the indices) is outside an axis of length %d", v, i, length)
	}
	if v < 0 {
		v += int64(length)
	}
	return int(v), nil
}

// check keeps the error of the first iteration of a parallel loop that failed,
// the same for any number of threads.
type check struct {
	mu  sync.Mutex
	at  int
	err error
}

func (k *check) fail(at int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil || at < k.at {
		k.at, k.err = at, err
	}
}

func (k *check) take() error {
	err := k.err
	k.err = nil
	return err
}

func newGather(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		axis, err := op.Axis(n.Int("axis", 0), c.In[0].Rank())
		if err != nil {
			return nil, err
		}
		outer, length, inner := splitAt(c.In[0].Shape, axis)
		g := &gathering{groups: outer, stride: length * inner, count: c.In[1].Len(), length: inner}
		return d.bindGather(c, g, axisPlaces(c.In[1], length, inner))
	}), nil
}

// axisPlaces resolves the indices of Gather: positions of an axis of the given
// length, inner elements apart.
func axisPlaces(indices *tensor.Tensor, length, inner int) func(list []int64) error {
	return func(list []int64) error {
		given := indicesOf(indices)
		for i := range list {
			v, err := given.at(i, length)
			if err != nil {
				return err
			}
			list[i] = int64(v * inner)
		}
		return nil
	}
}

func newGatherElements(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		resolve, err := d.elementPlaces(n, c.In[0].Shape, c.In[1])
		if err != nil {
			return nil, err
		}
		return d.bindGather(c, &gathering{groups: 1, count: c.In[1].Len(), length: 1}, resolve)
	}), nil
}

// elementPlaces resolves the indices of GatherElements and ScatterElements in
// data of the given shape: each replaces one coordinate of its own position.
func (d *Device) elementPlaces(n *op.Node, data []int, positions *tensor.Tensor) (func(list []int64) error, error) {
	indices := positions.Shape
	axis, err := op.Axis(n.Int("axis", 0), len(data))
	if err != nil {
		return nil, err
	}
	strides := stridesOf(data)
	length, step := data[axis], strides[axis]
	var loops []loop // loops.from is the place without the axis's part
	for i, dim := range indices {
		from := strides[i]
		if i == axis {
			from = 0
		}
		if dim != 1 {
			loops = append(loops, loop{length: dim, from: from})
		}
	}
	if len(loops) > maxLoops {
		return nil, fmt.Errorf("%d dimensions are not supported", len(indices))
	}
	count := positions.Len()
	var list []int64
	var fault check
	body := func(lo, hi int) {
		given := indicesOf(positions)
		o := odometer{loops: loops}
		o.seek(lo)
		for i := lo; i < hi; i++ {
			v, err := given.at(i, length)
			if err != nil {
				fault.fail(i, err)
				return
			}
			list[i] = int64(o.from + v*step)
			o.next()
		}
	}
	return func(l []int64) error {
		list = l
		d.pool.run(count, elementwiseGrain, body)
		return fault.take()
	}, nil
}

func newGatherND(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		count, length, resolve := tuplePlaces(c.In[0].Shape, c.In[1], int(n.Int("batch_dims", 0)))
		return d.bindGather(c, &gathering{groups: 1, count: count, length: length}, resolve)
	}), nil
}

// tuplePlaces resolves the indices of GatherND and ScatterND in data of the
// given shape: count tuples, each the leading coordinates, behind those of the
// batch, of a run of length elements.
func tuplePlaces(data []int, tuples *tensor.Tensor, batchDims int) (count, length int, resolve func(list []int64) error) {
	indices := tuples.Shape
	last := len(indices) - 1
	width := indices[last]
	axes, strides := data[batchDims:batchDims+width], stridesOf(data)[batchDims:]
	count, length = tensor.Count(indices[:last]), tensor.Count(data[batchDims+width:])
	perBatch, batchSize := tensor.Count(indices[batchDims:last]), tensor.Count(data[batchDims:])
	return count, length, func(list []int64) error {
		given := indicesOf(tuples)
		for i := range list {
			place := i / perBatch * batchSize
			for j, dim := range axes {
				v, err := given.at(i*width+j, dim)
				if err != nil {
					return err
				}
				place += v * strides[j]
			}
			list[i] = int64(place)
		}
		return nil
	}
}

func newCompress(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		in, flat := c.In[0], n.Attribute("axis") == nil
		outer, length, inner, axis, shape := 1, in.Len(), 1, 0, []int{0}
		if !flat {
			var err error
			if axis, err = op.Axis(n.Int("axis", 0), in.Rank()); err != nil {
				return nil, err
			}
			shape = slices.Clone(in.Shape)
			outer, length, inner = splitAt(in.Shape, axis)
		}
		m, err := moverFor(in.Type)
		if err != nil {
			return nil, err
		}
		reservePlaces(c, c.In[1].Len())
		g := &gathering{groups: outer, stride: length * inner, length: inner}
		open := openOutputs(c)
		var list []int64
		body := func(lo, hi int) { m.gather(c.Out[0], in, list, g, lo, hi) }
		return func() error {
			list = places(c, c.In[1].Len())
			g.count = 0
			for i, chosen := range tensor.Of[uint8](c.In[1]) {
				if chosen == 0 {
					continue
				}
				if i >= length {
					return fmt.Errorf("condition chooses element %d of an axis of length %d", i, length)
				}
				list[g.count] = int64(i * inner)
				g.count++
			}
			shape[axis] = g.count
			open.shape(0, shape...)
			d.pool.run(outer*g.count, grain(inner), body)
			return nil
		}, nil
	}), nil
}

// newReverseSequence gathers element j of a sequence of which the first n are
// reversed from n−1−j.
func newReverseSequence(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		shape := c.In[0].Shape
		rows, columns, inner := shape[0], shape[1], tensor.Count(shape[2:])
		batchFirst := n.Int("batch_axis", 1) == 0
		g := &gathering{groups: 1, count: rows * columns, length: inner}
		return d.bindGather(c, g, func(list []int64) error {
			lengths := indicesOf(c.In[1])
			for i := range list {
				row, column := i/columns, i%columns
				time, batch, limit := &row, column, rows
				if batchFirst {
					time, batch, limit = &column, row, columns
				}
				reversed := lengths.get(batch)
				if reversed < 0 || reversed > int64(limit) {
					return fmt.Errorf("sequence %d of a batch of sequences of length %d has the length %d", batch, limit, reversed)
				}
				if *time < int(reversed) {
					*time = int(reversed) - 1 - *time
				}
				list[i] = int64((row*columns + column) * inner)
			}
			return nil
		})
	}), nil
}

// bindGatherGradient adds runs of input 0 to where they were gathered from. A
// stable counting sort lists, for each run of the output, those that it is the
// sum of, so that each thread computes some of the output's runs, in an order
// that does not depend on their number.
func bindGatherGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	g := gathering{groups: 1, count: c.In[1].Len(), length: 1}
	shape, indices := c.Out[0].Shape, c.In[1]
	var resolve func(list []int64) error
	var err error
	switch n.OpType {
	case "GatherGradient":
		axis, err := op.Axis(n.Int("axis", 0), len(shape))
		if err != nil {
			return nil, err
		}
		var length int
		g.groups, length, g.length = splitAt(shape, axis)
		resolve = axisPlaces(indices, length, g.length)
	case "GatherElementsGradient":
		resolve, err = d.elementPlaces(n, shape, indices)
	default:
		g.count, g.length, resolve = tuplePlaces(shape, indices, int(n.Int("batch_dims", 0)))
	}
	if err != nil {
		return nil, err
	}
	rows := 0 // of each group in the output
	if c.Out[0].Len() > 0 {
		rows = c.Out[0].Len() / g.groups / g.length
	}
	reservePlaces(c, 2*g.count+rows+1)
	var order, ends []int64
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			group, row := i/rows, i%rows
			sum := y[i*g.length:][:g.length]
			clear(sum)
			for _, run := range order[ends[row]:ends[row+1]] {
				from := x[(group*g.count+int(run))*g.length:]
				if g.length == 1 {
					sum[0] += from[0]
				} else {
					simd.Axpy(1, from[:g.length], sum)
				}
			}
		}
	}
	return func() error {
		all := places(c, 2*g.count+rows+1)
		var list []int64
		list, order, ends = all[:g.count], all[g.count:2*g.count], all[2*g.count:]
		if err := resolve(list); err != nil || rows == 0 {
			return err
		}
		// ends[r+1] counts row r, then is where it begins, then where it ends.
		clear(ends)
		for i, at := range list {
			list[i] = at / int64(g.length)
			if int(list[i]) < rows-1 {
				ends[list[i]+2]++
			}
		}
		for r := range rows {
			ends[r+1] += ends[r]
		}
		for i, row := range list {
			order[ends[row+1]] = int64(i)
			ends[row+1]++
		}
		d.pool.run(g.groups*rows, grain(g.length*max(1, g.count/rows)), body)
		return nil
	}, nil
}
