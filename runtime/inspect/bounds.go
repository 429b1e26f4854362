package inspect

import (
	"encoding/binary"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
)

// IndexBound returns the number below which the elements of an integer graph
// input must stay, as the input, perhaps reshaped, selects rows of constant
// tables: the smallest of the tables' sizes. It returns false where the input
// selects from none.
func IndexBound(g *onnx.Graph, input string) (int64, bool) {
	f := newFlow(g, reshapes)
	f.reach(input, 0)
	return f.bound()
}

// ContextLength returns how many positions a language model has, as far as
// its graph shows it: the size of a learned table of positions, from which
// rows are selected or sliced by numbers that come from shapes or from the
// inputs position_ids and attention_mask. It returns false where it finds no
// such table.
func ContextLength(g *onnx.Graph) (int64, bool) {
	f := newFlow(g, positions)
	f.reach("position_ids", 0)
	f.reach("attention_mask", 0)
	for _, n := range g.Nodes {
		if n.Is("Shape") {
			f.reach(n.Output(0), 0)
		}
	}
	return f.bound()
}

// operands says from which inputs of a node a flow goes on to its outputs.
type operands int

const (
	first operands = iota + 1 // from the first
	all                       // from any
	taken                     // from the first; from any where the first is a constant, of positions
)

// reshapes keep indices as they are.
var reshapes = map[string]operands{
	"Cast": first, "Expand": first, "Flatten": first, "Identity": first, "Reshape": first, "Squeeze": first,
	"Transpose": first, "Unsqueeze": first,
}

// positions turn a shape, or an attention mask, into a list of positions.
// What T5 computes from positions, bucket numbers, takes other operators.
var positions = map[string]operands{
	"Add": all, "Cast": first, "Concat": all, "CumSum": first, "Expand": first, "Gather": taken, "Identity": first, "Mul": all,
	"Range": all, "Reshape": first, "Slice": taken, "Squeeze": first, "Sub": all, "Unsqueeze": first,
}

// flow follows values from where they start through some operators to the
// tables that they select from.
type flow struct {
	index   *onnx.Index
	through map[string]operands
	offset  map[string]int64 // of each value reached: what was added on the way
	queue   []string
	tables  map[string]*onnx.Tensor
}

func newFlow(g *onnx.Graph, through map[string]operands) *flow {
	f := &flow{index: onnx.NewIndex(g), through: through, offset: map[string]int64{}, tables: map[string]*onnx.Tensor{}}
	for _, n := range g.Nodes {
		if value := n.Attribute("value"); n.Is("Constant") && value != nil && value.Tensor != nil {
			f.tables[n.Output(0)] = value.Tensor
		}
		if t := f.table(n.Input(0)); n.Is("Identity") && t != nil {
			f.tables[n.Output(0)] = t
		}
	}
	return f
}

// maxOffset is more than any model adds to positions; it ends the way round a
// cycle.
const maxOffset = 64

// reach notes that a value is reached; by several ways, the largest offset
// counts.
func (f *flow) reach(value string, offset int64) {
	if before, reached := f.offset[value]; value != "" && (!reached || before < offset && offset <= maxOffset) {
		f.offset[value] = offset
		f.queue = append(f.queue, value)
	}
}

// bound follows the values and returns the size of the smallest table, less
// what was added to the numbers that select from it.
func (f *flow) bound() (int64, bool) {
	smallest := int64(math.MaxInt64)
	for len(f.queue) > 0 {
		value := f.queue[0]
		f.queue = f.queue[1:]
		for _, use := range f.index.Consumers(value) {
			n := use.Node
			if size, ok := f.selects(n, use.Input); ok {
				smallest = min(smallest, size-f.offset[value])
			} else if f.goesOn(n, use.Input) {
				for _, out := range n.Outputs {
					f.reach(out, f.offset[value]+f.added(n))
				}
			}
		}
	}
	if smallest < 1 || smallest == math.MaxInt64 {
		return 0, false
	}
	return smallest, true
}

func (f *flow) goesOn(n *onnx.Node, input int) bool {
	if onnx.CanonicalDomain(n.Domain) != "" || input == onnx.Captured {
		return false
	}
	switch f.through[n.OpType] {
	case first:
		return input == 0
	case all:
		return true
	case taken:
		return input == 0 || f.table(n.Input(0)) != nil
	}
	return false
}

// added returns what a node adds to positions that flow through it. OPT's
// table, for example, has its first position in row 2.
func (f *flow) added(n *onnx.Node) int64 {
	constant := int64(0)
	for i := range n.Inputs {
		if v, ok := f.integer(n.Input(i)); ok {
			constant = v
		}
	}
	switch n.OpType {
	case "Add":
		return constant
	case "Sub":
		return -constant
	case "CumSum": // of a mask: 1 for the first position
		return 1
	}
	return 0
}

// selects returns the size of the table from which a node selects with its
// input of the given number: a Gather's indices, or a Slice's limits.
func (f *flow) selects(n *onnx.Node, input int) (int64, bool) {
	table := f.table(n.Input(0))
	if table == nil || !table.DataType.IsFloat() || len(table.Dims) < 2 {
		return 0, false
	}
	axis := int64(0)
	switch {
	case n.Is("Gather") && input == 1:
		axis = n.Int("axis", 0)
	case n.Is("Slice") && input == 2: // its ends
		var one bool
		if axis, one = f.integer(n.Input(3)); !one {
			return 0, false // several axes, or none named: no table of positions
		}
	default:
		return 0, false
	}
	if axis < 0 {
		axis += int64(len(table.Dims))
	}
	if axis < 0 || axis >= int64(len(table.Dims)) {
		return 0, false
	}
	return table.Dims[axis], true
}

func (f *flow) table(name string) *onnx.Tensor {
	if t := f.index.Initializer(name); t != nil {
		return t
	}
	return f.tables[name]
}

// integer returns the value of a constant that has one element, of int64.
func (f *flow) integer(name string) (int64, bool) {
	t := f.table(name)
	if t == nil || t.DataType != onnx.Int64 {
		return 0, false
	}
	data, err := t.Bytes()
	if err != nil || len(data) != 8 {
		return 0, false
	}
	return int64(binary.LittleEndian.Uint64(data)), true
}
