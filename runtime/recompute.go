package runtime

import (
	"fmt"
	"maps"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/op"
)

// recomputation lets gradients read copies of forward nodes that stand right
// before them, so that what the nodes of a block compute need not be in memory
// from the forward pass on (Chen et al. 2016, arXiv 1604.06174). A block is
// what lies between two points at which what follows uses one activation alone,
// the residual stream of a Transformer, or the outputs of one node, which may
// be the stream and its norm.
type recomputation struct {
	d      *differentiator
	kept   []bool // values that gradients read as they are
	copies map[int]int
	nodes  map[*node]*node // copies
}

// widelyUsed is the number of uses from which an activation, such as the
// output of an encoder for the layers of a decoder, is kept and does not keep
// a point from being the border of a block.
const widelyUsed = 8

func newRecomputation(d *differentiator) *recomputation {
	p := d.program
	r := &recomputation{d: d, kept: make([]bool, len(p.values)), copies: map[int]int{}, nodes: map[*node]*node{}}
	data := d.data()
	last := make([]int, len(p.values)) // the node that uses a value last
	for i, n := range p.nodes {
		for _, v := range n.in {
			if v != absent {
				last[v] = i
			}
		}
	}
	for v := range p.values {
		m := d.makers[v]
		scalar := d.fact(v).Shape != nil && len(d.fact(v).Shape) == 0 // a loss, of a router
		r.kept[v] = m == nil || scalar || !d.depends[v] || len(m.bodies) > 0 || m.op.Operator.Nondeterministic || len(d.users[v]) >= widelyUsed
	}
	live := map[int]bool{}
	for i, n := range p.nodes {
		for _, v := range n.in {
			if v != absent && last[v] == i {
				delete(live, v)
			}
		}
		for _, v := range n.out {
			if v != absent && last[v] > i && data[v] && !r.kept[v] {
				live[v] = true
			}
		}
		if len(live) == 1 || !slices.ContainsFunc(slices.Collect(maps.Keys(live)), func(v int) bool { return d.makers[v] != n }) {
			for v := range live {
				r.kept[v] = true
			}
		}
	}
	return r
}

// data tells which values depend on inputs that gradients are not with
// respect to: activations, and not just other forms of weights.
func (d *differentiator) data() []bool {
	p := d.program
	data := make([]bool, len(p.values))
	for _, v := range p.inputs {
		data[v] = !d.depends[v]
	}
	for _, n := range p.nodes {
		from := len(n.bodies) > 0 || slices.ContainsFunc(n.in, func(v int) bool { return v != absent && data[v] })
		for _, v := range n.out {
			if v != absent {
				data[v] = from
			}
		}
	}
	return data
}

// value returns v where it is kept, else what a copy of its maker computes.
func (r *recomputation) value(v int) int {
	if v >= len(r.kept) || r.kept[v] {
		return v
	}
	r.again(r.d.makers[v])
	return r.copies[v]
}

// again returns the copy of a node, or the node itself where all that it
// computes is kept.
func (r *recomputation) again(n *node) *node {
	if again := r.nodes[n]; again != nil {
		return again
	}
	if !slices.ContainsFunc(n.out, func(v int) bool { return v != absent && v < len(r.kept) && !r.kept[v] }) {
		return n
	}
	d := r.d
	clone := *n.op.Node
	clone.Name += "/again"
	clone.Inputs, clone.Outputs = slices.Clone(clone.Inputs), make([]string, len(n.out))
	again := &node{
		op: &op.Node{Node: &clone, Operator: n.op.Operator, Since: n.op.Since},
		in: make([]int, len(n.in)), out: make([]int, len(n.out)),
	}
	for i, in := range n.in {
		if again.in[i] = absent; in != absent {
			again.in[i] = r.value(in)
			clone.Inputs[i] = d.program.values[again.in[i]].name
		}
	}
	for i, out := range n.out {
		if again.out[i] = absent; out != absent {
			clone.Outputs[i] = fmt.Sprintf("%s/%d", clone.Name, len(d.program.values))
			again.out[i] = d.value(clone.Outputs[i], d.fact(out))
			r.copies[out] = again.out[i]
		}
	}
	d.add(again)
	r.nodes[n] = again
	return again
}
