package tensorparallel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// layout says how a value of the ranks is a piece of the merged model's.
type layout struct {
	axis  int     // along which it is split, from the end: -1 is the last
	dims  []int64 // the last dimensions on a rank, -1 where unknown; axis is among them
	whole bool    // dims are all dimensions
	uses  []*use  // the constants whose order along axis is the value's
}

func (l *layout) length() int64 { return l.dims[len(l.dims)+l.axis] }

// split returns the layout of value, nil where it is whole.
func (m *merger) split(value string) *layout { return m.layouts[value] }

// isCollective reports whether n communicates between ranks.
func isCollective(n *onnx.Node) bool {
	switch n.OpType {
	case "AllReduce", "NcclAllReduce", "AllGather", "NcclAllGather":
		return true
	}
	return false
}

// node adds one node of the ranks to the merged model.
func (m *merger) node(n *onnx.Node) error {
	for i, in := range n.Inputs {
		if value, ok := m.whole[in]; ok {
			n.Inputs[i] = value
		}
	}
	switch {
	case isCollective(n):
		return m.collective(n)
	case n.Is("Constant"):
		m.graph.Nodes = append(m.graph.Nodes, n)
		return nil
	case (n.Is("Identity") || n.Is("Transpose")) && m.constant(n.Input(0)) != nil:
		m.graph.Nodes = append(m.graph.Nodes, n) // its use decides
		return nil
	case n.Is("MatMul") || n.Is("Gemm"):
		if c := m.constant(n.Input(1)); c != nil && len(c.dims()) == 2 {
			return m.product(n, c)
		}
	}
	if len(n.Subgraphs()) > 0 {
		for name := range m.layouts {
			if slices.ContainsFunc(m.names.Consumers(name), func(u onnx.Use) bool { return u.Node == n && u.Nested() }) {
				return fmt.Errorf("its subgraph uses %q, which is split over the ranks", name)
			}
		}
	}
	if !slices.ContainsFunc(n.Inputs, func(in string) bool { return m.split(in) != nil }) {
		return m.onWholeValues(n)
	}
	return m.onSplitValues(n)
}

// collective drops a node that makes what the ranks compute whole: in the
// merged model it is.
func (m *merger) collective(n *onnx.Node) error {
	in := n.Input(0)
	l := m.split(in)
	gathers := n.OpType == "AllGather" || n.OpType == "NcclAllGather"
	switch {
	case gathers && l == nil:
		return fmt.Errorf("it gathers %q, which is not split over the ranks", in)
	case gathers:
		axis := int(n.Int("axis", 0))
		if axis >= 0 && l.whole {
			axis -= len(l.dims)
		}
		if axis != l.axis && (axis < 0 || l.whole) {
			return fmt.Errorf("it gathers axis %d of %q, which is split along axis %d", axis, in, l.axis)
		}
	case l != nil:
		return fmt.Errorf("it adds up %q, whose parts on the ranks are different elements", in)
	}
	out := n.Output(0)
	m.partial[out] = m.partial[in]
	if m.names.IsOutput(out) || gathers {
		m.graph.Nodes = append(m.graph.Nodes, &onnx.Node{Name: n.Name, OpType: "Identity", Inputs: []string{in}, Outputs: []string{out}})
		return nil
	}
	m.whole[out] = in
	return nil
}

// product merges a product of data by a constant matrix.
func (m *merger) product(n *onnx.Node, c *constant) error {
	rows, columns := 0, 1 // the axes of inputs and outputs
	if n.Is("Gemm") {
		if n.Int("transA", 0) != 0 {
			return errors.New("it transposes its data")
		}
		if n.Int("transB", 0) != 0 {
			rows, columns = 1, 0
		}
	}
	bias := n.Input(2)
	in, out := m.split(n.Input(0)), n.Output(0)
	if in != nil { // row-parallel
		if in.axis != -1 || in.length() != c.dims()[rows] {
			return fmt.Errorf("its data is split along axis %d into %d, its weight has %d rows", in.axis, in.length(), c.dims()[rows])
		}
		u := m.use(n, 1, c, rows)
		in.uses = append(in.uses, u)
		u.follow(in)
		m.partial[out] = true
		m.report.Row = append(m.report.Row, c.name)
		if bias != "" {
			if err := m.sumBias(n, 2); err != nil {
				return err
			}
			m.partial[out] = false
		}
		m.graph.Nodes = append(m.graph.Nodes, n)
		return nil
	}
	same, err := c.equal()
	if err != nil {
		return err
	}
	if same {
		return m.onWholeValues(n)
	}
	l := &layout{axis: -1, dims: []int64{c.dims()[columns]}}
	l.uses = append(l.uses, m.use(n, 1, c, columns))
	m.report.Column = append(m.report.Column, c.name)
	if bias != "" {
		if err := m.alongside(n, 2, l); err != nil {
			return err
		}
	}
	m.layouts[out] = l
	m.graph.Nodes = append(m.graph.Nodes, n)
	return nil
}

// alongside splits a constant operand that varies along the axis of l.
func (m *merger) alongside(n *onnx.Node, input int, l *layout) error {
	c := m.constant(n.Input(input))
	if c == nil {
		return nil // computed from whole values: broadcast
	}
	dims := c.dims()
	at := len(dims) + l.axis
	if at < 0 || dims[at] == 1 {
		return m.mustBeEqual(n.Input(input))
	}
	if dims[at] != l.length() {
		return fmt.Errorf("%q of shape %v does not fit the %d elements of a rank", c.name, dims, l.length())
	}
	u := m.use(n, input, c, at)
	u.follow(l)
	l.uses = append(l.uses, u)
	if c.parts[0].DataType.IsFloat() {
		m.report.Biases = append(m.report.Biases, c.name)
	}
	return nil
}

// sumBias settles the bias of a row-parallel product: every rank has all of
// it, and it counts once, or the ranks have parts of a sum.
func (m *merger) sumBias(n *onnx.Node, input int) error {
	c := m.constant(n.Input(input))
	if c == nil {
		return fmt.Errorf("its bias %q is not a constant", n.Input(input))
	}
	same, err := c.equal()
	if err != nil || same {
		return err
	}
	u := m.use(n, input, c, 0)
	u.adds = true
	m.report.Biases = append(m.report.Biases, c.name)
	return nil
}

// onWholeValues merges a node none of whose inputs is split.
func (m *merger) onWholeValues(n *onnx.Node) error {
	m.graph.Nodes = append(m.graph.Nodes, n)
	for i, in := range n.Inputs {
		c := m.constant(in)
		if c == nil {
			continue
		}
		same, err := c.equal()
		if err != nil {
			return err
		}
		if same {
			continue
		}
		switch {
		case n.Is("Gather") && i == 0 && n.Int("axis", 0) == 0 && len(c.dims()) == 2:
			m.use(n, i, c, 0)
			m.embedded[c.dims()[0]] = true
			m.partial[n.Output(0)] = true
			m.report.Vocabulary = append(m.report.Vocabulary, c.name)
		case n.Is("Add") && m.partial[n.Input(1-i)]:
			if err := m.sumBias(n, i); err != nil {
				return err
			}
		case c.parts[0].DataType == onnx.Int64 || c.parts[0].DataType == onnx.Int32:
			m.bounds = append(m.bounds, bound{n, i, c})
		default:
			return fmt.Errorf("its input %q differs between the ranks, and nothing tells how it is split", c.name)
		}
	}
	return nil
}

// elementwise operators compute each element of the output from the same
// element of their inputs, broadcast.
var elementwise = map[string]bool{
	"Abs": true, "Add": true, "Cast": true, "Clip": true, "Cos": true, "Div": true, "Dropout": true, "Elu": true, "Erf": true, "Exp": true,
	"FastGelu": true, "Gelu": true, "HardSwish": true, "Identity": true, "Log": true, "Max": true, "Min": true, "Mish": true, "Mul": true, "Neg": true,
	"Pow": true, "QuickGelu": true, "Reciprocal": true, "Relu": true, "Sigmoid": true, "Sin": true, "Softplus": true, "Sqrt": true, "Sub": true,
	"BiasGelu": true, "Swish": true, "SwiGLU": true, "Tanh": true, "Where": true,
}

// onSplitValues merges a node with an input that is split, where each rank
// computes its piece of the output.
func (m *merger) onSplitValues(n *onnx.Node) error {
	l, err := m.outputLayout(n)
	if err != nil {
		return err
	}
	m.graph.Nodes = append(m.graph.Nodes, n)
	if l != nil {
		for i, out := range n.Outputs {
			if out != "" && (i == 0 || n.OpType != "Dropout") {
				m.layouts[out] = l
			}
		}
	}
	return nil
}

func (m *merger) outputLayout(n *onnx.Node) (*layout, error) {
	data := m.split(n.Input(0))
	switch {
	case elementwise[n.OpType]:
		return m.broadcast(n)
	case n.OpType == "Shape":
		return nil, nil // the merged value's
	case n.Is("MatMul"):
		return m.batched(n)
	case data == nil:
	case n.Is("Reshape"):
		return m.reshape(n, data)
	case n.Is("Transpose"):
		return transposed(n, data)
	case n.Is("Split"):
		return m.cut(n, data)
	case n.Is("Slice"):
		return m.slice(n, data)
	case n.Is("Concat"):
		return m.concatenate(n, data)
	case n.Is("Softmax") || n.OpType == "LayerNormalization" || n.OpType == "RMSNormalization" || n.OpType == "SimplifiedLayerNormalization":
		if n.Int("axis", -1) == -1 && data.axis < -1 {
			for i := 1; i < len(n.Inputs); i++ {
				if err := m.mustBeEqual(n.Inputs[i]); err != nil {
					return nil, err
				}
			}
			return data, nil
		}
	}
	return nil, fmt.Errorf("it takes %q, which is split over the ranks, and there is no rule to merge it", m.firstSplit(n))
}

func (m *merger) firstSplit(n *onnx.Node) string {
	return n.Inputs[slices.IndexFunc(n.Inputs, func(in string) bool { return m.split(in) != nil })]
}

// broadcast merges an elementwise node.
func (m *merger) broadcast(n *onnx.Node) (*layout, error) {
	var l *layout
	for _, in := range n.Inputs {
		other := m.split(in)
		switch {
		case other == nil:
		case l == nil:
			l = &layout{other.axis, slices.Clone(other.dims), other.whole, slices.Clone(other.uses)}
		case l.axis != other.axis || l.length() != other.length():
			return nil, fmt.Errorf("its inputs are split along the axes %d and %d into %d and %d", l.axis, other.axis, l.length(), other.length())
		default:
			l.uses = append(l.uses, other.uses...)
			if len(other.dims) > len(l.dims) {
				l.dims, l.whole = slices.Clone(other.dims), other.whole
			}
		}
	}
	for i, in := range n.Inputs {
		if in != "" && m.split(in) == nil {
			if err := m.alongside(n, i, l); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// batched merges a product of two values that are split by heads.
func (m *merger) batched(n *onnx.Node) (*layout, error) {
	a, b := m.split(n.Input(0)), m.split(n.Input(1))
	if a == nil || b == nil || a.axis != b.axis || a.axis > -3 || a.length() != b.length() {
		return nil, errors.New("it multiplies values that are not both split by heads")
	}
	dims := slices.Clone(a.dims)
	dims[len(dims)-1] = b.dims[len(b.dims)-1]
	return &layout{axis: a.axis, dims: dims, whole: a.whole}, nil
}

func transposed(n *onnx.Node, l *layout) (*layout, error) {
	perm, rank := n.Ints("perm"), len(l.dims)
	if !l.whole || len(perm) != rank {
		return nil, errors.New("it permutes a split value whose number of dimensions is not known")
	}
	out := &layout{dims: make([]int64, rank), whole: true}
	for i, p := range perm {
		if p < 0 || int(p) >= rank {
			return nil, fmt.Errorf("its permutation is %v", perm)
		}
		out.dims[i] = l.dims[p]
		if int(p) == rank+l.axis {
			out.axis = i - rank
		}
	}
	return out, nil
}
