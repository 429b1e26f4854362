package fmoefy

import (
	"errors"
	"fmt"
	"math"
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
	r := &rewriter{model: w, options: o, opset: opset, names: onnx.NewIndex(w.Graph), layers: layers(blocks), sets: map[string]*expertSet{}, dequantizer: q, first: map[*onnx.Tensor]*onnx.Tensor{}, samples: map[string][]*onnx.Tensor{}}
	for i := range blocks {
		if reasons[i] != "" {
			continue
		}
		if err := r.replace(&blocks[i]); err != nil {
			return Report{}, fmt.Errorf("block %s: %w", blocks[i].Name, err)
		}
	}
	if len(r.replaced) == 0 {
		return Report{}, errNothingToDo(blocks, reasons)
	}
	r.finish()
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
	names   *onnx.Index // of the outermost graph, which knows all names
	layers  map[*scope]int
	sets    map[string]*expertSet

	dequantizer *dequantizer
	first       map[*onnx.Tensor]*onnx.Tensor // the first of equal tensors, as identity found out
	samples     map[string][]*onnx.Tensor     // those, by a part of their content

	replaced []replacement
}

type replacement struct {
	block *Block
	nodes []*onnx.Node // the FMoE node with the casts around it
	set   *expertSet
}

// expertSet is the router and the experts of a block.
type expertSet struct {
	inputs     [moe.InputCount]string // names of the initializers, "" where absent
	perExpert  int64                  // parameters
	parameters int64                  // with the router's
	hidden     int64                  // of those, by how many more they are than elements of floating-point initializers

	stored           storage
	elements, errors float64 // the sum of the squares of weights, and of what storing changes them by
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
	config := moe.DefaultConfig(r.options.Gate)
	config.TopK, config.Activation, config.Normalize = r.options.TopK, b.Activation, !r.options.SoftmaxOverAll
	config.Quantization = set.stored.Quantization
	node := &onnx.Node{Name: r.names.NewNodeName(b.Name + "." + moe.OpType), Domain: moe.Domain, OpType: moe.OpType,
		Inputs: slices.Clone(set.inputs[:]), Outputs: []string{b.Output}, Attributes: config.Encode()}
	for len(node.Inputs) > 0 && node.Inputs[len(node.Inputs)-1] == "" {
		node.Inputs = node.Inputs[:len(node.Inputs)-1]
	}
	node.Inputs[moe.InputX] = b.Input
	node.Overload = functions{r.model}.bodyOf(newVariant(node, config, b.ElementType, set.stored, r.opset))

	nodes := []*onnx.Node{node}
	if b.inputType != b.ElementType {
		wide := r.names.NewName(b.Name + ".input")
		node.Inputs[moe.InputX] = wide
		nodes = slices.Insert(nodes, 0, r.cast(b, b.Input, wide, b.ElementType))
	}
	if b.outputType != b.ElementType {
		wide := r.names.NewName(b.Name + ".output")
		node.Outputs[moe.OutputY] = wide
		nodes = append(nodes, r.cast(b, wide, b.Output, b.outputType))
	}
	r.replaced = append(r.replaced, replacement{b, nodes, set})
	return nil
}

func (r *rewriter) cast(b *Block, from, to string, t onnx.DataType) *onnx.Node {
	return &onnx.Node{Name: r.names.NewNodeName(b.Name + ".Cast"), OpType: "Cast", Inputs: []string{from}, Outputs: []string{to},
		Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(t))}}
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
	set := &expertSet{stored: stored}
	r.sets[key] = set
	add := func(slot int, make func(name string) *onnx.Tensor) {
		name := r.names.NewName(b.Name + "." + moe.InputNames[slot])
		t := make(name)
		r.model.Graph.Initializers = append(r.model.Graph.Initializers, t)
		set.inputs[slot] = name
		n, _ := t.ElementCount()
		set.parameters += n
		if slot != moe.InputGateWeight {
			set.perExpert += n / int64(o.NumExperts)
		}
	}
	add(moe.InputGateWeight, func(name string) *onnx.Tensor {
		std := o.GateStd
		if o.GateInit == GateZeros {
			std = 0
		}
		return gaussian(name, routerType(b.ElementType), []int64{b.DModel, int64(o.NumExperts)}, std, newNormals(o.Seed, name))
	})
	second := o.RandomStd / math.Sqrt(2*float64(max(r.layers[b.scope], 1)))
	slots := []struct {
		slot  int
		dense *constant
		std   float64 // of random weights
	}{
		{moe.InputFC1Weight, b.fc1.weight, o.RandomStd},
		{moe.InputFC1Bias, b.fc1.bias, 0},
		{moe.InputFC2Weight, b.fc2.weight, second},
		{moe.InputFC2Bias, b.fc2Bias, 0},
	}
	if b.fc3 != nil {
		slots = append(slots, slots[0], slots[1])
		slots[4].slot, slots[4].dense = moe.InputFC3Weight, b.fc3.weight
		slots[5].slot, slots[5].dense = moe.InputFC3Bias, b.fc3.bias
	}
	for _, s := range slots {
		if s.dense == nil {
			continue
		}
		experts := func(name string, count int) *onnx.Tensor {
			normals := newNormals(o.Seed, name)
			if o.Init == Random {
				return gaussian(name, b.ElementType, r.randomDims(b, s.dense), s.std, normals)
			}
			noise := 0.0
			if o.Init == Noise {
				noise = o.NoiseScale
			}
			return expertCopies(name, s.dense.as(b.ElementType), count, noise, normals)
		}
		add(s.slot, func(name string) *onnx.Tensor { return experts(name, o.NumExperts) })
		if isWeight := len(s.dense.dims) == 2; isWeight && stored.elementType != b.ElementType {
			if err := r.store(b, set, s.slot, experts); err != nil {
				return nil, err
			}
		}
	}
	return set, nil
}

// store replaces a weight, the last initializer, by the tensors in which it is
// stored.
func (r *rewriter) store(b *Block, set *expertSet, slot int, experts func(name string, count int) *onnx.Tensor) error {
	o := r.options
	list := &r.model.Graph.Initializers
	name := set.inputs[slot]
	weight, times := (*list)[len(*list)-1], 1
	if o.Init == Copy {
		weight, times = experts(name, 1), o.NumExperts
		elements, errors, err := set.stored.squares(weight)
		if err != nil {
			return err
		}
		set.elements, set.errors = set.elements+elements, set.errors+errors
	}
	scalesName := ""
	if set.stored.Bits != 0 {
		scalesName = r.names.NewName(b.Name + "." + moe.InputNames[moe.Scales(slot)])
	}
	stored, scales := set.stored.store(name, scalesName, weight, times)
	(*list)[len(*list)-1] = stored
	if scales != nil {
		*list = append(*list, scales)
		set.inputs[moe.Scales(slot)] = scalesName
		n, _ := weight.ElementCount()
		scaleCount, _ := scales.ElementCount()
		set.hidden += n*int64(times) - scaleCount
	}
	return nil
}

// routerType returns the element type of the router of experts of type t.
func routerType(t onnx.DataType) onnx.DataType {
	if t.Bits() < 32 {
		return onnx.Float32
	}
	return t
}

// randomDims returns the dims of stacked random experts: those of the dense
// tensor, with the hidden width that the options ask for.
func (r *rewriter) randomDims(b *Block, dense *constant) []int64 {
	dims := append([]int64{int64(r.options.NumExperts)}, dense.dims...)
	if r.options.Hidden == 0 {
		return dims
	}
	hidden := int64(r.options.Hidden)
	switch dense {
	case b.fc2.weight:
		dims[2] = hidden
	case b.fc2Bias:
	default: // what gives the hidden values has them first
		dims[1] = hidden
	}
	return dims
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
			for n := range p.block.removed {
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

// splice replaces blocks of one graph by nodes, and returns the values that
// the removed nodes took.
func splice(s *scope, replaced []replacement) (taken []graphValue) {
	remove := map[*onnx.Node]bool{}
	insert := map[*onnx.Node][]*onnx.Node{}
	for _, p := range replaced {
		for n := range p.block.removed {
			remove[n] = true
		}
		insert[s.producer(p.block.Output)] = p.nodes
	}
	var nodes []*onnx.Node
	for _, n := range s.graph.Nodes {
		nodes = append(nodes, insert[n]...)
		if !remove[n] {
			nodes = append(nodes, n)
			continue
		}
		for _, in := range n.Inputs {
			taken = append(taken, graphValue{s.graph, in})
		}
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
