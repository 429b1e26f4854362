package runtime

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// longestChain bounds the nodes of a chain, for which each thread has memory.
const longestChain = 64

// fuseChains makes one node of elementwise nodes whose outputs have the same
// shape and are used by one another only, except for the last.
func fuseChains(r *rewriter) {
	taken := map[*node]bool{}
	for _, last := range slices.Backward(r.program.nodes) {
		if taken[last] || !r.chains(last) || !r.float(last.out[0]) {
			continue
		}
		members := r.chain(last)
		if len(members) < 2 {
			continue
		}
		for _, n := range members {
			taken[n] = true
		}
		r.fuseChain(members)
	}
}

// chains reports whether a node may be part of a chain. Integers are left
// alone: they are shapes and positions, of which binding computes most.
func (r *rewriter) chains(n *node) bool {
	if !n.op.Operator.Chains() || len(n.out) != 1 || n.out[0] == absent || r.rank(n.out[0]) < 1 || !r.chainValue(n.out[0]) {
		return false
	}
	for i, v := range n.in {
		switch {
		case v == absent:
		case r.rank(v) < 0, !r.chainValue(v) && !n.is("Cast"), !op.ChainType(r.fact(v).Type):
			return false
		case n.is("Clip") && i > 0 && r.constant(v) == nil: // limits are to stay scalars
			return false
		}
	}
	return true
}

// chainValue reports whether a chain may compute a value.
func (r *rewriter) chainValue(v int) bool {
	t := r.fact(v).Type
	return t == onnx.Float32 || t == onnx.Float64 || t == onnx.Bool
}

// chain returns the nodes that can be computed together with the last of them,
// in order.
func (r *rewriter) chain(last *node) []*node {
	members, inside := []*node{last}, map[int]int{} // by value: how many uses are those of members
	shape := r.fact(last.out[0]).Shape
	for i := 0; i < len(members) && len(members) < longestChain; i++ {
		for _, v := range members[i].in {
			m := r.maker(v)
			if m == nil || len(members) == longestChain || !r.chains(m) || !slices.Equal(r.fact(v).Shape, shape) {
				continue
			}
			if inside[v]++; inside[v] == len(r.users[v]) && !r.results[v] {
				members = append(members, m)
			}
		}
	}
	slices.Reverse(members) // each was found behind all that use it
	return members
}

// fuseChain replaces nodes by a Chain.
func (r *rewriter) fuseChain(members []*node) {
	var c op.Chain
	var in []int
	numbers := map[int]int{}
	for i, n := range members {
		numbers[n.out[0]] = -2 - i
	}
	for _, n := range members {
		for _, v := range n.in {
			if _, known := numbers[v]; v != absent && !known {
				numbers[v] = len(in)
				in = append(in, v)
			}
		}
	}
	c.Inputs = len(in)
	for _, n := range members {
		inputs := make([]int, len(n.in))
		for i, v := range n.in {
			switch number := numbers[v]; {
			case v == absent:
				inputs[i] = -1
			case number < 0: // made by a member
				inputs[i] = c.Inputs - 2 - number
			default:
				inputs[i] = number
			}
		}
		c.Nodes, c.In = append(c.Nodes, n.op), append(c.In, inputs)
	}
	last := members[len(members)-1]
	if len(in) > 0 {
		r.replace(last, op.NewChain(&c), in...)
	}
}
