package tensorparallel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// ints returns the elements of a constant of integers that is equal on all
// ranks, nil where value is none.
func (m *merger) ints(value string) []int64 {
	c := m.constant(value)
	if c == nil || c.parts[0].DataType != onnx.Int64 {
		return nil
	}
	if same, err := c.equal(); err != nil || !same {
		return nil
	}
	data, err := c.parts[0].Bytes()
	if err != nil {
		return nil
	}
	list := make([]int64, len(data)/8)
	for i := range list {
		list[i] = int64(binary.LittleEndian.Uint64(data[8*i:]))
	}
	return list
}

// newInts adds a constant of integers and returns its name.
func (m *merger) newInts(list ...int64) string {
	name := m.names.NewName("merged.shape")
	m.graph.Initializers = append(m.graph.Initializers, integers(name, list, []int64{int64(len(list))}))
	return name
}

// computed marks an element of a shape that no constant gives.
const computed = -2

// target returns the elements of a shape that is a constant or a Concat of
// single elements, and which input of that Concat gives each.
func (m *merger) target(value string) (entries []int64, parts *onnx.Node) {
	if list := m.ints(value); list != nil {
		return list, nil
	}
	n := m.names.Producer(value)
	if n == nil || !n.Is("Concat") {
		return nil, nil
	}
	for _, in := range n.Inputs {
		entry := int64(computed)
		if list := m.ints(in); len(list) == 1 {
			entry = list[0]
		} else if u := m.names.Producer(in); u != nil && u.Is("Unsqueeze") && len(m.ints(u.Input(0))) == 1 {
			entry = m.ints(u.Input(0))[0]
		} else if list != nil {
			return nil, nil
		}
		entries = append(entries, entry)
	}
	return entries, n
}

// reshape merges a Reshape of a split value: the outermost of the dimensions
// that its split axis becomes is split in turn. Where the target states that
// dimension, it states the merged model's from now on.
func (m *merger) reshape(n *onnx.Node, l *layout) (*layout, error) {
	entries, parts := m.target(n.Input(1))
	if entries == nil {
		return nil, fmt.Errorf("its target shape %q is neither a constant nor made of constants and dimensions", n.Input(1))
	}
	inner := int64(1) // elements of the split axis and those after it
	for _, d := range l.dims[len(l.dims)+l.axis:] {
		if d < 0 {
			return nil, errors.New("the dimensions behind the axis that is split are not known")
		}
		inner *= d
	}
	at, size := len(entries), int64(1)
	for at > 0 && size < inner {
		at--
		switch d := entries[at]; {
		case d > 0:
			size *= d
		case d == -1 && inner%size == 0: // the rest
			entries[at] = inner / size
			return reshaped(entries, at), nil
		default:
			return nil, fmt.Errorf("dimension %d of its target %q is not a constant", at, n.Input(1))
		}
	}
	// A rank with one head has a 1 before the head's elements. In a value of
	// fewer dimensions than a batch of heads has, it would be the batch.
	if at > 0 && entries[at-1] == 1 && l.axis == -1 && len(entries) > 3 {
		at--
	}
	if size != inner {
		return nil, fmt.Errorf("its target %v does not keep the %d elements of a rank together", entries, inner)
	}
	if parts == nil {
		list := slices.Clone(entries)
		list[at] *= m.size
		n.Inputs[1] = m.newInts(list...)
	} else {
		shape := parts.Clone()
		shape.Name = m.names.NewNodeName(parts.Name)
		shape.Inputs[at] = m.newInts(entries[at] * m.size)
		shape.Outputs = []string{m.names.NewName(n.Input(1))}
		n.Inputs[1] = shape.Outputs[0]
		m.graph.Nodes = append(m.graph.Nodes, shape)
	}
	return reshaped(entries, at), nil
}

// reshaped returns the layout of a value of the given shape.
func reshaped(entries []int64, at int) *layout {
	dims := slices.Clone(entries)
	for i, d := range dims {
		if d <= 0 {
			dims[i] = -1
		}
	}
	return &layout{axis: at - len(dims), dims: dims, whole: true}
}

// cut merges a Split. Along the axis that is split over the ranks, each rank
// has a piece of each part, as of gate and up in one projection: the weights
// are joined part by part.
func (m *merger) cut(n *onnx.Node, l *layout) (*layout, error) {
	axis := int(n.Int("axis", 0))
	if axis >= 0 {
		if !l.whole {
			return nil, errors.New("it splits a value whose number of dimensions is not known")
		}
		axis -= len(l.dims)
	}
	if -axis > len(l.dims) {
		return nil, fmt.Errorf("it splits axis %d, of which nothing is known", axis)
	}
	sizes := n.Ints("split")
	if n.Input(1) != "" {
		if sizes = m.ints(n.Input(1)); sizes == nil {
			return nil, fmt.Errorf("its sizes %q are not a constant", n.Input(1))
		}
	}
	length := l.dims[len(l.dims)+axis]
	if sizes == nil {
		if length < 0 || length%int64(len(n.Outputs)) != 0 {
			return nil, fmt.Errorf("it splits %d elements into %d parts", length, len(n.Outputs))
		}
		sizes = slices.Repeat([]int64{length / int64(len(n.Outputs))}, len(n.Outputs))
	}
	if axis != l.axis {
		if slices.ContainsFunc(sizes, func(s int64) bool { return s != sizes[0] }) {
			return nil, errors.New("it splits into parts of different sizes")
		}
		dims := slices.Clone(l.dims)
		dims[len(dims)+axis] = sizes[0]
		return &layout{axis: l.axis, dims: dims, whole: l.whole}, nil
	}
	if len(l.uses) == 0 {
		return nil, errors.New("it splits heads or hidden units that are no longer in the order of their weights")
	}
	for _, u := range l.uses {
		if err := u.segment(sizes); err != nil {
			return nil, err
		}
	}
	scaled := make([]int64, len(sizes))
	for i, s := range sizes {
		if scaled[i] = s * m.size; s != sizes[0] {
			return nil, errors.New("it splits into parts of different sizes")
		}
	}
	if n.Input(1) != "" {
		n.Inputs[1] = m.newInts(scaled...)
	}
	if a := n.Attribute("split"); a != nil {
		a.Ints = scaled
	}
	dims := slices.Clone(l.dims)
	dims[len(dims)+axis] = sizes[0]
	return &layout{axis: axis, dims: dims, whole: l.whole}, nil
}

// slice merges a Slice along axes that are not split.
func (m *merger) slice(n *onnx.Node, l *layout) (*layout, error) {
	axes := n.Ints("axes")
	if n.Input(3) != "" {
		axes = m.ints(n.Input(3))
	}
	if !l.whole || len(axes) == 0 {
		return nil, errors.New("it slices a split value along axes that are not known")
	}
	dims := slices.Clone(l.dims)
	for _, a := range axes {
		if a < 0 {
			a += int64(len(dims))
		}
		if a < 0 || int(a) >= len(dims) || int(a) == len(dims)+l.axis {
			return nil, fmt.Errorf("it slices the axes %v, among them the one that is split", axes)
		}
		dims[a] = -1
	}
	return &layout{axis: l.axis, dims: dims, whole: true}, nil
}

// concatenate merges a Concat of values that are split alike, along another
// axis.
func (m *merger) concatenate(n *onnx.Node, l *layout) (*layout, error) {
	axis := int(n.Int("axis", 0))
	if axis < 0 {
		axis += len(l.dims)
	}
	if !l.whole || axis < 0 || axis >= len(l.dims) || axis == len(l.dims)+l.axis {
		return nil, fmt.Errorf("it joins values along axis %d, which is split or not known", axis)
	}
	dims := slices.Clone(l.dims)
	for _, in := range n.Inputs[1:] {
		other := m.split(in)
		if other == nil || other.axis != l.axis || other.length() != l.length() || len(other.dims) != len(dims) {
			return nil, fmt.Errorf("it joins values of which %q is not split as the first is", in)
		}
		if dims[axis] += other.dims[axis]; other.dims[axis] < 0 || l.dims[axis] < 0 {
			dims[axis] = -1
		}
	}
	return &layout{axis: l.axis, dims: dims, whole: true}, nil
}
