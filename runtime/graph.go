package runtime

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/cpu"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// Graph returns what a session computes as a model to look at: with the
// operators that are recognised, and with the gradients, but without what is
// fused for the sake of speed alone. The model shares the memory of m's
// tensors.
//
// A node means the newest version of its operator, or the one that m imports.
// The model imports the version that suits most nodes; others are calls of
// functions, which import their own.
func Graph(m *onnx.Model, o Options) (*onnx.Model, error) {
	if err := onnx.Check(m); err != nil {
		return nil, err
	}
	d, err := device.Open(cpu.Name, device.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	m = m.Clone()
	if err := m.Inline(func(n *onnx.Node) bool { return d.Supports(n.Domain, n.OpType) }); err != nil {
		return nil, err
	}
	if err := o.Gradient.check(m.Graph); err != nil {
		return nil, err
	}
	c := &compiler{model: m, device: d, host: &evaluator{device: d, memory: newBudget(o.MaxMemory)},
		noFusion: o.NoFusion, gradient: o.Gradient, precision: o.Precision, weights: newWeights(m)}
	p, err := c.program(m.Graph, nil)
	if err == nil && len(c.unsupported) > 0 {
		err = &UnsupportedError{Nodes: c.unsupported}
	}
	if err == nil {
		err = c.recognise(p)
	}
	if err != nil {
		return nil, err
	}
	w := &graphWriter{program: p, model: &onnx.Model{IRVersion: max(m.IRVersion, 10), ProducerName: "fmoe", Graph: &onnx.Graph{Name: m.Graph.Name}}}
	w.write(m.Graph)
	return w.model, nil
}

// graphWriter turns a program into a model.
type graphWriter struct {
	program *program
	model   *onnx.Model
	names   []string // of values
	opset   int64
	calls   map[string]*onnx.Function
}

func (w *graphWriter) write(declared *onnx.Graph) {
	p, g := w.program, w.model.Graph
	w.nameValues()
	w.chooseOpset()
	for _, v := range p.inputs {
		g.Inputs = append(g.Inputs, p.declaration(declared.Inputs, v))
	}
	used := make([]bool, len(p.values))
	for _, n := range p.nodes {
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
		g.Nodes = append(g.Nodes, w.node(n))
	}
	for i, v := range p.outputs {
		name := w.names[v]
		if i < len(declared.Outputs) && declared.Outputs[i].Name != name {
			name = declared.Outputs[i].Name
			g.Nodes = append(g.Nodes, &onnx.Node{Name: name, OpType: "Identity", Inputs: []string{w.names[v]}, Outputs: []string{name}})
			used[v] = true
		}
		info := p.declaration(nil, v)
		info.Name = name
		g.Outputs = append(g.Outputs, info)
	}
	for v := range p.values {
		if t := p.values[v].fact.Value; t != nil && used[v] {
			g.Initializers = append(g.Initializers, t.ToONNX(w.names[v]))
		}
	}
}

// nameValues gives each value a name of its own, that which it has where it is
// the first one.
func (w *graphWriter) nameValues() {
	p := w.program
	taken := map[string]bool{}
	w.names = make([]string, len(p.values))
	for v := range p.values {
		name := p.values[v].name
		for n := 2; name == "" || taken[name]; n++ {
			name = fmt.Sprintf("%s/%d", p.values[v].name, n)
		}
		taken[name], w.names[v] = true, name
	}
}

// chooseOpset imports the version of ONNX's operators that suits most nodes.
func (w *graphWriter) chooseOpset() {
	const newest = 28
	best := 0
	for version := int64(7); version <= newest; version++ {
		suited := 0
		for _, n := range w.program.nodes {
			if w.means(n.op, version) {
				suited++
			}
		}
		if suited >= best {
			best, w.opset = suited, version
		}
	}
	w.model.OpsetImports = []onnx.OpsetImport{{Version: w.opset}, {Domain: moe.Domain, Version: moe.Version}, {Domain: "com.microsoft", Version: 1}}
	w.calls = map[string]*onnx.Function{}
}

// means reports whether a node of a model that imports a version means what it
// means in the program.
func (w *graphWriter) means(n *op.Node, version int64) bool {
	if n.Operator.Domain != "" {
		return true
	}
	since := 0
	for _, v := range n.Operator.Since {
		if int64(v) <= version {
			since = v
		}
	}
	return since == n.Since
}

// node writes a node, as a call where it means another version than the model's.
func (w *graphWriter) node(n *node) *onnx.Node {
	x := &onnx.Node{Name: n.op.Name, Domain: n.op.Operator.Domain, OpType: n.op.OpType, Attributes: n.op.Attributes}
	name := func(v int) string {
		if v == absent {
			return ""
		}
		return w.names[v]
	}
	for _, v := range n.in {
		x.Inputs = append(x.Inputs, name(v))
	}
	for _, v := range n.out {
		x.Outputs = append(x.Outputs, name(v))
	}
	if w.means(n.op, w.opset) || len(n.bodies) > 0 {
		return x
	}
	return w.call(x, n.op.Since)
}

// olderDomain is the domain of functions that are operators of other versions.
const olderDomain = "ai.fmoe.onnx"

// call turns a node into a call of a function that has it alone.
func (w *graphWriter) call(n *onnx.Node, version int) *onnx.Node {
	inner := &onnx.Node{OpType: n.OpType, Attributes: n.Attributes}
	f := &onnx.Function{Domain: olderDomain, OpsetImports: []onnx.OpsetImport{{Version: int64(version)}}, Nodes: []*onnx.Node{inner}}
	formal := func(names []string, prefix string) (list, all []string) {
		for i, name := range names {
			x := ""
			if name != "" {
				x = fmt.Sprint(prefix, i)
				list = append(list, x)
			}
			all = append(all, x)
		}
		return list, all
	}
	f.Inputs, inner.Inputs = formal(n.Inputs, "x")
	f.Outputs, inner.Outputs = formal(n.Outputs, "y")
	key := fmt.Sprint(version, n.OpType, inner.Inputs, inner.Outputs)
	for _, a := range n.Attributes {
		key += fmt.Sprintf(" %s=%v %v %v %s", a.Name, a.Int, a.Float, a.Ints, a.String)
	}
	if known := w.calls[key]; known != nil {
		f = known
	} else {
		f.Name = fmt.Sprintf("%s_%d_%d", n.OpType, version, len(w.calls)+1)
		if len(w.calls) == 0 {
			w.model.OpsetImports = append(w.model.OpsetImports, onnx.OpsetImport{Domain: olderDomain, Version: 1})
		}
		w.calls[key] = f
		w.model.Functions = append(w.model.Functions, f)
	}
	present := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	}
	return &onnx.Node{Name: n.Name, Domain: olderDomain, OpType: f.Name, Inputs: present(n.Inputs), Outputs: present(n.Outputs)}
}
