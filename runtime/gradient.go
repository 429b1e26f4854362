package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Gradient asks a session to compute, beside a model's outputs, how one of
// them changes with inputs and weights.
//
// The session has the initializers in With as inputs, so that each run is given
// their values, and an input more, the gradient of Of itself, which multiplies
// all others: 1, or a part of 1 where the gradients of several runs are added
// up. Behind the model's outputs it has the gradient of each tensor in With,
// of the tensor's type and shape, except for tensors that do not influence Of.
// [GradientName] gives the names of all of them.
type Gradient struct {
	// Of is an output of one element, such as a loss.
	Of string
	// With respect to these inputs and initializers of floating-point types.
	With []string
	// Recompute keeps only what enters a block of the model until its
	// gradients are computed, and computes everything else in it a second time.
	Recompute bool
}

// GradientName returns the name of a session's input or output that holds the
// gradient of a value.
func GradientName(value string) string { return value + "/gradient" }

func (g *Gradient) with(name string) bool { return g != nil && slices.Contains(g.With, name) }

// check fails where the names are not those of the graph.
func (g *Gradient) check(graph *onnx.Graph) error {
	if g == nil {
		return nil
	}
	if !slices.ContainsFunc(graph.Outputs, func(v *onnx.ValueInfo) bool { return v.Name == g.Of }) {
		return fmt.Errorf("gradients of %q: the model has no such output", g.Of)
	}
	for _, name := range g.With {
		t := onnx.Undefined
		for _, v := range graph.Inputs {
			if v.Name == name && v.Type != nil {
				t = v.Type.ElemType
			}
		}
		for _, v := range graph.Initializers {
			if v.Name == name {
				t = v.DataType
			}
		}
		switch {
		case t == onnx.Undefined:
			return fmt.Errorf("gradients with respect to %q: the model has no input or initializer of that name", name)
		case !t.IsFloat():
			return fmt.Errorf("gradients with respect to %q: its type is %s, it must be a floating-point type", name, t)
		}
	}
	return nil
}

// differentiator adds gradients to a program in reverse mode: it visits the
// nodes from the last to the first, and has each one's operator add the nodes
// that compute the gradients of the inputs.
type differentiator struct {
	*rewriter
	depends   []bool  // of each value, whether it depends on what gradients are with respect to
	origins   []int   // of those that do: the first such value
	gradients [][]int // of each value, what adds up to its gradient
	node      *node   // the one that is visited
	recompute *recomputation
}

func (c *compiler) differentiate(p *program) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("gradients: %w: %v", ErrInternal, r)
		}
	}()
	d := &differentiator{rewriter: newRewriter(c, p), depends: make([]bool, len(p.values)), origins: make([]int, len(p.values)), gradients: make([][]int, len(p.values))}
	loss := p.outputs[slices.IndexFunc(c.model.Graph.Outputs, func(v *onnx.ValueInfo) bool { return v.Name == c.gradient.Of })]
	with := d.variables()
	if err := d.seed(loss); err != nil {
		return err
	}
	if err := d.checkRounding(loss); err != nil {
		return err
	}
	if c.gradient.Recompute {
		d.recompute = newRecomputation(d)
	}
	for _, n := range slices.Backward(slices.Clone(p.nodes)) {
		err := guard(n.op.Node, func() error { return d.visit(n) })
		if err != nil {
			return err
		}
	}
	for i, v := range with {
		if g := d.gradient(v); g != absent {
			result := d.value(GradientName(c.gradient.With[i]), d.fact(v))
			d.add(&node{op: identity, in: []int{g}, out: []int{result}})
			p.outputs = append(p.outputs, result)
		}
	}
	d.settle()
	return nil
}

// variables finds the values that gradients are with respect to, and all that
// depends on them.
func (d *differentiator) variables() []int {
	p := d.program
	with := make([]int, len(d.compiler.gradient.With))
	for i, name := range d.compiler.gradient.With {
		at := slices.IndexFunc(p.inputs, func(v int) bool { return p.values[v].name == name })
		with[i] = p.inputs[at]
		d.depends[with[i]], d.origins[with[i]] = true, with[i]
	}
	for _, n := range p.nodes {
		origin := d.origin(n)
		for _, v := range n.out {
			if v != absent && origin != absent {
				d.depends[v], d.origins[v] = d.float(v), origin
			}
		}
	}
	return with
}

// origin returns the first value that gradients are with respect to and a node
// depends on, or absent.
func (d *differentiator) origin(n *node) int {
	for _, v := range n.reads() {
		if d.depends[v] {
			return d.origins[v]
		}
	}
	return absent
}

// reads lists the inputs of a node, and what its bodies capture.
func (n *node) reads() []int {
	list := slices.DeleteFunc(slices.Clone(n.in), func(v int) bool { return v == absent })
	for _, b := range n.bodies {
		for _, c := range b.captures {
			list = append(list, c.outer)
		}
	}
	return list
}

// checkRounding fails where the loss depends on a tensor through integers that
// stand for real numbers, which pass no gradient.
func (d *differentiator) checkRounding(loss int) error {
	through := make([]*node, len(d.program.values)) // of each value, what rounded it
	for _, n := range d.program.nodes {
		var by *node
		if (n.is("QuantizeLinear") || n.is("DynamicQuantizeLinear")) && d.origin(n) != absent {
			by = n
		}
		for _, v := range n.reads() {
			if by == nil {
				by = through[v]
			}
		}
		for _, v := range n.out {
			// Shapes, choices and conditions are no such integers.
			if v != absent && d.fact(v).Type != onnx.Int64 && d.fact(v).Type != onnx.Bool {
				through[v] = by
			}
		}
	}
	n := through[loss]
	if n == nil {
		return nil
	}
	return guard(n.op.Node, func() error { return d.refused(n, (&op.Backward{Node: n.op}).Differentiate()) })
}

// refused names a tensor whose gradient a node does not pass.
func (d *differentiator) refused(n *node, err error) error {
	return fmt.Errorf("%w (the loss depends on %q through it)", err, d.program.values[d.origin(n)].name)
}

// seed adds the input that is the gradient of the loss.
func (d *differentiator) seed(loss int) error {
	f := d.fact(loss)
	if len(f.Shape) > 0 && slices.ContainsFunc(f.Shape, func(n op.Dim) bool { return n != 1 }) || f.Shape == nil {
		return fmt.Errorf("gradients of %q: its shape is %s; it must be a scalar", d.compiler.gradient.Of, op.FormatDims(f.Shape))
	}
	if !d.depends[loss] {
		return fmt.Errorf("gradients of %q: it depends on none of the %d tensors they are wanted for", d.compiler.gradient.Of, len(d.compiler.gradient.With))
	}
	seed := d.value(GradientName(d.compiler.gradient.Of), op.Fact{Type: f.Type, Shape: f.Shape})
	d.program.inputs = append(d.program.inputs, seed)
	d.gradients[loss] = append(d.gradients[loss], seed)
	return nil
}

// value adds a value.
func (d *differentiator) value(name string, f op.Fact) int {
	d.depends, d.origins, d.gradients = append(d.depends, false), append(d.origins, absent), append(d.gradients, nil)
	return d.rewriter.value(name, f)
}

// gradient returns the gradient of a value whose users were all visited, which
// is the sum of what they gave.
func (d *differentiator) gradient(v int) int {
	if v == absent {
		return absent
	}
	list := d.gradients[v]
	if len(list) > 1 {
		sum, err := d.insertOne(onnxNode("Sum"), v, list)
		if err != nil {
			panic(err)
		}
		d.gradients[v] = []int{sum}
	}
	if len(d.gradients[v]) == 0 {
		return absent
	}
	return d.gradients[v][0]
}

// visit adds the gradients of a node's inputs.
func (d *differentiator) visit(n *node) error {
	wanted := make([]bool, len(n.in))
	any := false
	for i, v := range n.in {
		wanted[i] = v != absent && d.depends[v]
		any = any || wanted[i]
	}
	for _, b := range n.bodies {
		any = any || slices.ContainsFunc(b.captures, func(c capture) bool { return d.depends[c.outer] })
	}
	outputs := make([]op.Value, len(n.out))
	reached := false
	for i, v := range n.out {
		outputs[i] = op.Value(d.gradient(v))
		reached = reached || outputs[i] != op.NoValue
	}
	if !any || !reached {
		return nil
	}
	if len(n.bodies) > 0 {
		return d.refused(n, errors.New("control flow has no gradient; export the model without it, or freeze the weights before it"))
	}
	d.node = n
	inputs := make([]op.Value, len(n.in))
	for i, v := range n.in {
		inputs[i] = op.Value(d.kept(v))
	}
	b := &op.Backward{Node: n.op, Graph: d, Inputs: inputs, Outputs: outputs, Wanted: wanted}
	if err := b.Differentiate(); err != nil {
		return d.refused(n, err)
	}
	for i, g := range b.Gradients {
		if g == op.NoValue || !wanted[i] {
			continue
		}
		if !agree(d.fact(n.in[i]), d.fact(int(g))) {
			return fmt.Errorf("%w: the gradient of input %d is %s%s, the input is %s%s", ErrInternal, i,
				d.fact(int(g)).Type, op.FormatDims(d.fact(int(g)).Shape), d.fact(n.in[i]).Type, op.FormatDims(d.fact(n.in[i]).Shape))
		}
		d.gradients[n.in[i]] = append(d.gradients[n.in[i]], int(g))
	}
	return nil
}

// kept returns the value by which the backward pass reads v.
func (d *differentiator) kept(v int) int {
	if d.recompute == nil || v == absent {
		return v
	}
	return d.recompute.value(v)
}

// Fact implements [op.Graph].
func (d *differentiator) Fact(v op.Value) op.Fact { return d.fact(int(v)) }

// Constant implements [op.Graph].
func (d *differentiator) Constant(t *tensor.Tensor) op.Value {
	return op.Value(d.value(d.node.op.Name+"/constant", op.FactOf(t)))
}

// Node implements [op.Graph].
func (d *differentiator) Node(n *onnx.Node, outputs int, inputs ...op.Value) ([]op.Value, error) {
	in := make([]int, len(inputs))
	for i, v := range inputs {
		in[i] = int(v)
	}
	n.Name = d.node.op.Name + "/gradient/" + n.OpType
	out, err := d.insertMany(n, outputs, in)
	if err != nil {
		return nil, err
	}
	values := make([]op.Value, outputs)
	for i, v := range out {
		values[i] = op.Value(v)
	}
	return values, nil
}

// insertMany adds a node of several outputs. What follows from constants is
// computed.
func (d *differentiator) insertMany(n *onnx.Node, outputs int, in []int) ([]int, error) {
	made, facts, err := d.infer(n, in, outputs)
	if err != nil {
		return nil, err
	}
	known := make([]op.Fact, len(in))
	for i, v := range in {
		known[i] = d.fact(v)
	}
	if err := d.host.fold(made.op, nil, known, facts, compileFoldLimit(known)); err != nil {
		return nil, err
	}
	made.out = make([]int, outputs)
	for i := range made.out {
		made.op.Outputs[i] = fmt.Sprintf("%s/%d", n.Name, len(d.program.values))
		made.out[i] = d.value(made.op.Outputs[i], facts[i])
	}
	if !allKnown(facts) {
		d.add(made)
	}
	return made.out, nil
}

func (d *differentiator) insertOne(n *onnx.Node, like int, in []int) (int, error) {
	n.Name = GradientName(d.program.values[like].name)
	out, err := d.insertMany(n, 1, in)
	if err != nil {
		return absent, err
	}
	return out[0], nil
}

// Output implements [op.Graph].
func (d *differentiator) Output(i int) (op.Value, error) {
	n := d.node
	if i < len(n.out) && n.out[i] != absent {
		return op.Value(d.kept(n.out[i])), nil
	}
	if d.recompute != nil {
		n = d.recompute.again(n)
	}
	if i >= len(n.out) || n.out[i] == absent {
		if err := d.request(n, i); err != nil {
			return op.NoValue, err
		}
	}
	return op.Value(n.out[i]), nil
}

// request lets a node have an output that nobody wanted before.
func (d *differentiator) request(n *node, i int) error {
	clone := *n.op.Node
	clone.Outputs = slices.Clone(clone.Outputs)
	for len(clone.Outputs) <= i {
		clone.Outputs, n.out = append(clone.Outputs, ""), append(n.out, absent)
	}
	clone.Outputs[i] = fmt.Sprintf("%s/%d", n.op.Name, len(d.program.values))
	resolved := &op.Node{Node: &clone, Operator: n.op.Operator, Since: n.op.Since}
	facts := make([]op.Fact, len(n.in))
	for j, v := range n.in {
		facts[j] = d.fact(v)
	}
	inferred, err := op.Infer(resolved, facts, &d.symbols)
	if err != nil {
		return err
	}
	n.op = resolved
	n.out[i] = d.value(clone.Outputs[i], inferred[i])
	d.makers[n.out[i]] = n
	return nil
}

var identity = mustResolve(onnxNode("Identity"))

func mustResolve(n *onnx.Node) *op.Node {
	n.Inputs, n.Outputs = []string{"x"}, []string{"y"}
	resolved, err := op.Resolve(n, 1<<62)
	if err != nil {
		panic(err)
	}
	return resolved
}
