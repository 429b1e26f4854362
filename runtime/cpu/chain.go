package cpu

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { registerAnyType(moe.Domain, "Chain", newChain) }

// newChain makes the kernel of a Chain. It lets the kernels of the nodes
// compute tile by tile, each thread having bound them to tensors of its own
// that show a tile at a time.
func newChain(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	c, err := op.ParseChain(n.Node)
	if err != nil {
		return nil, err
	}
	k := &chain{Chain: c, device: d, single: &Device{pool: newPool(1)}}
	for _, inner := range c.Nodes {
		kernel, err := k.single.Compile(inner, make([]*tensor.Tensor, len(inner.Inputs)))
		if err != nil {
			return nil, err
		}
		k.kernels = append(k.kernels, kernel)
	}
	k.last = make([]int, c.Inputs+len(c.Nodes))
	for i, in := range c.In {
		for _, v := range in {
			if v >= 0 {
				k.last[v] = i
			}
		}
	}
	return k, nil
}

type chain struct {
	*op.Chain
	device  *Device
	single  *Device // computes on the thread that calls
	kernels []device.Kernel
	last    []int // by value: the last node that reads it
}

func (k *chain) Bind(c *device.Call) (func() error, error) {
	facts, shapes := make([]op.Fact, len(c.In)), make([][]int, len(c.In))
	for i, t := range c.In {
		facts[i], shapes[i] = op.Fact{Type: t.Type, Shape: op.Dims(t.Shape...)}, t.Shape
	}
	facts, err := k.Infer(facts, &op.Symbols{})
	if err != nil {
		return nil, err
	}
	walk, err := newBroadcast(c.Out[0].Shape, shapes...)
	if err != nil {
		return nil, err
	}
	length := c.Out[0].Len()
	if length == 0 {
		return func() error { return nil }, nil
	}
	size := tileSize(c)
	bind := func() (*tile, error) { return k.bindTile(c, facts, walk, size) }
	if _, err := bind(); err != nil {
		return nil, err
	}
	tiles := newSpares(k.device, func() *tile {
		t, err := bind()
		if err != nil {
			panic(err) // it was possible before
		}
		return t
	})
	body := func(first, last int) {
		t := tiles.take()
		for _, fill := range t.once {
			fill()
		}
		for i := first; i < last; i++ {
			t.compute(i*size, min((i+1)*size, length))
		}
		tiles.give(t)
	}
	count, grain := (length+size-1)/size, max(1, elementwiseGrain/size/len(k.Nodes))
	return func() error {
		k.device.pool.run(count, grain, body)
		return nil
	}, nil
}

// tileSize chooses the elements of a tile: as many as elementwise loops handle
// at a time, but whole rows or an even part of one if it can be. What is
// repeated for all rows need then not be copied for each tile.
func tileSize(c *device.Call) int {
	length := c.Out[0].Len()
	size, row := min(elementwiseChunk, length), 1
	for _, in := range c.In {
		if p := period(in.Shape, c.Out[0].Shape); p < length {
			row = max(row, p)
		}
	}
	if row <= size {
		return size / row * row
	}
	least := (row + size - 1) / size
	for parts := least; parts <= 2*least; parts++ {
		if row%parts == 0 {
			return row / parts
		}
	}
	return size
}

// period returns after how many elements an operand begins anew when it
// broadcasts to the output, 0 where it is repeated in another way.
func period(operand, out []int) int {
	for len(operand) > 0 && operand[0] == 1 {
		operand = operand[1:]
	}
	if len(operand) > len(out) || !slices.Equal(operand, out[len(out)-len(operand):]) {
		return 0
	}
	return tensor.Count(operand)
}

// tile is a chain that is bound to a vector of a few elements.
type tile struct {
	vectors []*tensor.Tensor
	views   []tileView
	once    []func()          // to be called when inputs may have changed
	gather  []func(lo, n int) // to be called for each tile
	steps   []func() error
}

// tileView is a vector that shows a part of a tensor, which begins anew after
// its last element.
type tileView struct{ vector, whole *tensor.Tensor }

// bindTile binds the nodes to vectors. All have the tile's length, even what
// could be smaller because it follows from inputs that are.
func (k *chain) bindTile(c *device.Call, facts []op.Fact, walk *broadcast, size int) (*tile, error) {
	t := &tile{}
	values := make([]*tensor.Tensor, len(facts))
	view := func(of *tensor.Tensor) *tensor.Tensor {
		v := &tensor.Tensor{Type: of.Type, Shape: []int{size}}
		t.vectors, t.views = append(t.vectors, v), append(t.views, tileView{v, of})
		return v
	}
	for i, in := range c.In {
		row := period(in.Shape, c.Out[0].Shape)
		if in.Len() == c.Out[0].Len() || row > 0 && row%size == 0 {
			values[i] = view(in)
			continue
		}
		v := tensor.New(in.Type, size)
		values[i], t.vectors = v, append(t.vectors, v)
		gather := k.gather(v, in, walk, i)
		if row > 0 && size%row == 0 {
			t.once = append(t.once, func() { gather(0, size) })
		} else {
			t.gather = append(t.gather, gather)
		}
	}
	free := map[onnx.DataType][]*tensor.Tensor{}
	for i, n := range k.Nodes {
		out := k.Inputs + i
		t0 := facts[out].Type
		switch list := free[t0]; {
		case i == len(k.Nodes)-1:
			values[out] = view(c.Out[0])
		case len(list) > 0:
			values[out], free[t0] = list[len(list)-1], list[:len(list)-1]
		default:
			values[out] = tensor.New(t0, size)
			t.vectors = append(t.vectors, values[out])
		}
		call := &device.Call{In: make([]*tensor.Tensor, len(k.In[i])), Out: []*tensor.Tensor{values[out]}, Scratch: &device.Scratch{}}
		for j, v := range k.In[i] {
			switch {
			case v < 0:
			case j > 0 && n.OpType == "Clip" && v < k.Inputs: // limits are scalars
				call.In[j] = c.In[v]
			default:
				call.In[j] = values[v]
			}
			if v >= k.Inputs && k.last[v] == i && !slices.Contains(k.In[i][:j], v) {
				free[facts[v].Type] = append(free[facts[v].Type], values[v])
			}
		}
		step, err := k.kernels[i].Bind(call)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.OpType, err)
		}
		t.steps = append(t.steps, step)
	}
	return t, nil
}

// compute computes the elements from lo to before hi.
func (t *tile) compute(lo, hi int) {
	for _, v := range t.vectors {
		v.Shape[0] = hi - lo
	}
	for _, v := range t.views {
		width, from := v.whole.Type.Bits()/8, lo%v.whole.Len()
		v.vector.Data = v.whole.Data[from*width : (from+hi-lo)*width]
	}
	for _, gather := range t.gather {
		gather(lo, hi-lo)
	}
	for _, step := range t.steps {
		if err := step(); err != nil {
			panic(err) // elementwise nodes have no reason to fail
		}
	}
}

// gather returns a function that fills a vector with n elements of input i, as
// if it had the output's shape, from element lo on.
func (k *chain) gather(vector, in *tensor.Tensor, walk *broadcast, i int) func(lo, n int) {
	switch in.Type.Bits() {
	case 8:
		return gatherInto[uint8](k.single, vector, in, walk, i)
	case 32:
		return gatherInto[uint32](k.single, vector, in, walk, i)
	default:
		return gatherInto[uint64](k.single, vector, in, walk, i)
	}
}

func gatherInto[T tensor.Element](d *Device, vector, in *tensor.Tensor, walk *broadcast, i int) func(lo, n int) {
	source := newOperands[T](d, walk, i)
	return func(lo, n int) {
		x, out := source.take(tensor.Of[T](in)), tensor.Of[T](vector)
		for n > 0 {
			piece := walk.piece(lo, lo+n)
			copy(out, x.at(lo, piece))
			out, lo, n = out[piece:], lo+piece, n-piece
		}
		source.give(x)
	}
}
