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
		l.problem = s.dequantizeProduct(l)
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
	if !computable(c.elementType()) {
		l.fail(fmt.Errorf("the bias of %s has element type %s", nodeName(l.node), c.elementType()))
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
		taken = &slicing{value, sectionOf(int64(o.half-1), 2)}
	case n != nil && takesPart(n):
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
