package fmoefy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/internal/formula"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Find lists the MLP blocks of a model in the order of its nodes, subgraphs
// included, with those that look like MLPs and cannot be replaced; Refused
// says why. The search starts at each second projection and walks back
// through the activation to the first. It does not change the model. Calls of
// model-local functions are looked into; the nodes of blocks inside those are
// no nodes of m.
func Find(m *onnx.Model) []Block {
	if hasCalls(m) {
		inlined := m.Clone()
		if inline(inlined) == nil {
			m = inlined
		}
	}
	return find(m, nil)
}

// hasCalls reports whether the model has functions other than FMoE's.
func hasCalls(m *onnx.Model) bool {
	return slices.ContainsFunc(m.Functions, func(f *onnx.Function) bool { return f.Domain != moe.Domain })
}

// inline replaces the calls of model-local functions, except FMoE's, by their
// bodies.
func inline(m *onnx.Model) error {
	return m.Inline(func(n *onnx.Node) bool { return n.Domain == moe.Domain })
}

// find lists the blocks, those with quantised weights among them where it is
// given a dequantizer.
func find(m *onnx.Model, q *dequantizer) []Block {
	var blocks []Block
	for _, s := range scopes(m) {
		s.dequantizer = q
		r := &reader{scope: s, done: map[string]*expression{}}
		first := len(blocks)
		for _, n := range s.graph.Nodes {
			if b := candidate(r, n); b != nil {
				b.scope, b.Graph = s, s.path
				blocks = append(blocks, *b)
			}
		}
		judge(blocks[first:])
	}
	used := map[string]bool{}
	for i := range blocks {
		b := &blocks[i]
		b.Index = i
		name := b.Name
		for n := 2; used[b.Name]; n++ {
			b.Name = fmt.Sprintf("%s_%d", name, n)
		}
		used[b.Name] = true
	}
	return blocks
}

// candidate returns the block whose second projection is n, or nil where n is
// none.
func candidate(r *reader, n *onnx.Node) *Block {
	if isMixture(n) {
		name := n.Name
		if name == "" {
			name = n.OpType
		}
		return &Block{Name: name, Refused: fmt.Sprintf("%s::%s is a mixture of experts already", n.Domain, n.OpType)}
	}
	s := r.scope
	fc2 := s.product(n)
	if fc2 == nil || hasActivation(n) {
		return nil
	}
	e := r.read(fc2.input)
	a, ok := readActivation(e, fc2.tolerance())
	if !ok {
		return r.unrecognised(fc2, e)
	}
	if fc2.weight != nil {
		fc2.weight = fc2.weight.times(a.scale)
	}
	b := &Block{Kind: Plain, Activation: a.activation, fc2: fc2}
	if b.fc1 = s.linearBehind(a.x); b.fc1 == nil {
		return nil
	}
	if a.gated {
		if b.fc3 = s.linearBehind(a.u); b.fc3 == nil {
			return nil
		}
		b.Kind = Gated
		if b.fc1.node == b.fc3.node {
			b.Kind = GatedFused
		}
	}
	if err := b.complete(s); err != nil {
		b.Refused = err.Error()
	}
	b.Name = blockName(b.fc1, fc2)
	return b
}

func isMixture(n *onnx.Node) bool {
	return n.Domain == moe.Domain && n.OpType == moe.OpType ||
		isContrib(n, "MoE") || isContrib(n, "QMoE") || isContrib(n, "ShardedMoE")
}

// tolerance is how far the constants of an activation may be off: models are
// converted to narrow types after they were written.
func (l *linear) tolerance() float64 {
	if l.weight != nil && l.weight.elementType() == onnx.BFloat16 {
		return 1.0 / 128
	}
	return 1.0 / 1024
}

// unrecognised returns a refused block for a projection of what is computed
// elementwise from other projections but is no known activation, and nil for
// one of anything else.
func (r *reader) unrecognised(fc2 *linear, e *expression) *Block {
	s := r.scope
	if e.Kind == formula.Leaf {
		norm := s.producer(e.ID.value)
		if norm == nil || !isNorm[norm.OpType] {
			return nil
		}
		a, ok := readActivation(r.read(norm.Input(0)), fc2.tolerance())
		if !ok {
			return nil
		}
		fc1 := s.linearBehind(a.x)
		if fc1 == nil {
			return nil
		}
		return &Block{Name: blockName(fc1, fc2), Activation: a.activation,
			Refused: fmt.Sprintf("%s lies between the activation and the second projection", nodeName(norm))}
	}
	var fc1 *linear
	all, applied := true, []string{}
	e.Walk(func(e *expression) {
		switch e.Kind {
		case formula.Leaf:
			l := s.linearBehind(e.ID)
			all = all && l != nil && (fc1 == nil || fc1.input == l.input)
			fc1 = l
		case formula.Function:
			applied = append(applied, e.Name)
		}
	})
	if len(applied) == 0 || !all || fc1 == nil {
		return nil
	}
	slices.Sort(applied)
	return &Block{Name: blockName(fc1, fc2),
		Refused: fmt.Sprintf("between its projections is no activation that experts can have, but a function with %s", strings.Join(slices.Compact(applied), ", "))}
}

var isNorm = map[string]bool{"LayerNormalization": true, "SimplifiedLayerNormalization": true,
	"RMSNormalization": true, "SkipLayerNormalization": true, "SkipSimplifiedLayerNormalization": true}

// complete checks that the projections fit one another and finds the block's
// ends. The error says why the block cannot be replaced.
func (b *Block) complete(s *scope) error {
	for _, l := range b.matrices() {
		if l.problem != nil {
			return l.problem
		}
	}
	b.DModel, b.DHidden = b.fc1.in(), b.fc1.out()
	switch {
	case b.fc2.in() != b.DHidden:
		return fmt.Errorf("its projections do not fit: the first gives %d values, the second takes %d", b.DHidden, b.fc2.in())
	case b.fc3 != nil && (b.fc3.in() != b.DModel || b.fc3.out() != b.DHidden):
		return fmt.Errorf("its gate is [%d, %d] and the other projection [%d, %d]", b.DHidden, b.DModel, b.fc3.out(), b.fc3.in())
	case b.fc2.out() != b.DModel:
		return fmt.Errorf("it takes %d values and gives %d: a head or projection, not an MLP block", b.DModel, b.fc2.out())
	}
	if err := b.findEnds(s); err != nil {
		return err
	}
	b.Parameters = b.count()
	if s.isRouted(b) {
		return fmt.Errorf("it is an expert of a mixture already: a TopK routes its tokens")
	}
	if s.isShared(b) {
		return fmt.Errorf("it is the shared expert of a mixture already: another node routes the same tokens")
	}
	return b.settleTypes()
}

// settleTypes chooses the type that the experts compute in: the widest that
// the block computes in.
func (b *Block) settleTypes() error {
	b.inputType = b.fc1.weight.elementType()
	b.ElementType = b.outputType
	types := []onnx.DataType{}
	for _, l := range b.matrices() {
		types = append(types, l.weight.elementType())
	}
	for _, t := range types {
		if t.Bits() > b.ElementType.Bits() {
			b.ElementType = t
		}
	}
	for _, t := range append(types, b.outputType) {
		if t != b.ElementType && t.Bits() == b.ElementType.Bits() {
			return fmt.Errorf("its weights are of types %s and %s", b.ElementType, t)
		}
	}
	return nil
}

// judge refuses blocks that compute an MLP but have another role. blocks are
// those of one graph.
func judge(blocks []Block) {
	type shape struct {
		in, hidden int64
		activation moe.Activation
	}
	of := func(b *Block) shape { return shape{b.DModel, b.DHidden, b.Activation} }
	alike := map[shape]int{}
	for i := range blocks {
		if blocks[i].Refused == "" {
			alike[of(&blocks[i])]++
		}
	}
	for i := range blocks {
		b := &blocks[i]
		if b.Refused == "" && alike[of(b)] < 2 && !b.scope.joinsResidual(b.Output) {
			b.Refused = "nothing adds its result to a residual stream and no other block has its shape: a head or projection, not a Transformer's MLP"
			b.Doubtful = true
		}
	}
}

// joinsResidual reports whether a value is added to another one that is no
// constant, possibly scaled, clipped or normalised first.
func (s *scope) joinsResidual(value string) bool {
	for range 8 {
		next := ""
		for _, use := range s.index.Consumers(value) {
			n := use.Node
			switch {
			case use.Nested():
			case n.OpType == "Add" || n.OpType == "Sum":
				for i, in := range n.Inputs {
					if _, err := s.constant(in); i != use.Input && err != nil {
						return true
					}
				}
				next = n.Output(0) // only a bias
			case n.Domain == contrib && (n.OpType == "SkipLayerNormalization" || n.OpType == "SkipSimplifiedLayerNormalization" || n.OpType == "SkipGroupNorm"):
				return use.Input < 2
			case use.Input == 0 && (isNorm[n.OpType] || n.OpType == "Clip"):
				next = n.Output(0)
			case n.OpType == "Mul" && s.isParameter(n.Input(1-use.Input)):
				next = n.Output(0)
			default:
				if in, ok := s.keepsElements(n); ok && in == value {
					next = n.Output(0)
				}
			}
		}
		if next == "" {
			return false
		}
		value = next
	}
	return false
}

// isRouted reports whether a block is one expert of a mixture written out in
// standard operators: which tokens it sees, or what its result is multiplied
// by, comes from a TopK.
func (s *scope) isRouted(b *Block) bool {
	if n := s.producer(s.beyond(b.Input)); n != nil {
		switch n.OpType {
		case "Gather", "GatherND", "GatherElements", "Compress":
			if s.followsTopK(n.Input(1), maxDepth) {
				return true
			}
		}
	}
	value := b.Output
	for range 8 {
		n := s.soleConsumer(value)
		if n == nil {
			return false
		}
		if n.OpType == "Mul" {
			for _, in := range n.Inputs {
				if in != value && s.followsTopK(in, maxDepth) {
					return true
				}
			}
			return false
		}
		if in, ok := s.keepsElements(n); !ok || in != value {
			return false
		}
		value = n.Output(0)
	}
	return false
}

// followsTopK reports whether a value is computed from a TopK with no matrix
// product or norm in between, which would be another layer.
func (s *scope) followsTopK(value string, depth int) bool {
	seen := map[string]bool{}
	var follows func(value string, depth int) bool
	follows = func(value string, depth int) bool {
		d := s.lookup(value)
		if d.node == nil || depth == 0 || seen[value] || isProduct(d.node) || isNorm[d.node.OpType] {
			return false
		}
		seen[value] = true
		if d.node.OpType == "TopK" {
			return true
		}
		return slices.ContainsFunc(d.node.Inputs, func(in string) bool { return follows(in, depth-1) })
	}
	return follows(value, depth)
}
