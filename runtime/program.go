package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// program is a compiled graph, for any input shapes. Values are numbered.
type program struct {
	values   []value
	inputs   []int // values that the caller supplies
	captures []capture
	outputs  []int
	nodes    []*node
}

// value is what is known of a value whatever the input shapes. A constant's
// fact has its content.
type value struct {
	name string
	fact op.Fact
}

// capture is a value of the enclosing program that a subgraph uses.
type capture struct{ inner, outer int }

// absent stands for an optional input or output that a node does not have.
const absent = -1

// node is one operation of a program: a kernel, a control flow operator with
// its subgraphs, or a view, which has neither.
type node struct {
	op      *op.Node
	in, out []int
	kernel  device.Kernel
	remote  bool        // kernel is a Remote device's
	spare   spareKernel // of the CPU, where remote
	control controlFlow
	bodies  []*program
}

// describe names a node in an error.
func describe(n *onnx.Node) string {
	kind := n.OpType
	if n.Domain != "" {
		kind = n.Domain + "::" + n.OpType
	}
	if n.Name == "" {
		return fmt.Sprintf("node that makes %q (%s)", n.Output(0), kind)
	}
	return fmt.Sprintf("node %q (%s)", n.Name, kind)
}

// ErrInternal is wrapped by errors that a defect of this package caused, not
// the model or its inputs.
var ErrInternal = errors.New("internal error")

// guard runs f for a node, naming the node in its error. A panic becomes an
// ErrInternal.
func guard(n *onnx.Node, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicked(n, r)
		}
	}()
	if err = f(); err != nil {
		err = failed(n, err)
	}
	return err
}

func failed(n *onnx.Node, err error) error { return fmt.Errorf("%s: %w", describe(n), err) }

func panicked(n *onnx.Node, r any) error {
	return fmt.Errorf("%s: %w: %v", describe(n), ErrInternal, r)
}

// declaration returns what a graph declares of a program's value, or what is
// known of it where the graph does not have it.
func (p *program) declaration(declared []*onnx.ValueInfo, v int) *onnx.ValueInfo {
	x := p.values[v]
	for _, d := range declared {
		if d.Name == x.name {
			return d
		}
	}
	t := &onnx.Type{Kind: onnx.KindTensor, ElemType: x.fact.Type}
	if x.fact.Shape != nil {
		t.Shape = &onnx.Shape{}
		for _, d := range x.fact.Shape {
			t.Shape.Dims = append(t.Shape.Dims, onnx.Dim{Known: d.Known(), Value: max(int64(d), 0)})
		}
	}
	return &onnx.ValueInfo{Name: x.name, Type: t}
}

// removeDead drops nodes whose outputs nobody uses, and captures that only
// they used.
func (p *program) removeDead() {
	used := make([]bool, len(p.values))
	for _, v := range p.outputs {
		used[v] = true
	}
	kept := len(p.nodes)
	for i := len(p.nodes) - 1; i >= 0; i-- {
		n := p.nodes[i]
		alive := false
		for _, v := range n.out {
			alive = alive || v != absent && used[v]
		}
		if !alive {
			continue
		}
		for j, v := range n.out {
			if v != absent && !used[v] {
				n.out[j] = absent
			}
		}
		for _, v := range n.in {
			if v != absent {
				used[v] = true
			}
		}
		for _, b := range n.bodies {
			for _, c := range b.captures {
				used[c.outer] = true
			}
		}
		kept--
		p.nodes[kept] = n
	}
	p.nodes = p.nodes[kept:]
	p.captures = slices.DeleteFunc(p.captures, func(c capture) bool { return !used[c.inner] })
}
