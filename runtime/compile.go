package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// ErrNotTensor is wrapped by the refusal of inputs that are sequences,
// optionals or maps.
var ErrNotTensor = errors.New("only tensors are supported")

// UnsupportedError lists every node of a model that cannot be run.
type UnsupportedError struct {
	Nodes []UnsupportedNode
}

// UnsupportedNode is one node that cannot be run, and why.
type UnsupportedNode struct {
	Domain, OpType string
	Version        int64 // of the domain's operator set in the model
	Name           string
	Reason         string
}

// Error lists the nodes, one a line.
func (e *UnsupportedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes are not supported:", len(e.Nodes))
	for _, n := range e.Nodes {
		domain := n.Domain
		if domain == "" {
			domain = "ai.onnx"
		}
		fmt.Fprintf(&b, "\n  %s::%s version %d, node %q: %s", domain, n.OpType, n.Version, n.Name, n.Reason)
	}
	return b.String()
}

// compiler turns a model's graphs into programs: it builds them, lets passes
// rewrite them, and makes their kernels.
type compiler struct {
	model       *onnx.Model
	device      device.Device
	host        *evaluator
	noFusion    bool
	gradient    *Gradient
	precision   onnx.DataType
	weights     *weights
	symbols     op.Symbols
	unsupported []UnsupportedNode
}

func (c *compiler) compile() (*program, error) {
	p, err := c.program(c.model.Graph, nil)
	if err == nil && len(c.unsupported) == 0 {
		err = c.optimize(p)
		if err == nil {
			c.weights.enter(p)
			err = c.kernels(p, false)
		}
	}
	if len(c.unsupported) > 0 {
		return nil, &UnsupportedError{Nodes: c.unsupported}
	}
	return p, err
}

// scope resolves names while a graph is compiled.
type scope struct {
	program *program
	ids     map[string]int
	outer   *scope
}

func (s *scope) add(name string, f op.Fact) int {
	id := len(s.program.values)
	s.program.values = append(s.program.values, value{name: name, fact: f})
	s.ids[name] = id
	return id
}

// lookup returns the number of a value, capturing it from an outer graph
// where it is not this one's.
func (s *scope) lookup(name string) (int, bool) {
	if id, ok := s.ids[name]; ok {
		return id, true
	}
	if s.outer == nil {
		return 0, false
	}
	outer, ok := s.outer.lookup(name)
	if !ok {
		return 0, false
	}
	fact := s.outer.program.values[outer].fact
	id := s.add(name, fact)
	if fact.Value == nil {
		s.program.captures = append(s.program.captures, capture{inner: id, outer: outer})
	}
	return id, true
}

// program builds the program of a graph, whose nodes have no kernels yet.
func (c *compiler) program(g *onnx.Graph, outer *scope) (*program, error) {
	p := &program{}
	s := &scope{program: p, ids: map[string]int{}, outer: outer}
	for _, t := range g.Initializers {
		if outer == nil && c.gradient.with(t.Name) {
			p.inputs = append(p.inputs, s.add(t.Name, op.Fact{Type: t.DataType, Shape: op.Dims(t.Dims...)}))
			continue
		}
		v, err := tensor.FromONNX(t)
		if err != nil {
			return nil, fmt.Errorf("initializer %q: %w", t.Name, err)
		}
		c.weights.copied(t, v)
		s.add(t.Name, op.FactOf(v))
	}
	if len(g.SparseInitializers) > 0 {
		return nil, errors.New("sparse initializers are not supported; store them dense")
	}
	params := map[string]op.Dim{}
	for _, v := range g.Inputs {
		if _, initialized := s.ids[v.Name]; initialized {
			continue
		}
		f, err := c.declared(v, params)
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", v.Name, err)
		}
		p.inputs = append(p.inputs, s.add(v.Name, f))
	}
	for _, n := range g.Nodes {
		if err := c.node(n, s); err != nil {
			return nil, err
		}
	}
	for _, v := range g.Outputs {
		id, ok := s.lookup(v.Name)
		if !ok {
			if len(c.unsupported) > 0 {
				break // the value's maker was skipped
			}
			return nil, fmt.Errorf("graph output %q is not computed by any node", v.Name)
		}
		p.outputs = append(p.outputs, id)
	}
	p.removeDead()
	return p, nil
}

// declared returns what a graph says of its input. Dimensions of one name are
// one symbol.
func (c *compiler) declared(v *onnx.ValueInfo, params map[string]op.Dim) (op.Fact, error) {
	if v.Type == nil || v.Type.Kind == onnx.KindUnknown {
		return op.Fact{}, nil
	}
	if v.Type.Kind != onnx.KindTensor {
		return op.Fact{}, fmt.Errorf("is of type %s: %w", v.Type, ErrNotTensor)
	}
	f := op.Fact{Type: v.Type.ElemType}
	if v.Type.Shape == nil {
		return f, nil
	}
	f.Shape = make([]op.Dim, len(v.Type.Shape.Dims))
	for i, d := range v.Type.Shape.Dims {
		switch known, named := params[d.Param]; {
		case d.Known && d.Value >= 0:
			f.Shape[i] = op.Dim(d.Value)
		case d.Param != "" && named:
			f.Shape[i] = known
		default:
			f.Shape[i] = c.symbols.Fresh()
			if d.Param != "" {
				params[d.Param] = f.Shape[i]
			}
		}
	}
	return f, nil
}

func (c *compiler) refuse(n *onnx.Node, reason error) {
	version, _ := c.model.OpsetVersion(n.Domain)
	c.unsupported = append(c.unsupported, UnsupportedNode{
		Domain: onnx.CanonicalDomain(n.Domain), OpType: n.OpType, Version: version, Name: n.Name, Reason: reason.Error(),
	})
}

// node compiles one node into s.program: into a constant where its inputs are
// constants.
func (c *compiler) node(n *onnx.Node, s *scope) error {
	version, imported := c.model.OpsetVersion(n.Domain)
	if !imported {
		return fmt.Errorf("%s: the model does not import the operator domain %q", describe(n), n.Domain)
	}
	resolved, err := op.Resolve(n, version)
	if err == nil && !resolved.Operator.View && controls[n.OpType] == nil && !c.supports(n.Domain, n.OpType) {
		err = fmt.Errorf("device %s has no kernel for it", c.device.Name())
	}
	if err != nil {
		c.refuse(n, err)
	}

	made := &node{op: resolved, in: make([]int, len(n.Inputs)), out: make([]int, len(n.Outputs))}
	facts := make([]op.Fact, len(n.Inputs))
	for i, name := range n.Inputs {
		made.in[i] = absent
		if name == "" {
			continue
		}
		id, ok := s.lookup(name)
		if !ok {
			if len(c.unsupported) > 0 {
				continue
			}
			return fmt.Errorf("%s: its input %q is computed by no node before it", describe(n), name)
		}
		made.in[i], facts[i] = id, s.program.values[id].fact
	}
	for _, g := range n.Subgraphs() {
		body, err := c.program(g, s)
		if err != nil {
			return fmt.Errorf("%s: %w", describe(n), err)
		}
		made.bodies = append(made.bodies, body)
	}
	if err != nil || len(c.unsupported) > 0 {
		for _, name := range n.Outputs { // go on, to find all that is unsupported
			if name != "" {
				s.add(name, op.Fact{})
			}
		}
		return nil
	}

	var outputs []op.Fact
	err = guard(n, func() (err error) {
		if outputs, err = op.Infer(resolved, facts, &c.symbols); err != nil {
			if s.outer == nil {
				return err
			}
			// What a body declares may be wrong: binding tells.
			outputs = make([]op.Fact, len(n.Outputs))
			return nil
		}
		if err := c.host.fold(resolved, nil, facts, outputs, compileFoldLimit(facts)); err != nil {
			return err
		}
		if allKnown(outputs) && !resolved.Operator.View {
			c.weights.folded(facts)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, name := range n.Outputs {
		if made.out[i] = absent; name != "" {
			made.out[i] = s.add(name, outputs[i])
		}
	}
	if !allKnown(outputs) {
		s.program.nodes = append(s.program.nodes, made)
	}
	return nil
}

// kernels gives the nodes of a program and of its bodies what computes them.
// Those that read the largest constants come first: while a kernel packs one,
// that is in memory twice, but few others are in memory yet.
func (c *compiler) kernels(p *program, body bool) error {
	size := map[*node]int{}
	for _, n := range p.nodes {
		for _, v := range n.in {
			if v != absent && p.values[v].fact.Value != nil {
				size[n] += len(p.values[v].fact.Value.Data)
			}
		}
	}
	order := slices.Clone(p.nodes)
	slices.SortStableFunc(order, func(a, b *node) int { return size[b] - size[a] })
	for _, n := range order {
		for _, b := range n.bodies {
			if err := c.kernels(b, true); err != nil {
				return err
			}
		}
		err := guard(n.op.Node, func() error {
			err := c.kernel(n, p)
			if err != nil && body {
				// A branch that is never taken may be inconsistent.
				n.control = nil
				n.kernel = device.KernelFunc(func(*device.Call) (func() error, error) { return nil, err })
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// kernel gives the node what computes it.
func (c *compiler) kernel(n *node, p *program) error {
	if n.control = controls[n.op.OpType]; n.control != nil && n.op.Operator.Domain == "" {
		return n.control.check(n)
	}
	if n.op.Operator.View {
		return nil
	}
	constants := make([]*tensor.Tensor, len(n.in))
	for i, v := range n.in {
		if v != absent {
			constants[i] = p.values[v].fact.Value
		}
	}
	err := c.compileKernel(n, constants)
	if errors.Is(err, device.ErrUnsupported) {
		c.refuse(n.op.Node, err)
		return nil
	}
	if err == nil {
		c.weights.compiled(p, n)
	}
	return err
}

// supports reports whether the device has a kernel for an operator, or the CPU
// for a device that has memory of its own.
func (c *compiler) supports(domain, opType string) bool {
	return c.device.Supports(domain, opType) || c.host.device.Supports(domain, opType)
}

// compileKernel makes the kernel of a node, the CPU's where the device has none.
func (c *compiler) compileKernel(n *node, constants []*tensor.Tensor) (err error) {
	if c.device == c.host.device || c.device.Supports(n.op.Domain, n.op.OpType) {
		n.kernel, err = c.device.Compile(n.op, constants)
		n.remote = err == nil && c.device != c.host.device
		if c.device == c.host.device || !errors.Is(err, device.ErrUnsupported) {
			return err
		}
	}
	n.kernel, err = c.host.device.Compile(n.op, constants)
	return err
}

// compileFoldLimit bounds the bytes that folding may create while compiling:
// some slack for shapes and masks, and twice the inputs, so that a transposed
// or converted weight is folded and an expanded scalar is not.
func compileFoldLimit(inputs []op.Fact) int {
	limit := 1 << 20
	for _, f := range inputs {
		if f.Value != nil {
			limit += 2 * len(f.Value.Data)
		}
	}
	return limit
}

func allKnown(facts []op.Fact) bool {
	for i := range facts {
		if facts[i].Value == nil {
			return false
		}
	}
	return len(facts) > 0
}
