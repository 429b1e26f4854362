package fmoefy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// readUnrolled reads the mixture of experts whose router's choice is topK, a
// TopK node, and returns nil where that is something else. What the experts
// compute is read from the graph; how tokens get to them and back differs
// with every exporter and is left to prove, which is asked about each place
// where the mixture may begin and end.
func readUnrolled(r *reader, topK *onnx.Node, prove func(*mixture) error) (*mixture, error) {
	s := r.scope
	scores := s.beyond(topK.Input(0))
	overAll := false // the softmax is taken before the choice
	if n := s.producer(scores); n != nil && n.Is("Softmax") {
		scores, overAll = n.Input(0), true
	}
	router := s.linearBehind(operand{value: scores})
	k, ok := s.scalar(topK.Input(1))
	if router == nil || router.weight == nil || !ok || topK.Int("largest", 1) == 0 {
		return nil, nil
	}
	x := &mixture{scope: s}
	x.Form, x.TopK, x.Experts, x.DModel = Unrolled, int(k), router.out(), router.in()
	summed := !overAll || s.isSummed(topK.Output(0)) // what is probable
	if x.TopK < 1 || int64(x.TopK) > x.Experts {
		return nil, nil
	}
	descendants := s.descendants(router.input)
	for _, output := range s.joins(topK) {
		layers := r.expertsBefore(output, descendants, router)
		if len(layers) == 0 {
			continue // a part of the routing
		}
		if x.Name == "" {
			x.Name = blockName(layers[0].fc1, layers[len(layers)-1].fc2)
		}
		if err := x.setExperts(layers, router); err != nil {
			x.refuse(err)
			continue
		}
		for _, input := range s.origins(router.input) {
			if s.shapeOf(output) != nil && !s.sameShapes(input, output) {
				x.refuse(misplaced{errors.New("its result has another shape than its tokens")})
				continue
			}
			x.input, x.output = input, output
			x.nodes = s.region(output, s.descendants(input))
			for _, normalize := range []bool{summed, !summed} {
				x.Normalize = normalize
				err := prove(x)
				if err == nil {
					return x, nil
				}
				x.refuse(err)
				if errors.As(err, &misplaced{}) {
					break
				}
			}
		}
	}
	if x.Name == "" {
		return nil, nil
	}
	return x, x.refused
}

// misplaced is the error of a mixture that does not begin or end where it was
// tried.
type misplaced struct{ error }

// refuse notes why a mixture cannot be imported: the first reason counts that
// has to do with more than the place.
func (x *mixture) refuse(err error) {
	if x.refused == nil || errors.As(x.refused, &misplaced{}) {
		x.refused = err
	}
}

// isSummed reports whether values are summed up, to be divided by the sum.
func (s *scope) isSummed(value string) bool {
	for _, use := range s.index.Consumers(value) {
		if use.Node.Is("ReduceSum") {
			return true
		}
		if input, ok := s.keepsElements(use.Node); ok && input == value && s.isSummed(use.Node.Output(0)) {
			return true
		}
	}
	return false
}

// descendants returns the nodes that depend on value.
func (s *scope) descendants(value string) map[*onnx.Node]bool {
	found, reached := map[*onnx.Node]bool{}, map[string]bool{value: true}
	for _, n := range s.graph.Nodes {
		if slices.ContainsFunc(n.Inputs, func(in string) bool { return reached[in] }) {
			found[n] = true
			for _, out := range n.Outputs {
				reached[out] = out != ""
			}
		}
	}
	return found
}

// region returns, in order, those of the given nodes that output depends on.
func (s *scope) region(output string, among map[*onnx.Node]bool) []*onnx.Node {
	var nodes []*onnx.Node
	needed := map[string]bool{output: true}
	for _, n := range slices.Backward(s.graph.Nodes) {
		if among[n] && slices.ContainsFunc(n.Outputs, func(out string) bool { return needed[out] }) {
			nodes = append(nodes, n)
			for _, in := range n.Inputs {
				needed[in] = in != ""
			}
		}
	}
	slices.Reverse(nodes)
	return nodes
}

// maxJoins bounds the places that are tried as the end of a mixture: its sum
// of experts, with a few casts and reshapes behind and sums of the routing
// before it.
const maxJoins = 8

// joins returns values through which alone the results of n reach the rest of
// the graph, the nearest first.
func (s *scope) joins(n *onnx.Node) []string {
	var found []string
	open := map[string]int{} // values that depend on n and their uses that are still to come
	started := false
	for _, m := range s.graph.Nodes {
		started = started || m == n
		if !started || m != n && !slices.ContainsFunc(m.Inputs, func(in string) bool { return open[in] > 0 }) {
			continue
		}
		for _, in := range m.Inputs {
			if open[in] > 0 {
				if open[in]--; open[in] == 0 {
					delete(open, in)
				}
			}
		}
		for _, out := range m.Outputs {
			uses := len(s.index.Consumers(out))
			if s.index.IsOutput(out) {
				uses++
			}
			if out != "" && uses > 0 {
				open[out] = uses
			}
		}
		if len(open) == 0 || len(found) == maxJoins {
			break
		}
		if out := m.Output(0); m != n && len(open) == 1 && open[out] > 0 {
			found = append(found, out)
		}
	}
	return found
}

// expertLayers are the linear layers of one expert, or of all where their
// weights have three dimensions.
type expertLayers struct {
	fc1, fc2, fc3 *linear
	activation    moe.Activation
}

// expertsBefore returns the experts that output depends on.
func (r *reader) expertsBefore(output string, among map[*onnx.Node]bool, router *linear) []*expertLayers {
	var found []*expertLayers
	for _, n := range r.scope.region(output, among) {
		if n == router.node {
			continue
		}
		fc2 := r.scope.expertLayer(n)
		if fc2 == nil || fc2.weight == nil {
			continue
		}
		a, ok := readActivation(r.read(fc2.input), fc2.tolerance())
		if !ok || a.scale != 1 {
			continue
		}
		e := &expertLayers{fc2: fc2, activation: a.activation, fc1: r.scope.expertBehind(a.x)}
		if a.gated {
			e.fc3 = r.scope.expertBehind(a.u)
		}
		if e.fc1 != nil && e.fc1.weight != nil && (!a.gated || e.fc3 != nil && e.fc3.weight != nil) {
			found = append(found, e)
		}
	}
	return found
}

// expertLayer reads a product of data by one expert's weight, or by the
// stacked weights of those that were chosen or of all.
func (s *scope) expertLayer(n *onnx.Node) *linear {
	for side := range 2 {
		c, transposed := s.stackedWeight(n.Input(side))
		if c == nil || !n.Is("MatMul") {
			continue
		}
		if transposed == (side == 0) { // x·B has in × out, A·x has out × in
			c = c.permuted(0, 2, 1)
		}
		return &linear{node: n, input: n.Input(1 - side), output: n.Output(0), weight: c, names: []string{c.tensor.Name}}
	}
	return s.product(n)
}

// stackedWeight follows value back to a constant [T, rows, columns] of which
// it has some matrices or all, and says whether they are transposed.
func (s *scope) stackedWeight(value string) (c *constant, transposed bool) {
	for range maxDepth {
		if c, err := s.constant(value); err == nil {
			if len(c.dims) != 3 || !computable(c.elementType()) {
				return nil, false
			}
			return c, transposed
		}
		n := s.producer(value)
		if n == nil {
			return nil, false
		}
		switch {
		case n.Is("Gather") && n.Int("axis", 0) == 0, n.Is("GatherND") && n.Int("batch_dims", 0) == 0, n.Is("Squeeze"), n.Is("Unsqueeze"), n.Is("Identity"):
		case n.Is("Transpose"):
			perm := n.Ints("perm")
			last := len(perm) - 1
			if len(perm) > 3 || len(perm) > 1 && (perm[last] != int64(last-1) || perm[last-1] != int64(last)) {
				return nil, false
			}
			transposed = !transposed
		default:
			return nil, false
		}
		value = n.Input(0)
	}
	return nil, false
}

// expertBehind is linearBehind for experts: the layer may be one of stacked
// weights, whose halves are taken apart as Split or Slice nodes do it.
func (s *scope) expertBehind(o operand) *linear {
	if l := s.linearBehind(o); l != nil && l.weight != nil {
		return l
	}
	value := s.beyond(o.value)
	n := s.producer(value)
	if n == nil {
		return nil
	}
	if !takesPart(n) {
		return s.stackedLayer(n)
	}
	half := part{start: int64(slices.Index(n.Outputs, value)), step: 1}
	if n.Is("Slice") {
		start, ok := s.scalar(n.Input(1))
		half.start = 0
		if !ok || start != 0 {
			half.start = 1
		}
		if step, ok := s.scalar(n.Input(4)); ok && step == 2 {
			half.step = 2
		}
	}
	l := s.stackedLayer(s.producerOf(n.Input(0)))
	if l == nil || l.weight == nil || len(l.weight.dims) != 3 || l.weight.dims[1]%2 != 0 || half.start > 1 || half.start < 0 {
		return nil
	}
	half.count = l.weight.dims[1] / 2
	if half.step == 1 {
		half.start *= half.count
	}
	l.weight = l.weight.along(1, half)
	if l.bias != nil {
		l.bias = l.bias.along(1, half)
	}
	return l
}

// stackedLayer is expertLayer with the stacked biases that an Add brings in.
func (s *scope) stackedLayer(n *onnx.Node) *linear {
	if !n.Is("Add") {
		return s.expertLayer(n)
	}
	for side := range 2 {
		l := s.expertLayer(s.producerOf(n.Input(1 - side)))
		if l == nil || l.weight == nil || len(l.weight.dims) != 3 {
			continue
		}
		if l.bias = s.stackedBias(n.Input(side), l.weight.dims[0], l.weight.dims[1]); l.bias != nil {
			l.output = n.Output(0)
			return l
		}
	}
	return nil
}

// stackedBias follows value back to a constant that has the given number of
// experts and values for each, of which it has some or all.
func (s *scope) stackedBias(value string, experts, size int64) *constant {
	for range maxDepth {
		if c, err := s.constant(value); err == nil {
			flat := *c
			if len(c.dims) < 2 || c.dims[0] != experts || c.elements() != experts*size || flat.reshape([]int64{experts, size}) != nil {
				return nil
			}
			return &flat
		}
		n := s.producer(value)
		if n == nil || !(n.Is("Gather") && n.Int("axis", 0) == 0 || n.Is("GatherND") && n.Int("batch_dims", 0) == 0 || n.Is("Squeeze") || n.Is("Unsqueeze") || n.Is("Identity")) {
			return nil
		}
		value = n.Input(0)
	}
	return nil
}

// producerOf returns the node that computes value's elements; it is an empty
// node where none does.
func (s *scope) producerOf(value string) *onnx.Node {
	if n := s.producer(s.beyond(value)); n != nil {
		return n
	}
	return &onnx.Node{}
}

// setExperts takes over the experts: one for all, several that share stacked
// weights, or one for each.
func (x *mixture) setExperts(list []*expertLayers, router *linear) error {
	first := list[0]
	x.weights = [moe.InputCount][]*constant{}
	x.Activation, x.Gated, x.elementType = first.activation, first.fc3 != nil, first.fc1.weight.elementType()
	x.stored = storage{elementType: x.elementType}
	stacked := len(first.fc1.weight.dims) == 3
	if !stacked && int64(len(list)) != x.Experts {
		return fmt.Errorf("its router scores %d experts, and there are %d", x.Experts, len(list))
	}
	if stacked {
		for _, e := range list[1:] {
			if e.key() != first.key() {
				return errors.New("its experts have different stacked weights")
			}
		}
		list = list[:1]
	}
	for _, e := range list {
		if e.activation != first.activation || (e.fc3 != nil) != x.Gated {
			return errors.New("its experts are of different kinds")
		}
		for slot, l := range map[int]*linear{moe.InputFC1Weight: e.fc1, moe.InputFC2Weight: e.fc2, moe.InputFC3Weight: e.fc3} {
			if l == nil {
				continue
			}
			x.weights[slot] = append(x.weights[slot], l.weight)
			if bias := x.biasOf(e, l); bias != nil {
				x.weights[slot+1] = append(x.weights[slot+1], bias)
			}
		}
	}
	x.setRouter(router)
	dims := stackedDims(x.weights[moe.InputFC1Weight])
	x.DHidden = dims[1]
	return x.checkDims()
}

// biasOf returns the bias of an expert's layer. The second one's is added by a
// node of its own where it is not the product's.
func (x *mixture) biasOf(e *expertLayers, l *linear) *constant {
	n := x.scope.soleConsumer(l.output)
	switch {
	case l.bias != nil || l != e.fc2 || n == nil:
		return l.bias
	case len(l.weight.dims) == 2:
		return x.scope.addedBias(n, l.output, l.out())
	}
	for {
		if input, ok := x.scope.keepsElements(n); !ok || input != n.Input(0) {
			break
		}
		next := x.scope.soleConsumer(n.Output(0))
		if next == nil {
			return nil
		}
		n = next
	}
	if with := x.scope.stackedLayer(n); with != nil && with.node == l.node {
		return with.bias
	}
	return nil
}

func (e *expertLayers) key() string {
	key := fmt.Sprint(e.activation, e.fc1.weight.key(), e.fc2.weight.key())
	if e.fc3 != nil {
		key += e.fc3.weight.key()
	}
	return key
}

// checkDims checks that all tensors have the same experts, and the dims that
// FMoE wants.
func (x *mixture) checkDims() error {
	t, d, h := x.Experts, x.DModel, x.DHidden
	for slot, want := range map[int][]int64{
		moe.InputFC1Weight: {t, h, d}, moe.InputFC1Bias: {t, h}, moe.InputFC2Weight: {t, d, h},
		moe.InputFC2Bias: {t, d}, moe.InputFC3Weight: {t, h, d}, moe.InputFC3Bias: {t, h},
	} {
		parts := x.weights[slot]
		if parts == nil {
			continue
		}
		for _, p := range parts {
			if !slices.Equal(p.dims, parts[0].dims) || p.elementType() != x.elementType {
				return errors.New("its experts have weights of different shapes or types")
			}
		}
		if got := stackedDims(parts); !slices.Equal(got, want) {
			return fmt.Errorf("its %s would be %v, must be %v", moe.InputNames[slot], got, want)
		}
	}
	return nil
}
