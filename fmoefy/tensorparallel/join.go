package tensorparallel

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// use is an input of a node that takes a constant whose pieces the ranks hold.
type use struct {
	node     *onnx.Node
	input    int
	constant *constant
	axis     int     // of the constant as the node sees it
	segments []int64 // on each rank along axis, where each is a piece of a part; nil for one part
	adds     bool    // the merged constant is the sum over the ranks
}

func (m *merger) use(n *onnx.Node, input int, c *constant, axis int) *use {
	u := &use{node: n, input: input, constant: c, axis: axis}
	m.uses = append(m.uses, u)
	return u
}

// segment says that the constant consists of parts, of which each rank holds
// pieces of the given sizes.
func (u *use) segment(sizes []int64) error {
	if u.segments != nil && !slices.Equal(u.segments, sizes) {
		return fmt.Errorf("%q is split into parts of %v and of %v", u.constant.name, u.segments, sizes)
	}
	u.segments = sizes
	return nil
}

// follow takes the segments of the constants that l comes from.
func (u *use) follow(l *layout) {
	for _, other := range l.uses {
		if other.segments != nil {
			u.segments = other.segments
		}
	}
}

// bound is an integer by which a rank knows its tokens: the first of them, or
// the one after the last.
type bound struct {
	node     *onnx.Node
	input    int
	constant *constant
}

// finish puts the joined constants in, and removes what nothing uses.
func (m *merger) finish() error {
	made := map[string]string{}
	for _, u := range m.uses {
		key := fmt.Sprint(u.constant.name, u.constant.transposed, u.axis, u.segments, u.adds)
		if made[key] == "" {
			name, err := m.join(u)
			if err != nil {
				return fmt.Errorf("node %s: %w", describe(u.node), err)
			}
			made[key] = name
		}
		u.node.Inputs[u.input] = made[key]
	}
	for _, b := range m.bounds {
		if err := m.settle(b); err != nil {
			return fmt.Errorf("node %s: %w", describe(b.node), err)
		}
	}
	for _, v := range m.graph.Outputs {
		if l := m.split(v.Name); l != nil && v.Type != nil && v.Type.Shape != nil {
			if at := len(v.Type.Shape.Dims) + l.axis; at >= 0 && v.Type.Shape.Dims[at].Known {
				v.Type.Shape.Dims[at].Value *= m.size
			}
		}
	}
	m.graph.ValueInfo = nil // states the ranks' shapes
	m.prune()
	m.restoreNames()
	for _, list := range []*[]string{&m.report.Column, &m.report.Row, &m.report.Vocabulary, &m.report.Biases} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	m.report.Ranks = len(m.ranks)
	return nil
}

// join adds the whole of a constant to the graph.
func (m *merger) join(u *use) (string, error) {
	c := u.constant
	t := &onnx.Tensor{Name: m.names.NewName(c.name), DataType: c.parts[0].DataType, Dims: slices.Clone(c.parts[0].Dims)}
	m.graph.Initializers = append(m.graph.Initializers, t)
	if u.adds {
		if !t.DataType.IsFloat() || t.DataType.Bits() < 16 {
			return "", fmt.Errorf("%q of type %s cannot be added up", c.name, t.DataType)
		}
		size, err := t.ByteSize()
		t.SetSource(&total{c.parts, size})
		return t.Name, err
	}
	axis := u.axis
	if c.transposed {
		axis = 1 - axis
	}
	if t.DataType.Bits()%8 != 0 || t.DataType.Bits() == 0 {
		return "", fmt.Errorf("%q of type %s cannot be joined", c.name, t.DataType)
	}
	j := &joined{parts: c.parts, outer: 1, inner: int64(t.DataType.Bits() / 8), segments: u.segments}
	if j.segments == nil {
		j.segments = []int64{t.Dims[axis]}
	}
	for i, d := range t.Dims {
		switch {
		case i < axis:
			j.outer *= d
		case i > axis:
			j.inner *= d
		}
	}
	t.Dims[axis] *= m.size
	t.SetSource(j)
	if !c.transposed {
		return t.Name, nil
	}
	n := &onnx.Node{Name: m.names.NewNodeName("merged.Transpose"), OpType: "Transpose", Inputs: []string{t.Name},
		Outputs: []string{m.names.NewName("merged.transposed")}, Attributes: []*onnx.Attribute{onnx.IntsAttribute("perm", 1, 0)}}
	m.graph.Nodes = slices.Insert(m.graph.Nodes, 0, n)
	return n.Outputs[0], nil
}

// joined is the source of a tensor whose parts the ranks hold, [outer, length,
// inner] bytes each.
type joined struct {
	parts        []*onnx.Tensor
	outer, inner int64
	segments     []int64
}

func (j *joined) length() (n int64) {
	for _, s := range j.segments {
		n += s
	}
	return n
}

func (j *joined) Size() int64 { return int64(len(j.parts)) * j.outer * j.length() * j.inner }

// WriteTo implements [onnx.Source].
func (j *joined) WriteTo(w io.Writer) (int64, error) {
	data := make([][]byte, len(j.parts))
	for i, t := range j.parts {
		var err error
		if data[i], err = t.Bytes(); err != nil {
			return 0, err
		}
	}
	written := int64(0)
	for o := range j.outer {
		start := o * j.length() * j.inner
		for _, s := range j.segments {
			for _, rank := range data {
				n, err := w.Write(rank[start:][:s*j.inner])
				written += int64(n)
				if err != nil {
					return written, err
				}
			}
			start += s * j.inner
		}
	}
	return written, nil
}

// total is the source of the sum of tensors.
type total struct {
	parts []*onnx.Tensor
	size  int64
}

func (s *total) Size() int64 { return s.size }

// WriteTo implements [onnx.Source].
func (s *total) WriteTo(w io.Writer) (int64, error) {
	var sum []float64
	for _, t := range s.parts {
		x, err := tensor.FromONNX(t)
		if err != nil {
			return 0, err
		}
		values, err := tensor.Float64s(x)
		if err != nil {
			return 0, err
		}
		if sum == nil {
			sum = make([]float64, len(values))
		}
		for i, v := range values {
			sum[i] += v
		}
	}
	out := tensor.New(s.parts[0].DataType, len(sum))
	tensor.ConvertFloat(out, tensor.FromSlice(sum, len(sum)))
	n, err := w.Write(out.Data)
	return int64(n), err
}

// settle gives a bound of a rank's tokens the value that bounds all of them.
func (m *merger) settle(b bound) error {
	var values []int64
	for _, t := range b.constant.parts {
		data, err := t.Bytes()
		if err != nil {
			return err
		}
		switch {
		case len(data) == 8 && t.DataType == onnx.Int64:
			values = append(values, int64(binary.LittleEndian.Uint64(data)))
		case len(data) == 4 && t.DataType == onnx.Int32:
			values = append(values, int64(int32(binary.LittleEndian.Uint32(data))))
		default:
			return fmt.Errorf("its input %q differs between the ranks, and nothing tells how it is split", b.constant.name)
		}
	}
	step := values[1] - values[0]
	for rank, v := range values {
		if v != values[0]+int64(rank)*step || !m.embedded[step] {
			return fmt.Errorf("its input %q is %v on the ranks, which bounds no rows of an embedding", b.constant.name, values)
		}
	}
	var merged int64
	switch values[0] {
	case 0:
	case step, step - 1: // after the last token, or the last
		merged = values[len(values)-1]
	default:
		return fmt.Errorf("its input %q is %v on the ranks, which is neither the first nor the last row of an embedding", b.constant.name, values)
	}
	t := b.constant.parts[0]
	data := binary.LittleEndian.AppendUint64(nil, uint64(merged))[:t.DataType.Bits()/8]
	name := m.names.NewName(b.constant.name)
	m.graph.Initializers = append(m.graph.Initializers, onnx.NewTensor(name, t.DataType, slices.Clone(t.Dims), data))
	b.node.Inputs[b.input] = name
	return nil
}

// prune removes nodes and weights that nothing uses any more.
func (m *merger) prune() {
	for removed := true; removed; {
		index := onnx.NewIndex(m.graph)
		unused := func(name string) bool { return len(index.Consumers(name)) == 0 && !index.IsOutput(name) }
		before := len(m.graph.Nodes) + len(m.graph.Initializers)
		m.graph.Nodes = slices.DeleteFunc(m.graph.Nodes, func(n *onnx.Node) bool {
			return !slices.ContainsFunc(n.Outputs, func(out string) bool { return out != "" && !unused(out) })
		})
		m.graph.Initializers = slices.DeleteFunc(m.graph.Initializers, func(t *onnx.Tensor) bool { return unused(t.Name) && !index.IsInput(t.Name) })
		removed = len(m.graph.Nodes)+len(m.graph.Initializers) < before
	}
}

// restoreNames gives joined weights the names that they have on the ranks,
// where nothing else has them now.
func (m *merger) restoreNames() {
	taken := map[string]bool{}
	for _, t := range m.graph.Initializers {
		taken[t.Name] = true
	}
	for _, n := range m.graph.Nodes {
		for _, out := range n.Outputs {
			taken[out] = true
		}
	}
	renamed := map[string]string{}
	for _, u := range m.uses {
		name := u.node.Inputs[u.input]
		if u.constant.transposed || renamed[name] != "" || taken[u.constant.name] {
			continue
		}
		renamed[name] = u.constant.name
		taken[u.constant.name] = true
	}
	for _, t := range m.graph.Initializers {
		if name := renamed[t.Name]; name != "" {
			t.Name = name
		}
	}
	for _, n := range m.graph.Nodes {
		for i, in := range n.Inputs {
			if name := renamed[in]; name != "" {
				n.Inputs[i] = name
			}
		}
	}
}
