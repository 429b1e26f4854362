package fmoefy

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

// linear is one linear layer: y = x·Wᵀ + b.
type linear struct {
	node   *onnx.Node // the matrix product
	input  string     // its data operand, […, in]
	output string     // the result that still lacks a bias added later
	rank2  bool       // Gemm: its operand is a matrix
	weight *constant  // [out, in], nil where problem says why
	bias   *constant  // [out], or nil
	names  []string   // of the values that weight and bias are

	problem error
}

func (l *linear) out() int64 { return l.weight.dims[0] }
func (l *linear) in() int64  { return l.weight.dims[1] }

// productSlots names the matrix products with a float weight: where their
// weight and bias are, and whether the operator may also apply an activation.
var productSlots = map[string]struct {
	domain string
	bias   int
}{
	"MatMul":       {"", -1},
	"Gemm":         {"", 2},
	"FusedMatMul":  {contrib, -1},
	"FusedGemm":    {contrib, 2},
	"GemmFastGelu": {contrib, 2},
}

// quantizedProducts are products whose weights are stored as integers.
var quantizedProducts = map[string]bool{
	"MatMulNBits": true, "MatMulBnb4": true, "MatMulInteger": true, "MatMulIntegerToFloat": true,
	"DynamicQuantizeMatMul": true, "QLinearMatMul": true, "QGemm": true, "MatMulFpQ4": true,
}

// isProduct reports whether n multiplies data by a matrix.
func isProduct(n *onnx.Node) bool {
	if n == nil {
		return false
	}
	slots, ok := productSlots[n.OpType]
	return ok && slots.domain == onnx.CanonicalDomain(n.Domain) || quantizedProducts[n.OpType]
}

// product reads a matrix product of data by a constant matrix. It returns nil
// for any other node, and for products of tensors of other ranks, which are
// no linear layers.
func (s *scope) product(n *onnx.Node) *linear {
	if !isProduct(n) {
		return nil
	}
	l := &linear{node: n, input: n.Input(0), output: n.Output(0), names: []string{n.Input(1)}}
	if quantizedProducts[n.OpType] {
		l.problem = errQuantized
		return l
	}
	l.rank2 = n.OpType == "Gemm" || n.OpType == "FusedGemm"
	if _, err := s.constant(l.input); err == nil {
		return nil
	}
	weight, err := s.constant(n.Input(1))
	if err != nil {
		l.problem = err
		return l
	}
	if len(weight.dims) != 2 || weight.elements() == 0 {
		return nil
	}
	if !computable(weight.elementType()) {
		l.problem = fmt.Errorf("its weight has element type %s", weight.elementType())
		return l
	}
	if n.Int("transA", 0) != 0 || n.Int("transBatchA", 0) != 0 || n.Int("transBatchB", 0) != 0 {
		l.problem = fmt.Errorf("%s transposes its data", nodeName(n))
		return l
	}
	// x·B has B as [in, out]; the linear layer's weight is its transpose.
	if n.Int("transB", 0) == 0 {
		if l.problem = weight.transpose(nil); l.problem != nil {
			return l
		}
	}
	l.weight = weight.times(float64(n.Float("alpha", 1)))
	if slot := productSlots[n.OpType].bias; slot >= 0 && n.Input(slot) != "" {
		l.readBias(s, n.Input(slot), float64(n.Float("beta", 1)))
	}
	return l
}

// readBias takes a product's own bias. Where beta is 0 the operand is a dummy.
func (l *linear) readBias(s *scope, value string, beta float64) {
	if beta == 0 {
		return
	}
	c, err := s.constant(value)
	if err != nil {
		l.fail(fmt.Errorf("its bias is no constant: %w", err))
		return
	}
	if l.bias = c.vector(l.out()); l.bias == nil {
		l.fail(fmt.Errorf("the bias of %s has shape %v, must be one value for each of %d outputs", nodeName(l.node), c.dims, l.out()))
		return
	}
	l.bias = l.bias.times(beta)
	l.names = append(l.names, value)
}

func (l *linear) fail(err error) { l.problem, l.weight = err, nil }

// operand is a value as an activation takes it.
type operand struct {
	value string
	bias  string // a bias that the activation's own node adds, or ""
	half  int    // 1 or 2: the first or second half of the last axis
	fused bool   // value is the output of a product with this activation inside
}

// linearBehind finds the linear layer whose result an operand is, through its
// bias, nodes that keep the elements, and the Split or Slice of a fused
// gate_up projection. It returns nil where there is none.
func (s *scope) linearBehind(o operand) *linear {
	var taken *slicing
	value := s.beyond(o.value)
	switch n := s.producer(value); {
	case o.half > 0:
		taken = &slicing{source: value, half: o.half}
	case n != nil && (n.Is("Split") || n.Is("Slice")):
		taken = s.slicingOf(n, value)
		if taken == nil {
			return nil
		}
		value = taken.source
	}
	biases := []string{}
	if o.bias != "" {
		biases = append(biases, o.bias)
	}
	at := s.beyond(value)
	if n := s.producer(at); n != nil && n.Is("Add") {
		data, bias, ok := s.biasAdd(n)
		if !ok {
			return nil
		}
		biases = append(biases, bias)
		at = s.beyond(data)
	}
	n := s.producer(at)
	if n != nil && hasActivation(n) != o.fused {
		return nil
	}
	l := s.product(n)
	if l == nil || l.weight == nil {
		return l
	}
	for _, bias := range biases {
		if l.bias != nil {
			l.fail(fmt.Errorf("%s has two biases", nodeName(n)))
			return l
		}
		l.readBias(s, bias, 1)
		if l.weight == nil {
			return l
		}
	}
	if taken == nil {
		return l
	}
	return s.partOf(l, taken)
}

// biasAdd splits an Add into data and a constant bias.
func (s *scope) biasAdd(n *onnx.Node) (data, bias string, ok bool) {
	a, b := n.Input(0), n.Input(1)
	if _, err := s.constant(b); err == nil {
		return a, b, true
	}
	if _, err := s.constant(a); err == nil {
		return b, a, true
	}
	return "", "", false
}

// part selects every step-th row from start, count in all.
type part struct{ start, step, count int64 }

// slicing is a piece of the last axis of source, whose length is not known
// yet: a half, a section of a Split, or what a Slice node takes.
type slicing struct {
	source   string
	half     int
	sections []int64 // of a Split, when it states them
	section  int
	of       int        // number of equal sections, when it does not
	slice    *onnx.Node // a Slice node
}

// slicingOf reads a Split or Slice. It returns nil where the pieces are not
// constant.
func (s *scope) slicingOf(n *onnx.Node, value string) *slicing {
	taken := &slicing{source: n.Input(0)}
	if n.OpType == "Slice" {
		taken.slice = n
		return taken
	}
	taken.of = len(n.Outputs)
	for i, out := range n.Outputs {
		if out == value {
			taken.section = i
		}
	}
	taken.sections = n.Ints("split")
	if sizes := n.Input(1); sizes != "" {
		c, err := s.constant(sizes)
		if err != nil {
			return nil
		}
		taken.sections, _ = c.integers()
	}
	return taken
}

// within returns the rows that the piece takes of an axis of length n.
func (t *slicing) within(s *scope, n int64) (part, bool) {
	switch {
	case t.half > 0:
		return part{int64(t.half-1) * (n / 2), 1, n / 2}, n%2 == 0
	case t.slice != nil:
		return s.sliceOf(t.slice, n)
	case len(t.sections) == 0:
		size := n / int64(t.of)
		return part{int64(t.section) * size, 1, size}, n%int64(t.of) == 0
	}
	p, total := part{step: 1}, int64(0)
	for i, size := range t.sections {
		if size < 0 {
			return part{}, false
		}
		if i == t.section {
			p.start, p.count = total, size
		}
		total += size
	}
	return p, total == n && t.section < len(t.sections)
}

// sliceOf returns what a Slice node with one constant axis takes of an axis of
// length n.
func (s *scope) sliceOf(n *onnx.Node, length int64) (part, bool) {
	read := func(slot int, name string, fallback int64) (int64, bool) {
		list := n.Ints(name)
		if n.Input(slot) != "" {
			dims, ok := s.dimsOf(n.Input(slot), maxDepth)
			if !ok || len(dims) != 1 || !dims[0].known() {
				return 0, false
			}
			return dims[0].factor, true
		}
		if len(list) == 1 {
			return list[0], true
		}
		return fallback, len(list) == 0 && name != "starts" && name != "ends"
	}
	start, okStart := read(1, "starts", 0)
	end, okEnd := read(2, "ends", 0)
	step, okStep := read(4, "steps", 1)
	if !okStart || !okEnd || !okStep || step < 1 {
		return part{}, false
	}
	clamp := func(i int64) int64 {
		if i < 0 {
			i += length
		}
		return max(0, min(i, length))
	}
	start, end = clamp(start), clamp(end)
	if end <= start {
		return part{}, false
	}
	return part{start, step, (end - start + step - 1) / step}, true
}

// partOf returns the rows of a linear layer that make a piece of its result.
// That the piece is one of the last axis, not of another, is settled by the
// caller: the second projection fits only then. A reshape between the layer
// and the piece would have to keep the last axis.
func (s *scope) partOf(l *linear, taken *slicing) *linear {
	for value := taken.source; ; {
		n := s.producer(value)
		input, ok := s.keepsElements(n)
		if !ok {
			break
		}
		if changesShape(n) {
			shape := s.shapeOf(value)
			if len(shape) == 0 || !shape[len(shape)-1].is(l.out()) {
				l.fail(fmt.Errorf("%s between the projection and its halves may change the last axis", nodeName(n)))
				return l
			}
		}
		value = input
	}
	rows, ok := taken.within(s, l.out())
	if !ok {
		l.fail(fmt.Errorf("the parts of %q are not constant", taken.source))
		return l
	}
	l.weight = l.weight.part(rows)
	if l.bias != nil {
		l.bias = l.bias.part(rows)
	}
	return l
}
