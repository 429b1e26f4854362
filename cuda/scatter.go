//go:build fmoecuda

package cuda

import (
	"math/bits"
	"unsafe"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register(moe.Domain, bindGatherElementsGradient, "GatherElementsGradient") }

// The parameters of kernels, laid out as in scatter.cu.
type scatterParameters struct {
	x, indices, y, fault                 uintptr
	keys, places, otherKeys, otherPlaces uintptr
	parts                                uintptr
	outer, count, axis, inner, length    int64
	wide, bits                           int32
	elementwise, indexRank               int32
	indexDims, strides                   [maxRank]int32
	along                                int32
}

const (
	scatterPiece   = 32      // sorted keys that a block adds up
	scatterSorted  = 1 << 22 // keys that one block sorts at most
	scatterThreads = 1024
)

// bindSortedGatherGradient sums slices along an axis.
func bindSortedGatherGradient(d *Device, c *device.Call, axis int) (func() error, error) {
	shape := c.Out[0].Shape
	p := scatterParameters{outer: int64(tensor.Count(shape[:axis])), count: int64(c.In[1].Len()),
		axis: int64(shape[axis]), inner: int64(tensor.Count(shape[axis+1:]))}
	return bindScatter(d, c, p, shape[axis])
}

// bindGatherElementsGradient sums elements, whose keys are their places in the
// output.
func bindGatherElementsGradient(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	y, indices := c.Out[0], c.In[1]
	axis, err := op.Axis(n.Int("axis", 0), y.Rank())
	if err != nil {
		return nil, err
	}
	if y.Rank() > maxRank || y.Len() > 1<<31-1 {
		return nil, errForm
	}
	p := scatterParameters{outer: 1, count: int64(indices.Len()), axis: int64(y.Shape[axis]), inner: 1,
		elementwise: 1, indexRank: int32(y.Rank()), along: int32(axis)}
	for i, stride := range denseStrides(y.Shape) {
		p.indexDims[i], p.strides[i] = int32(indices.Shape[i]), int32(stride)
	}
	return bindScatter(d, c, p, y.Len())
}

// bindScatter sorts the keys, which are below a bound, and adds up runs of
// equal ones.
func bindScatter(d *Device, c *device.Call, p scatterParameters, keys int) (func() error, error) {
	x, indices, y := c.In[0], c.In[1], c.Out[0]
	end, err := endingOfAll(x, y)
	if err != nil {
		return nil, err
	}
	width, err := indexBytes(indices.Type)
	if err != nil {
		return nil, err
	}
	p.wide = width / 8
	if p.count == 0 || p.count > scatterSorted || y.Len() == 0 || keys > 1<<31-1 {
		return nil, errForm
	}
	count, length := int(p.count), y.Len()
	p.bits, p.fault, p.length = int32(bits.Len(uint(keys-1))), d.faultAddress(), int64(length)
	threads := min(256, ceilDiv(int(p.inner), 32)*32)
	pieces := []int{ceilDiv(count, scatterPiece), ceilDiv(int(p.inner), threads), int(p.outer)}
	shared := &p
	var steps []func() error
	add := func(name string, threads int, grid ...int) {
		l, failed := newLaunch[scatterParameters](d, name, threads, grid...)
		if failed != nil {
			err = failed
			return
		}
		l.p = shared
		steps = append(steps, l.run)
	}
	add("scatter_keys", blockThreads, blocks(count))
	add("scatter_sort", scatterThreads, 1)
	add("scatter_clear"+end, blockThreads, blocks(length))
	add("scatter_sum"+end, threads, pieces...)
	add("scatter_join"+end, threads, pieces...)
	if err != nil {
		return nil, err
	}
	var memory layout
	var lists [4]place
	for i := range lists {
		lists[i] = memory.take(4 * count)
	}
	if ceilDiv(int(shared.bits), 4)%2 == 1 { // the sorted keys end in the others' place
		steps[1] = swapped(shared, steps[1])
	}
	parts := memory.take(8 * pieces[0] * int(p.outer*p.inner))
	c.Scratch.Reserve(memory.size)
	run := inOrder(steps...)
	return func() error {
		scratch := scratchOf(c)
		shared.x, shared.indices, shared.y, shared.parts = address(x), address(indices), address(y), parts.in(scratch)
		shared.keys, shared.places, shared.otherKeys, shared.otherPlaces = lists[0].in(scratch), lists[1].in(scratch), lists[2].in(scratch), lists[3].in(scratch)
		return run()
	}, nil
}

// swapped lets the kernels behind a sort in an odd number of rounds read its
// outcome.
func swapped(p *scatterParameters, sort func() error) func() error {
	return func() error {
		err := sort()
		p.keys, p.places, p.otherKeys, p.otherPlaces = p.otherKeys, p.otherPlaces, p.keys, p.places
		return err
	}
}

// faultAddress returns where kernels say that they met an index outside its
// axis.
func (d *Device) faultAddress() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(d.fault))) }

// scratchOf returns where the scratch memory of a call begins.
func scratchOf(c *device.Call) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(c.Scratch.Bytes())))
}
