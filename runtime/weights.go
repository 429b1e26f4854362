package runtime

import (
	goruntime "runtime"
	"runtime/metrics"
	"unsafe"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// weights bounds the memory of constants while a model is compiled. What was
// read only to make something else, by folding or by kernels that hold packed
// weights, is given back tensor by tensor, so that even the peak is about the
// size of the weights. Pages of a file are evicted, and what lies in Go's heap
// is dropped.
type weights struct {
	model     *onnx.Model
	constants map[*byte]*constant // by where their memory begins
	held      int64               // bytes that kernels hold in place of constants
	heap      collector
}

// constant is the content of one or several values that share memory.
type constant struct {
	tensors []*tensor.Tensor
	readers int // uses by nodes, except by kernels that hold it
}

func newWeights(m *onnx.Model) *weights {
	w := &weights{model: m, constants: map[*byte]*constant{}}
	w.heap.reset()
	return w
}

// copied gives back a tensor of the model whose value got memory of its own.
func (w *weights) copied(from *onnx.Tensor, v *tensor.Tensor) {
	data, err := from.Bytes()
	if err == nil && unsafe.SliceData(data) != unsafe.SliceData(v.Data) {
		w.model.Evict(data)
	}
}

// folded gives back the pages of constants that another one was made of; who
// else reads them gets them again.
func (w *weights) folded(from []op.Fact) {
	for i := range from {
		if t := from[i].Value; t != nil {
			w.model.Evict(t.Data)
		}
	}
	w.heap.collect()
}

// enter finds all constants of a program, and gives back what no node reads.
func (w *weights) enter(p *program) {
	w.count(p)
	for at, c := range w.constants {
		if c.readers == 0 {
			w.release(at, c)
		}
	}
	w.heap.collect()
}

func (w *weights) count(p *program) {
	read := func(id int) {
		if id == absent {
			return
		}
		if c := w.constant(p, id); c != nil {
			c.readers++
		}
	}
	for id := range p.values {
		w.constant(p, id)
	}
	for _, n := range p.nodes {
		for _, id := range n.in {
			read(id)
		}
		for _, b := range n.bodies {
			w.count(b)
		}
	}
	for _, id := range p.outputs {
		read(id)
	}
}

// constant returns the constant that a value is, or nil.
func (w *weights) constant(p *program, id int) *constant {
	t := p.values[id].fact.Value
	if t == nil || len(t.Data) == 0 {
		return nil
	}
	at := unsafe.SliceData(t.Data)
	c := w.constants[at]
	if c == nil {
		c = &constant{}
		w.constants[at] = c
	}
	for _, known := range c.tensors {
		if known == t {
			return c
		}
	}
	c.tensors = append(c.tensors, t)
	return c
}

// compiled gives back what the new kernel of a node was the last to read.
func (w *weights) compiled(p *program, n *node) {
	h, ok := n.kernel.(device.Holder)
	if !ok {
		return
	}
	for i, id := range n.in {
		if id == absent || p.values[id].fact.Value == nil || h.Held(i) == 0 {
			continue
		}
		w.held += int64(h.Held(i))
		w.heap.kept(h.Held(i))
		if c := w.constant(p, id); c != nil {
			if c.readers--; c.readers == 0 {
				w.release(unsafe.SliceData(p.values[id].fact.Value.Data), c)
			}
		}
	}
	w.heap.collect()
}

// release gives back a constant that begins at the given address.
func (w *weights) release(at *byte, c *constant) {
	if data := c.tensors[0].Data; !w.model.Evict(data) {
		w.heap.dropped(len(data))
		for _, t := range c.tensors {
			t.Data = nil
		}
	}
	delete(w.constants, at)
}

// size returns the bytes of all constants that are still read, and of what
// kernels hold in place of the others.
func (w *weights) size() int64 {
	size := w.held
	for _, c := range w.constants {
		size += int64(len(c.tensors[0].Data))
	}
	return size
}

// collectorSlack is how many bytes of garbage may gather in Go's heap before
// it is collected, and a share of what is in use beside. Go by itself waits
// until the heap has doubled, which with weights in it is too late.
const (
	collectorSlack = 8 << 20
	collectorShare = 32
)

// collector watches the garbage in Go's heap.
type collector struct {
	sample [1]metrics.Sample
	live   uint64 // bytes that are in use as far as is known
}

func (c *collector) reset() {
	c.sample[0].Name = "/memory/classes/heap/objects:bytes"
	c.live = c.size()
}

func (c *collector) size() uint64 {
	metrics.Read(c.sample[:])
	if c.sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return c.sample[0].Value.Uint64()
}

// kept states that n more bytes are in use.
func (c *collector) kept(n int) { c.live += uint64(n) }

// dropped states that n bytes are in use no longer.
func (c *collector) dropped(n int) { c.live -= min(c.live, uint64(n)) }

// collect starts Go's collector where there is too much garbage.
func (c *collector) collect() {
	if c.size() > c.live+c.live/collectorShare+collectorSlack {
		goruntime.GC()
		c.live = c.size()
	}
}
