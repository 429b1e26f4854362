package fmoefy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Rewrite replaces MLP blocks of m by FMoE nodes, or by what the options'
// target has in their place, and reports what it did. The result passes
// onnx.Check. m changes only if everything succeeded; with DryRun it never
// does.
//
// Expert weights are made when the model is written or run, from the dense
// weights: a model that was read from a file must stay open until then.
// Experts have the element type that the block computes in, the router too but
// not less than float32. Blocks
// that share all their weights share one set of experts, unless SeparateShared
// is set; blocks in branches of an If, or in other subgraphs, do so always. The
// outermost graph holds it. Initializers that are also inputs of the graph
// stay.
//
// Calls of model-local functions are replaced by the functions' bodies.
func Rewrite(m *onnx.Model, o Options) (Report, error) {
	o, err := o.complete()
	if err != nil {
		return Report{}, err
	}
	if err := onnx.Check(m); err != nil {
		return Report{}, fmt.Errorf("the model is not valid: %w", err)
	}
	opset, ok := m.OpsetVersion("")
	if !ok || opset < minOpset {
		return Report{}, errOpset(opset)
	}
	before := parameters(m)
	w := m.Clone()
	if hasCalls(w) {
		if err := inline(w); err != nil {
			return Report{}, err
		}
	}
	var q *dequantizer
	if o.Dequantize {
		q = &dequantizer{map[string]*onnx.Tensor{}}
	}
	blocks := find(w, q)
	reasons, err := o.choose(blocks)
	if err != nil {
		return Report{}, err
	}
	r := &rewriter{model: w, options: o, opset: opset, names: onnx.NewIndex(w.Graph), layers: layers(blocks), firstLayer: countMixtures(w), sets: map[string]*expertSet{}, dequantizer: q, first: map[*onnx.Tensor]*onnx.Tensor{}, samples: map[string][]*onnx.Tensor{}, dense: map[*onnx.Tensor]bool{}}
	var chosen []*Block
	for i := range blocks {
		if reasons[i] == "" {
			chosen = append(chosen, &blocks[i])
		}
	}
	if len(chosen) == 0 {
		return Report{}, errNothingToDo(blocks, reasons)
	}
	kind, err := kindOf(&o)
	if err != nil {
		return Report{}, err
	}
	if r.experts, err = kind.begin(r, chosen); err != nil {
		return Report{}, err
	}
	if err := r.readPrompts(chosen); err != nil {
		return Report{}, err
	}
	_ = w.Graph.Walk(func(g *onnx.Graph) error {
		for _, t := range g.Initializers {
			r.dense[t] = true
		}
		return nil
	})
	for _, b := range chosen {
		if err := r.replace(b); err != nil {
			return Report{}, fmt.Errorf("block %s: %w", b.Name, err)
		}
	}
	r.finish()
	if r.rest != nil {
		if err := r.rest(); err != nil {
			return Report{}, err
		}
	}
	if o.Target != Portable {
		if _, err := export(w, o.export()); err != nil {
			return Report{}, err
		}
	}
	if err := onnx.Check(w); err != nil {
		return Report{}, fmt.Errorf("the rewritten model is not valid, which is an error in fmoefy: %w", err)
	}
	report := r.report(blocks, reasons)
	report.ParametersBefore, report.ParametersAfter = before, parameters(w)+r.hidden()
	report.ParametersActive = report.ParametersAfter - r.idle()
	if !o.DryRun {
		m.IRVersion, m.OpsetImports, m.Graph, m.Functions = w.IRVersion, w.OpsetImports, w.Graph, w.Functions
	}
	return report, nil
}

func errNothingToDo(blocks []Block, reasons []string) error {
	if len(blocks) == 0 {
		return errors.New("the model has no MLP block")
	}
	return fmt.Errorf("none of the %d blocks can be replaced; the first, %s: %s", len(blocks), blocks[0].Name, reasons[0])
}

// rewriter edits a model.
type rewriter struct {
	model   *onnx.Model
	options Options
	opset   int64
	experts expertMaker
	names   *onnx.Index // of the outermost graph, which knows all names
	layers  map[*scope]int

	firstLayer int // the number of FMoE nodes that are there already

	sets map[string]*expertSet

	dequantizer *dequantizer
	first       map[*onnx.Tensor]*onnx.Tensor // the first of equal tensors, as identity found out
	samples     map[string][]*onnx.Tensor     // those, by a part of their content
	dense       map[*onnx.Tensor]bool         // the dense model's initializers

	others  map[int]*onnx.Model    // models that become experts, their functions inlined
	rest    func() error           // changes what is left of the dense model; may be nil
	prompts map[*Block][][]float64 // of each expert, what readPrompts found out

	replaced []replacement
	noBody   error // why the FMoE nodes have no function as their body, nil where they have
}

type replacement struct {
	block   *Block
	nodes   []*onnx.Node // the FMoE node with those around it
	removed map[*onnx.Node]bool
	set     *expertSet
}

// expertSet is the router and the experts of a block.
type expertSet struct {
	inputs  [moe.InputCount]string // names of the initializers, "" where absent
	extra   map[string]string      // those of nodes beside the FMoE node, by role and type
	config  moe.Config
	beside  func(n *nodes, x, y string) string
	promise promise

	perExpert  int64 // parameters
	parameters int64 // with the router's
	hidden     int64 // of those, by how many more they are than elements of floating-point initializers

	stored           storage
	elements, errors float64 // the sum of the squares of weights, and of what storing changes them by
}

// countMixtures counts the FMoE nodes of a model.
func countMixtures(m *onnx.Model) (count int) {
	_ = m.Graph.Walk(func(g *onnx.Graph) error {
		for _, n := range g.Nodes {
			if n.Domain == moe.Domain && n.OpType == moe.OpType {
				count++
			}
		}
		return nil
	})
	return count
}

// layers counts the replaceable blocks of each graph.
func layers(blocks []Block) map[*scope]int {
	n := map[*scope]int{}
	for i := range blocks {
		if blocks[i].Refused == "" {
			n[blocks[i].scope]++
		}
	}
	return n
}

// replace prepares the FMoE node of a block; finish puts it in its place.
func (r *rewriter) replace(b *Block) error {
	set, err := r.expertsOf(b)
	if err != nil {
		return err
	}
	config := set.config
	config.Layer = r.firstLayer + len(r.replaced)
	node := &onnx.Node{Name: r.names.NewNodeName(b.Name + "." + moe.OpType), Domain: moe.Domain, OpType: moe.OpType,
		Inputs: slices.Clone(set.inputs[:]), Outputs: []string{r.names.NewName(b.Name + ".mixture")}, Attributes: config.Encode()}
	n := &nodes{rewriter: r, block: b, set: set}
	x, y := b.Input, node.Outputs[moe.OutputY]
	if b.inputType != b.ElementType {
		x = n.cast(x, b.ElementType)
	}
	setInput(node, moe.InputX, x)
	if mask := r.options.TokenMask; mask != "" {
		isBool, err := b.scope.checkMask(mask, b.Input, b.scope.producer(b.Output))
		if err != nil {
			return err
		}
		if !isBool {
			mask = n.cast(mask, onnx.Bool)
		}
		setInput(node, moe.InputMask, mask)
	}
	r.noBody = functions{r.model}.give(node, config, b.ElementType, set.stored, r.opset)
	n.list = append(n.list, node)
	if set.beside != nil {
		y = set.beside(n, x, y)
	}
	if b.outputType != b.ElementType {
		y = n.cast(y, b.outputType)
	}
	removed := b.removed
	if r.options.SharedExpert {
		y, removed = n.withShared(y), nil
	}
	n.rename(y, b.Output)
	r.replaced = append(r.replaced, replacement{b, n.list, removed, set})
	return nil
}

// expertsOf returns the initializers that stand for a block's weights, which
// it adds to the outermost graph unless a block before it shares them.
func (r *rewriter) expertsOf(b *Block) (*expertSet, error) {
	key := r.sharingKey(b)
	if set := r.sets[key]; set != nil {
		return set, nil
	}
	o := r.options
	stored, err := o.storageOf(b.ElementType)
	if err != nil {
		return nil, err
	}
	set := &expertSet{stored: stored, extra: map[string]string{}}
	r.sets[key] = set
	at := &site{Block: b, options: o, layers: r.layers[b.scope], rewriter: r, names: map[int]string{}}
	m, err := r.experts(at)
	if err != nil {
		return nil, err
	}
	if set.config, err = o.gateConfig(); err != nil {
		return nil, err
	}
	set.config.Activation, set.config.Quantization = b.Activation, stored.Quantization
	if m.configure != nil {
		m.configure(&set.config)
	}
	if err := set.config.Check(o.NumExperts); err != nil {
		return nil, err
	}
	set.beside, set.promise = m.beside, m.promise(set.config)
	if o.TokenMask != "" {
		set.promise = set.promise.worse(promise{changed, "no expert computes the tokens that the mask excludes"})
	}
	if m.slots[moe.InputGateWeight].source == nil {
		if m.slots[moe.InputGateWeight], err = at.router(o.NumExperts); err != nil {
			return nil, err
		}
	}
	if err := o.addTo(m, at); err != nil {
		return nil, err
	}
	for slot, experts := range m.slots {
		if experts.source == nil {
			continue
		}
		set.inputs[slot] = at.name(slot)
		if isWeight(slot) && stored.elementType != b.ElementType {
			if err := r.store(at, set, slot, experts); err != nil {
				return nil, err
			}
		} else {
			r.model.Graph.Initializers = append(r.model.Graph.Initializers, experts.whole(at.name(slot)))
		}
		set.parameters += experts.elements()
		if slices.Contains(expertSlots, slot) {
			set.perExpert += experts.elements() / int64(o.NumExperts)
		}
	}
	return set, nil
}

// store adds a weight in the form in which it is stored.
func (r *rewriter) store(at *site, set *expertSet, slot int, experts stack) error {
	weight := experts.part("")
	if set.promise.kept != changed {
		elements, errors, err := set.stored.squares(weight)
		if err != nil {
			return err
		}
		set.elements, set.errors = set.elements+elements, set.errors+errors
	}
	scalesName := ""
	if set.stored.Bits != 0 {
		scalesName = at.name(moe.Scales(slot))
	}
	stored, scales := set.stored.store(at.name(slot), scalesName, weight, experts.times)
	r.model.Graph.Initializers = append(r.model.Graph.Initializers, stored)
	if scales != nil {
		r.model.Graph.Initializers = append(r.model.Graph.Initializers, scales)
		set.inputs[moe.Scales(slot)] = scalesName
		scaleCount, _ := scales.ElementCount()
		set.hidden += experts.elements() - scaleCount
	}
	return nil
}

// finish puts the FMoE nodes in the place of their blocks and removes what
// only the blocks used.
func (r *rewriter) finish() {
	if _, ok := r.model.OpsetVersion(moe.Domain); !ok {
		r.model.OpsetImports = append(r.model.OpsetImports, onnx.OpsetImport{Domain: moe.Domain, Version: moe.Version})
	}
	byScope := map[*scope][]replacement{}
	var order []*scope
	for _, p := range r.replaced {
		if byScope[p.block.scope] == nil {
			order = append(order, p.block.scope)
		}
		byScope[p.block.scope] = append(byScope[p.block.scope], p)
	}
	dropped := map[*onnx.Graph]map[string]bool{}
	var pending []graphValue
	for _, s := range order {
		pending = append(pending, splice(s, byScope[s])...)
		dropped[s.graph] = map[string]bool{}
		for _, p := range byScope[s] {
			for n := range p.removed {
				for _, out := range n.Outputs {
					dropped[s.graph][out] = out != p.block.Output
				}
			}
		}
	}
	prune(r.model, pending, dropped)
	for g, names := range dropped {
		g.ValueInfo = slices.DeleteFunc(g.ValueInfo, func(v *onnx.ValueInfo) bool { return names[v.Name] })
	}
	for _, s := range order {
		for _, p := range byScope[s] {
			s.declareOutput(p.block)
		}
	}
}

// graphValue is a value as a node of a graph names it.
type graphValue struct {
	graph *onnx.Graph
	name  string
}

// splice puts nodes where blocks of one graph end, and removes the blocks but
// for shared experts. It returns the values that
// the removed nodes took.
func splice(s *scope, replaced []replacement) (taken []graphValue) {
	remove := map[*onnx.Node]bool{}
	insert := map[*onnx.Node][]*onnx.Node{}
	for _, p := range replaced {
		for n := range p.removed {
			remove[n] = true
		}
		insert[s.producer(p.block.Output)] = p.nodes
	}
	var nodes []*onnx.Node
	for _, n := range s.graph.Nodes {
		if !remove[n] {
			nodes = append(nodes, n)
		} else {
			for _, in := range n.Inputs {
				taken = append(taken, graphValue{s.graph, in})
			}
		}
		nodes = append(nodes, insert[n]...)
	}
	s.graph.Nodes = nodes
	return taken
}

// prune removes the initializers and nodes that make the given values, where
// nothing uses them any more, and what only those used. Names that it removes
// are added to dropped.
func prune(m *onnx.Model, pending []graphValue, dropped map[*onnx.Graph]map[string]bool) {
	for len(pending) > 0 {
		byGraph := map[*onnx.Graph]*scope{}
		for _, s := range scopes(m) {
			byGraph[s.graph] = s
		}
		dead := map[*onnx.Node]bool{}
		var next []graphValue
		for _, v := range pending {
			d := byGraph[v.graph].lookup(v.name)
			if d.scope == nil {
				continue
			}
			index, g := d.scope.index, d.scope.graph
			unused := func(value string) bool { return len(index.Consumers(value)) == 0 && !index.IsOutput(value) }
			if dropped[g] == nil {
				dropped[g] = map[string]bool{}
			}
			switch {
			case d.tensor != nil && unused(v.name) && !index.IsInput(v.name):
				g.Initializers = slices.DeleteFunc(g.Initializers, func(t *onnx.Tensor) bool { return t == d.tensor })
				dropped[g][v.name] = true
			case d.node != nil && !dead[d.node] && !slices.ContainsFunc(d.node.Outputs, func(out string) bool { return !unused(out) }):
				dead[d.node] = true
				g.Nodes = slices.DeleteFunc(g.Nodes, func(n *onnx.Node) bool { return n == d.node })
				for _, out := range d.node.Outputs {
					dropped[g][out] = true
				}
				for _, in := range d.node.Inputs {
					next = append(next, graphValue{g, in})
				}
			}
		}
		pending = next
	}
}

// declareOutput states the type of a block's output, and its shape where that
// is known, unless the file states them.
func (s *scope) declareOutput(b *Block) {
	if b.Output == "" || s.declared[b.Output] != nil {
		return
	}
	t := &onnx.Type{Kind: onnx.KindTensor, ElemType: b.outputType}
	shape := s.shapeOf(b.Output)
	if shape == nil {
		shape = s.shapeOf(b.Input)
	}
	if shape != nil {
		t.Shape = &onnx.Shape{}
		for _, d := range shape {
			t.Shape.Dims = append(t.Shape.Dims, d.declared())
		}
		t.Shape.Dims[len(shape)-1] = onnx.Dim{Known: true, Value: b.DModel}
	}
	s.graph.ValueInfo = append(s.graph.ValueInfo, &onnx.ValueInfo{Name: b.Output, Type: t})
}

// parameters counts the elements of a model's floating-point initializers.
// Scalars are numbers in formulas.
func parameters(m *onnx.Model) int64 {
	total := int64(0)
	_ = m.Graph.Walk(func(g *onnx.Graph) error {
		for _, t := range g.Initializers {
			if n, err := t.ElementCount(); err == nil && t.DataType.IsFloat() && len(t.Dims) > 0 {
				total += n
			}
		}
		return nil
	})
	return total
}
