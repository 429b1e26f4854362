package runtime

import (
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// pass rewrites a program into one that computes the same, faster. It may be
// given any program, and does nothing where it recognises nothing.
type pass struct {
	name  string
	apply func(*rewriter)
}

// recognition and fusion are applied in this order, each pass to the whole of
// a program and to the bodies of its control flow. A pass takes time linear in
// the nodes. Gradients are added between the two: operators that are recognised
// have gradients of their own, fused ones have none.
var recognition = []pass{
	{"identity", removeIdentities},
	{"activation", recogniseActivations},
	{"normalization", recogniseNormalizations},
	{"rotary", recogniseRotary},
	{"attention", recogniseAttention},
	{"attention layout", layOutAttentions},
	{"caches", fuseCaches},
	{"identity", removeIdentities},
	{"transpose", foldTransposes},
	{"common", shareCommon},
}

var fusion = []pass{
	{"linear", fuseLinear},
	{"target", fixTargets},
	{"chain", fuseChains},
}

// optimize applies all passes to a program and its bodies, and adds the
// gradients that are asked for.
func (c *compiler) optimize(p *program) error {
	if err := c.recognise(p); err != nil {
		return err
	}
	return c.applyAll(fusion, p)
}

// recognise is optimize without fusion.
func (c *compiler) recognise(p *program) error {
	if err := c.applyAll(recognition, p); err != nil {
		return err
	}
	if c.precision != onnx.Undefined {
		if err := c.apply(pass{"precision", lowerProducts}, p); err != nil {
			return err
		}
	}
	if c.gradient == nil {
		return nil
	}
	return c.differentiate(p)
}

func (c *compiler) applyAll(passes []pass, p *program) error {
	if c.noFusion {
		return nil
	}
	for _, pass := range passes {
		if err := c.apply(pass, p); err != nil {
			return err
		}
	}
	return nil
}

// apply applies a pass. A panic becomes an ErrInternal.
func (c *compiler) apply(pass pass, p *program) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("pass %s: %w: %v", pass.name, ErrInternal, r)
		}
	}()
	for _, n := range p.nodes {
		for _, body := range n.bodies {
			if err := c.apply(pass, body); err != nil {
				return err
			}
		}
	}
	r := newRewriter(c, p)
	pass.apply(r)
	r.settle()
	return nil
}

// rewriter is a program in the hands of a pass: who makes each value and who
// uses it, and ways to replace nodes by others. Replaced nodes stay until the
// pass is over, and what fed only them goes then.
type rewriter struct {
	*compiler
	program *program
	makers  []*node
	users   [][]*node // an entry for each use; a control node uses what its bodies capture
	results []bool    // values that the program returns
	added   []*node
}

func newRewriter(c *compiler, p *program) *rewriter {
	r := &rewriter{compiler: c, program: p,
		makers: make([]*node, len(p.values)), users: make([][]*node, len(p.values)), results: make([]bool, len(p.values))}
	for _, n := range p.nodes {
		r.connect(n)
		for _, b := range n.bodies {
			for _, c := range b.captures {
				r.users[c.outer] = append(r.users[c.outer], n)
			}
		}
	}
	for _, v := range p.outputs {
		r.results[v] = true
	}
	return r
}

func (r *rewriter) connect(n *node) {
	for _, v := range n.in {
		if v != absent {
			r.users[v] = append(r.users[v], n)
		}
	}
	for _, v := range n.out {
		if v != absent {
			r.makers[v] = n
		}
	}
}

// nodes yields the nodes in their order, without those that were replaced
// before they are reached and those that were added.
func (r *rewriter) nodes() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		for _, n := range r.program.nodes {
			if n.made() && !yield(n) {
				return
			}
		}
	}
}

// made reports whether the node still makes a value.
func (n *node) made() bool {
	return slices.ContainsFunc(n.out, func(v int) bool { return v != absent })
}

// maker returns the node that makes a value: nil for an input, a constant, a
// captured or an absent value.
func (r *rewriter) maker(v int) *node {
	if v == absent {
		return nil
	}
	return r.makers[v]
}

// madeBy returns the maker of a value where it is one of ONNX's own operators
// of the given names and the value its first output, else nil.
func (r *rewriter) madeBy(v int, opTypes ...string) *node {
	n := r.maker(v)
	if n == nil || !n.is(opTypes...) || n.out[0] != v {
		return nil
	}
	return n
}

// is reports whether the node is one of ONNX's own operators of these names.
func (n *node) is(opTypes ...string) bool {
	return n.op.Operator.Domain == "" && slices.Contains(opTypes, n.op.OpType)
}

// input returns input i, absent where the node does not have it.
func (n *node) input(i int) int {
	if i < len(n.in) {
		return n.in[i]
	}
	return absent
}

// only reports whether one input of one node is all that a value is used for.
func (r *rewriter) only(v int) bool { return len(r.users[v]) == 1 && !r.results[v] }

// fact returns what is known of a value, nothing for an absent one.
func (r *rewriter) fact(v int) op.Fact {
	if v == absent {
		return op.Fact{}
	}
	return r.program.values[v].fact
}

// rank returns the rank of a value, -1 where it is not known.
func (r *rewriter) rank(v int) int {
	if shape := r.fact(v).Shape; shape != nil {
		return len(shape)
	}
	return -1
}

// float reports whether a value has elements of a floating-point type that
// kernels compute with.
func (r *rewriter) float(v int) bool {
	switch r.fact(v).Type {
	case onnx.Float16, onnx.BFloat16, onnx.Float32, onnx.Float64:
		return true
	}
	return false
}

// constant returns the content of a value, nil where it is not constant.
func (r *rewriter) constant(v int) *tensor.Tensor { return r.fact(v).Value }

// number returns the content of a constant of one element.
func (r *rewriter) number(v int) (float64, bool) {
	t := r.constant(v)
	if t == nil || t.Len() != 1 || t.Rank() > 4 {
		return 0, false
	}
	x, err := tensor.Float64s(t)
	if err != nil {
		return 0, false
	}
	return x[0], true
}

// scaled splits the inputs of a node of two into a number and the other value.
// The number is the second input, or either where commutes is true.
func (r *rewriter) scaled(n *node, commutes bool) (v int, number float64, ok bool) {
	if len(n.in) != 2 {
		return absent, 0, false
	}
	if number, ok = r.number(n.in[1]); ok {
		return n.in[0], number, true
	}
	if number, ok = r.number(n.in[0]); ok && commutes {
		return n.in[1], number, true
	}
	return absent, 0, false
}

// onnxNode makes a node of ONNX's own operators, without inputs and outputs.
func onnxNode(opType string, attributes ...*onnx.Attribute) *onnx.Node {
	return &onnx.Node{OpType: opType, Attributes: attributes}
}

// microsoftNode makes a node of ONNX Runtime's operators, likewise.
func microsoftNode(opType string, attributes ...*onnx.Attribute) *onnx.Node {
	return &onnx.Node{Domain: "com.microsoft", OpType: opType, Attributes: attributes}
}

// replace lets a new node make the outputs of an old one, from the given
// inputs: values that do not depend on the old node. It means the newest
// version of its operator. Nothing changes, and the result is false, where the
// device does not have the operator, or inference refuses the inputs or
// contradicts what is known of the outputs.
func (r *rewriter) replace(old *node, with *onnx.Node, in ...int) bool {
	return r.replaceValues(old, with, in, old.out)
}

// replaceValues is replace for a node that makes the values out, of several
// old nodes. No input may depend on one of them. The new node has the name of
// old, for errors.
func (r *rewriter) replaceValues(old *node, with *onnx.Node, in, out []int) bool {
	with.Name = old.op.Name
	made, facts, err := r.infer(with, in, len(out))
	if err != nil || !made.op.Operator.View && !r.device.Supports(with.Domain, with.OpType) {
		return false
	}
	for i, v := range out {
		if v != absent && !agree(r.fact(v), facts[i]) {
			return false
		}
	}
	made.out = slices.Clone(out)
	for i, v := range made.out {
		if v == absent {
			continue
		}
		made.op.Outputs[i] = r.program.values[v].name
		r.program.values[v].fact = refine(r.fact(v), facts[i])
		if maker := r.makers[v]; maker != nil {
			maker.out[slices.Index(maker.out, v)] = absent
		}
	}
	r.add(made)
	return true
}

// insert adds a node with one output and returns the value that it makes,
// which gets the name of another with the operator's behind. It returns absent
// where replace would refuse.
func (r *rewriter) insert(with *onnx.Node, like int, in ...int) int {
	made, facts, err := r.infer(with, in, 1)
	if err != nil {
		return absent
	}
	name := r.program.values[like].name + "/" + with.OpType
	made.op.Name, made.op.Outputs[0] = name, name
	made.out = []int{r.value(name, facts[0])}
	r.add(made)
	return made.out[0]
}

// insertConstant adds a constant and returns its value.
func (r *rewriter) insertConstant(name string, t *tensor.Tensor) int {
	return r.value(name, op.FactOf(t))
}

// value adds a value.
func (r *rewriter) value(name string, f op.Fact) int {
	r.program.values = append(r.program.values, value{name: name, fact: f})
	r.makers, r.users, r.results = append(r.makers, nil), append(r.users, nil), append(r.results, false)
	return len(r.program.values) - 1
}

func (r *rewriter) add(n *node) {
	r.added = append(r.added, n)
	r.connect(n)
}

// infer makes a node that is not yet part of the program, and what is known of
// its outputs. It fails where there can be no such node.
func (r *rewriter) infer(n *onnx.Node, in []int, outputs int) (*node, []op.Fact, error) {
	n.Inputs, n.Outputs = make([]string, len(in)), make([]string, outputs)
	facts := make([]op.Fact, len(in))
	for i, v := range in {
		if facts[i] = r.fact(v); v != absent {
			n.Inputs[i] = r.program.values[v].name
		}
	}
	for i := range n.Outputs {
		n.Outputs[i] = "output" // stands for a name until there is one
	}
	version := int64(math.MaxInt64)
	if n.OpType == "Attention" {
		version = 23 // later ones do not broadcast masks over keys
	}
	resolved, err := op.Resolve(n, version)
	if err != nil {
		return nil, nil, err
	}
	if !resolved.Operator.View && !r.supports(n.Domain, n.OpType) {
		return nil, nil, fmt.Errorf("device %s has no kernel for it", r.device.Name())
	}
	inferred, err := op.Infer(resolved, facts, &r.symbols)
	if err != nil {
		return nil, nil, err
	}
	return &node{op: resolved, in: slices.Clone(in)}, inferred, nil
}

// agree reports whether what is inferred of a value may be true of one of
// which something is known already.
func agree(known, inferred op.Fact) bool {
	if known.Type != inferred.Type || len(known.Shape) != len(inferred.Shape) || (known.Shape == nil) != (inferred.Shape == nil) {
		return false
	}
	for i := range known.Shape {
		if _, err := op.Unify(known.Shape[i], inferred.Shape[i]); err != nil {
			return false
		}
	}
	return true
}

// refine adds the numbers among inferred dimensions to what is known.
func refine(known, inferred op.Fact) op.Fact {
	known.Shape = slices.Clip(known.Shape)
	for i, d := range inferred.Shape {
		if d.Known() && !known.Shape[i].Known() {
			known.Shape = op.JoinDims(known.Shape)
			known.Shape[i] = d
		}
	}
	return known
}

// substitute lets all that uses a value use another in its place, of the same
// type and shape, which does not depend on it.
func (r *rewriter) substitute(old, by int) {
	for _, n := range r.users[old] {
		for i, v := range n.in {
			if v == old {
				n.in[i] = by
			}
		}
		for _, b := range n.bodies {
			for i := range b.captures {
				if b.captures[i].outer == old {
					b.captures[i].outer = by
				}
			}
		}
	}
	r.users[by] = append(r.users[by], r.users[old]...)
	r.users[old] = nil
	for i, v := range r.program.outputs {
		if v == old {
			r.program.outputs[i] = by
		}
	}
	r.results[by] = r.results[by] || r.results[old]
	r.results[old] = false
}

// settle ends a pass: it puts the nodes in an order in which each stands behind
// those that it needs, and drops those that were replaced and what fed only
// them.
func (r *rewriter) settle() {
	p := r.program
	if len(r.added) > 0 {
		p.nodes = r.sorted(append(p.nodes, r.added...))
	}
	p.removeDead()
}

// sorted orders nodes topologically, keeping as much of their order as it can.
func (r *rewriter) sorted(nodes []*node) []*node {
	const waiting, done = 1, 2
	state := make(map[*node]int, len(nodes))
	out := make([]*node, 0, len(nodes))
	var stack []*node
	for _, n := range nodes {
		stack = append(stack, n)
		for len(stack) > 0 {
			n := stack[len(stack)-1]
			if state[n] != 0 {
				stack = stack[:len(stack)-1]
				if state[n] == waiting {
					state[n] = done
					out = append(out, n)
				}
				continue
			}
			state[n] = waiting
			need := func(v int) {
				if m := r.maker(v); m != nil && state[m] == 0 {
					stack = append(stack, m)
				}
			}
			for _, v := range slices.Backward(n.in) {
				need(v)
			}
			for _, b := range n.bodies {
				for _, c := range b.captures {
					need(c.outer)
				}
			}
		}
	}
	return out
}
