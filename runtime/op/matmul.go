package op

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	gemm := []string{"alpha", "beta", "transA", "transB"}
	Register(
		// MatMul, ONNX 1, 9 (integers) and 13 (bfloat16): numpy's matmul.
		Operator{Name: "MatMul", Since: []int{1, 9, 13}, Inputs: Exactly(2), Outputs: Exactly(1), Infer: inferMatMul, Gradient: matMulGradient},

		// FusedMatMul of ONNX Runtime: alpha·A'·B', where transA swaps the last
		// two dimensions of A, and transBatchA before that moves the first
		// dimension behind the batch dimensions.
		Operator{Domain: "com.microsoft", Name: "FusedMatMul", Since: []int{1}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: []string{"alpha", "transA", "transB", "transBatchA", "transBatchB"}, Infer: inferMatMul, Gradient: matMulGradient},

		// Gemm, ONNX 7, 9 (integers), 11 (C optional) and 13 (bfloat16):
		// alpha·A'·B' + beta·C on matrices, C broadcast to the product.
		Operator{Name: "Gemm", Since: []int{7, 9, 11, 13}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: gemm, Infer: inferGemm, Gradient: gemmGradient},

		// FusedGemm of ONNX Runtime: an activation applied to Gemm's result.
		Operator{Domain: "com.microsoft", Name: "FusedGemm", Since: []int{1}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: append(gemm, "activation", "activation_alpha", "activation_beta"), Infer: inferGemm, Gradient: gemmGradient},
	)
}

// matMulGradient is the gradient of MatMul and FusedMatMul.
func matMulGradient(b *Backward) {
	p := factors{values: [2]Value{b.Input(0), b.Input(1)}, alpha: b.Node.Float("alpha", 1)}
	g := b.Gradient(0)
	ranks := [2]int{b.Rank(p.values[0]), b.Rank(p.values[1])}
	for i, rank := range ranks {
		side := "AB"[i : i+1]
		switch {
		case rank < 2:
		case b.Node.Int("transBatch"+side, 0) != 0:
			p.values[i] = b.transposeTo(p.values[i], MatMulOrder(b.Node, i, rank))
		default:
			p.transposed[i] = b.Node.Int("trans"+side, 0) != 0
		}
	}
	// A vector is a matrix of one row (or column) that the result lacks.
	if ranks[1] == 1 {
		p.values[1], g = b.Op("Unsqueeze", p.values[1], b.Ints(1)), b.Op("Unsqueeze", g, b.Ints(-1))
	}
	if ranks[0] == 1 {
		p.values[0], g = b.Op("Unsqueeze", p.values[0], b.Ints(0)), b.Op("Unsqueeze", g, b.Ints(-2))
	}
	for i, rank := range ranks {
		if !b.Wants(i) {
			continue
		}
		d := b.SumTo(b.factorGradient(p, i, g), p.values[i])
		switch {
		case rank < 2:
			d = b.Reshape(d, b.Input(i))
		case p.values[i] != b.Input(i):
			d = b.transposeTo(d, inverse(MatMulOrder(b.Node, i, rank)))
		}
		b.Set(i, d)
	}
}

// factors are those of a product alpha·A·B of matrices, of which one may be
// given transposed.
type factors struct {
	values     [2]Value
	transposed [2]bool
	alpha      float32
}

// factorGradient returns the gradient of a factor from that of the product,
// before sums over batch dimensions along which it is repeated: alpha·dY·Bᵀ of
// A, alpha·Aᵀ·dY of B, and the transposes of these.
func (b *Backward) factorGradient(p factors, i int, g Value) Value {
	other, turned := p.values[1-i], p.transposed[1-i]
	if i == 1 && b.Rank(p.values[1]) == 2 && b.Rank(other) > 2 && !turned {
		other, g = b.rows(other), b.rows(g) // a sum over all tokens, in one product
	}
	switch {
	case i == 0 && !p.transposed[0]:
		return b.product(g, other, false, !turned, p.alpha)
	case i == 0:
		return b.product(other, g, turned, true, p.alpha)
	case !p.transposed[1]:
		return b.product(other, g, !turned, false, p.alpha)
	}
	return b.product(g, other, true, turned, p.alpha)
}

// product multiplies matrices.
func (b *Backward) product(x, y Value, transX, transY bool, alpha float32) Value {
	n := &onnx.Node{OpType: "FusedMatMul", Domain: "com.microsoft"}
	if transX {
		n.Attributes = append(n.Attributes, onnx.IntAttribute("transA", 1))
	}
	if transY {
		n.Attributes = append(n.Attributes, onnx.IntAttribute("transB", 1))
	}
	if alpha != 1 {
		n.Attributes = append(n.Attributes, onnx.FloatAttribute("alpha", alpha))
	}
	return b.Add(n, x, y)
}

// transposeTo permutes axes as order says.
func (b *Backward) transposeTo(v Value, order []int) Value {
	perm := make([]int64, len(order))
	for i, axis := range order {
		perm[i] = int64(axis)
	}
	return b.Transpose(v, perm...)
}

// inverse returns the permutation that undoes another.
func inverse(order []int) []int {
	out := make([]int, len(order))
	for i, axis := range order {
		out[axis] = i
	}
	return out
}

// gemmGradient is the gradient of Gemm and FusedGemm.
func gemmGradient(b *Backward) {
	n, g := b.Node, b.Gradient(0)
	if activation := n.String("activation", ""); activation != "" {
		g = b.gemmActivation(activation, g)
	}
	p := factors{values: [2]Value{b.Input(0), b.Input(1)}, alpha: n.Float("alpha", 1),
		transposed: [2]bool{n.Int("transA", 0) != 0, n.Int("transB", 0) != 0}}
	for i := range 2 {
		if b.Wants(i) {
			b.Set(i, b.factorGradient(p, i, g))
		}
	}
	if b.Wants(2) {
		if beta := n.Float("beta", 1); beta != 1 {
			g = b.Op("Mul", g, b.Scalar(float64(beta), g))
		}
		b.Set(2, b.SumTo(g, b.Input(2)))
	}
}

// gemmActivation returns the gradient before FusedGemm's activation, all of
// which tell their slope by their result.
func (b *Backward) gemmActivation(name string, g Value) Value {
	y := b.Output(0)
	zero, one := b.Scalar(0, y), b.Scalar(1, y)
	switch name {
	case "Relu":
		return b.Op("Where", b.Op("Greater", y, zero), g, zero)
	case "LeakyRelu":
		slope := b.Scalar(float64(b.Node.Float("activation_alpha", 0.01)), y)
		return b.Op("Where", b.Op("Less", y, zero), b.Op("Mul", g, slope), g)
	case "Sigmoid":
		return b.Op("Mul", g, b.Op("Mul", y, b.Op("Sub", one, y)))
	case "Tanh":
		return b.Op("Mul", g, b.Op("Sub", one, b.Op("Mul", y, y)))
	case "HardSigmoid":
		slope := b.Scalar(float64(b.Node.Float("activation_alpha", 0.2)), y)
		return b.Op("Where", b.Op("And", b.Op("Greater", y, zero), b.Op("Less", y, one)), b.Op("Mul", g, slope), zero)
	}
	b.Fail(fmt.Errorf("activation %q of FusedGemm has no gradient", name))
	return NoValue
}

// rows reshapes a value to a matrix with its last dimension.
func (b *Backward) rows(v Value) Value {
	shape := b.Fact(v).Shape
	last := shape[len(shape)-1]
	if !last.Known() {
		return b.Add(&onnx.Node{OpType: "Flatten", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", int64(len(shape)-1))}}, v)
	}
	return b.Op("Reshape", v, b.Ints(-1, int64(last)))
}

// MatMulOrder returns, for an operand (0 or 1) of MatMul or FusedMatMul of
// the given rank, at least 2, which of its axes are the batch dimensions, the
// rows and the columns of the matrices to multiply, in this order.
func MatMulOrder(n *Node, operand, rank int) []int {
	side := "AB"[operand : operand+1]
	order := make([]int, rank)
	for i := range order {
		order[i] = i
	}
	if n.Int("transBatch"+side, 0) != 0 {
		copy(order, order[1:rank-1])
		order[rank-2] = 0
	}
	if n.Int("trans"+side, 0) != 0 {
		order[rank-1], order[rank-2] = order[rank-2], order[rank-1]
	}
	return order
}

func inferMatMul(c *Inference) error {
	t, err := c.productType()
	if err != nil {
		return err
	}
	shape, err := c.matMulShape(c.Shape(0), c.Shape(1))
	if err != nil {
		return err
	}
	c.Set(0, t, shape)
	return nil
}

// matMulShape returns the shape of the product of operands of shapes a and b,
// as numpy's matmul has it.
func (c *Inference) matMulShape(a, b []Dim) ([]Dim, error) {
	if a == nil || b == nil {
		return nil, nil
	}
	if len(a) == 0 || len(b) == 0 {
		return nil, errors.New("cannot multiply a scalar; the operands need a rank of at least 1")
	}
	a, b = matMulOperand(c.Node, 0, a), matMulOperand(c.Node, 1, b)
	// A vector is a matrix of one row (or column) that the result lacks.
	rowVector, columnVector := len(a) == 1, len(b) == 1
	if rowVector {
		a = []Dim{1, a[0]}
	}
	if columnVector {
		b = []Dim{b[0], 1}
	}
	if _, err := Unify(a[len(a)-1], b[len(b)-2]); err != nil {
		return nil, fmt.Errorf("cannot multiply matrices of shapes %s and %s", FormatDims(a), FormatDims(b))
	}
	shape, err := c.Broadcast(a[:len(a)-2], b[:len(b)-2])
	if err != nil {
		return nil, err
	}
	shape = slices.Clip(shape)
	if !rowVector {
		shape = append(shape, a[len(a)-2])
	}
	if !columnVector {
		shape = append(shape, b[len(b)-1])
	}
	return JoinDims(shape), nil
}

// matMulOperand puts a shape in the order of MatMulOrder. Vectors stay.
func matMulOperand(n *Node, operand int, shape []Dim) []Dim {
	if len(shape) < 2 {
		return shape
	}
	out := make([]Dim, len(shape))
	for i, axis := range MatMulOrder(n, operand, len(shape)) {
		out[i] = shape[axis]
	}
	return out
}

// productType checks the types of a product's operands.
func (c *Inference) productType() (onnx.DataType, error) {
	t, err := c.sameType(0, 1, 2)
	if err != nil {
		return t, err
	}
	switch {
	case t == onnx.Undefined, t.IsFloat() && t.Bits() >= 16:
	case t == onnx.Int32, t == onnx.Int64, t == onnx.Uint32, t == onnx.Uint64:
	default:
		return t, fmt.Errorf("cannot multiply matrices of %s", t)
	}
	return t, nil
}

func inferGemm(c *Inference) error {
	t, err := c.productType()
	if err != nil {
		return err
	}
	if !c.Has(2) && c.Node.Operator.Domain == "" && c.Node.Since < 11 {
		return fmt.Errorf("lacks its input C, which is optional only since version 11")
	}
	var shape [2]Dim
	var depth [2]Dim
	for i, transposed := range []bool{c.Node.Int("transA", 0) != 0, c.Node.Int("transB", 0) == 0} {
		switch s := c.Shape(i); {
		case s == nil:
			shape[i], depth[i] = c.Fresh(), c.Fresh()
		case len(s) != 2:
			return fmt.Errorf("input %d has shape %s, needs a matrix", i, FormatDims(s))
		case transposed:
			shape[i], depth[i] = s[1], s[0]
		default:
			shape[i], depth[i] = s[0], s[1]
		}
	}
	if _, err := Unify(depth[0], depth[1]); err != nil {
		return fmt.Errorf("cannot multiply matrices of shapes %s and %s with transA=%d, transB=%d",
			FormatDims(c.Shape(0)), FormatDims(c.Shape(1)), c.Node.Int("transA", 0), c.Node.Int("transB", 0))
	}
	if bias := c.Shape(2); bias != nil && !c.broadcastsTo(bias, shape[:]) {
		return fmt.Errorf("input C of shape %s does not broadcast to the product's shape %s", FormatDims(bias), FormatDims(shape[:]))
	}
	c.Set(0, t, shape[:])
	return nil
}

// broadcastsTo reports whether shape may broadcast to target without changing
// it (ONNX's unidirectional broadcasting).
func (c *Inference) broadcastsTo(shape, target []Dim) bool {
	if len(shape) > len(target) {
		return false
	}
	for i, d := range shape {
		if want := target[len(target)-len(shape)+i]; d.Known() && d != 1 && want.Known() && d != want {
			return false
		}
	}
	return true
}
