package train

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// stage is the part of a model between two cuts. What it needs of the stages
// before, the one before sends.
type stage struct {
	rank, size int
	model      *onnx.Model
	in, out    []*onnx.ValueInfo // from the stage before, and for the one behind
	layers     int               // nodes with random numbers in the stages before
	// shared are parameters that several stages have, by name, with the first
	// of these stages. All stages know all of them.
	shared map[string]int
}

// cut cuts a model, without function calls or control flow, into stages of
// about the same work, where as few values as possible cross, and returns one
// of them.
func cut(m *onnx.Model, found []Parameter, size, rank int) (*stage, error) {
	c := &cutter{model: m, parameters: map[string]*Parameter{}, active: map[string]bool{}, made: map[string]int{}, last: map[string]int{}}
	for i := range found {
		c.parameters[found[i].Name] = &found[i]
	}
	for i, n := range m.Graph.Nodes {
		if len(n.Subgraphs()) > 0 {
			return nil, fmt.Errorf("node %q (%s): models with control flow cannot be cut into pipeline stages; use pipeline=1", n.Name, n.OpType)
		}
		c.visit(i, n)
	}
	for _, v := range m.Graph.Outputs {
		c.last[v.Name] = len(m.Graph.Nodes)
	}
	ends, err := c.ends(size)
	if err != nil {
		return nil, err
	}
	return c.stage(ends, rank)
}

// cutter knows what a model's nodes make and use.
type cutter struct {
	model      *onnx.Model
	parameters map[string]*Parameter
	active     map[string]bool // values that depend on parameters
	made, last map[string]int  // by value: the node that makes it, and the last one that uses it
	work       []int           // of each node: the elements of weights that a token meets
}

func (c *cutter) visit(i int, n *onnx.Node) {
	active, work := false, 0
	for _, name := range n.Inputs {
		c.last[name] = i
		p := c.parameters[name]
		active = active || c.active[name] || p != nil
		switch {
		case p == nil || p.Kind == Embedding && n.Is("Gather"):
		case p.Kind == Expert:
			k := 1
			if config, err := moe.ParseConfig(n); err == nil {
				k = config.TopK
			}
			work += p.Len() / max(p.Shape[0], 1) * k
		default:
			work += p.Len()
		}
	}
	c.work = append(c.work, work)
	for _, name := range n.Outputs {
		if name != "" && active {
			c.active[name], c.made[name] = true, i
		}
	}
}

// crossing returns what is made before a node and used from it on, of what
// depends on parameters, in the order of their making.
func (c *cutter) crossing(end int) []string {
	var list []string
	for name, at := range c.made {
		if at < end && c.last[name] >= end {
			list = append(list, name)
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		if d := c.made[a] - c.made[b]; d != 0 {
			return d
		}
		if a < b {
			return -1
		}
		return 1
	})
	return list
}

// ends returns the number of the node behind each stage, so that the stage with
// the most work has as little as possible.
func (c *cutter) ends(size int) ([]int, error) {
	nodes := len(c.model.Graph.Nodes)
	done := make([]int, nodes+1) // work before a node
	for i, w := range c.work {
		done[i+1] = done[i] + w
	}
	least := nodes
	crossing := make([]int, nodes+1)
	for i := 1; i < nodes; i++ {
		crossing[i] = len(c.crossing(i))
		if crossing[i] > 0 && done[i] > 0 && done[i] < done[nodes] {
			least = min(least, crossing[i])
		}
	}
	places := []int{0}
	for i := 1; i < nodes; i++ {
		// Of places with the same work before them the first one serves.
		if crossing[i] == least && done[i] > done[places[len(places)-1]] && done[i] < done[nodes] {
			places = append(places, i)
		}
	}
	if len(places) < size {
		return nil, fmt.Errorf("the model can be cut into %d pipeline stages at most, not %d", len(places), size)
	}
	places = append(places, nodes)
	// best[s][i] is the work of the largest of s stages before places[i].
	best := make([][]int, size+1)
	from := make([][]int, size+1)
	for s := range best {
		best[s], from[s] = make([]int, len(places)), make([]int, len(places))
		for i := range places {
			best[s][i] = -1
			if s == 0 && i == 0 {
				best[0][0] = 0
			}
			for j := 0; s > 0 && j < i; j++ {
				if best[s-1][j] < 0 {
					continue
				}
				w := max(best[s-1][j], done[places[i]]-done[places[j]])
				if best[s][i] < 0 || w < best[s][i] {
					best[s][i], from[s][i] = w, j
				}
			}
		}
	}
	ends := make([]int, size)
	at := len(places) - 1
	for s := size; s > 0; s-- {
		ends[s-1] = places[at]
		at = from[s][at]
	}
	return ends, nil
}

// stage returns a stage that ends before a node.
func (c *cutter) stage(ends []int, rank int) (*stage, error) {
	g := c.model.Graph
	begin, end := 0, ends[rank]
	if rank > 0 {
		begin = ends[rank-1]
	}
	s := &stage{rank: rank, size: len(ends), shared: c.shared(ends)}
	for _, n := range g.Nodes[:begin] {
		if n.Is("Dropout") || n.OpType == moe.OpType && n.Domain == moe.Domain {
			s.layers++
		}
	}
	facts, err := c.facts()
	if err != nil {
		return nil, err
	}
	var from, to []string
	if rank > 0 {
		from = c.crossing(begin)
	}
	if rank < len(ends)-1 {
		to = c.crossing(end)
	}
	m := c.model.Clone()
	m.Graph.Nodes = nil
	needed := map[string]bool{}
	for _, name := range to {
		needed[name] = true
	}
	if rank == len(ends)-1 {
		for _, v := range g.Outputs {
			needed[v.Name] = true
		}
	}
	// Of the nodes before, those come along that compute what depends on no
	// parameter.
	for i := end - 1; i >= 0; i-- {
		n := g.Nodes[i]
		if !slices.ContainsFunc(n.Outputs, func(name string) bool { return needed[name] && name != "" }) ||
			i < begin && slices.ContainsFunc(n.Outputs, func(name string) bool { return c.active[name] }) {
			continue
		}
		m.Graph.Nodes = append(m.Graph.Nodes, n)
		for _, name := range n.Inputs {
			needed[name] = true
		}
	}
	slices.Reverse(m.Graph.Nodes)
	unneeded := func(name string) bool { return !needed[name] }
	m.Graph.Initializers = slices.DeleteFunc(slices.Clone(g.Initializers), func(t *onnx.Tensor) bool { return unneeded(t.Name) })
	m.Graph.Inputs = slices.DeleteFunc(slices.Clone(g.Inputs), func(v *onnx.ValueInfo) bool { return unneeded(v.Name) })
	for _, name := range from {
		v := &onnx.ValueInfo{Name: name, Type: facts[name]}
		s.in, m.Graph.Inputs = append(s.in, v), append(m.Graph.Inputs, v)
	}
	if to == nil {
		s.model = m
		return s, nil
	}
	m.Graph.Outputs = nil
	for _, name := range to {
		v := &onnx.ValueInfo{Name: name, Type: facts[name]}
		if slices.Contains(from, name) { // an output is no input
			passed := "passed/" + name
			m.Graph.Nodes = append(m.Graph.Nodes, &onnx.Node{Name: passed, OpType: "Identity", Inputs: []string{name}, Outputs: []string{passed}})
			v = &onnx.ValueInfo{Name: passed, Type: facts[name]}
		}
		s.out, m.Graph.Outputs = append(s.out, v), append(m.Graph.Outputs, v)
	}
	s.model = m
	return s, nil
}

// shared finds the parameters that several stages use.
func (c *cutter) shared(ends []int) map[string]int {
	first, many := map[string]int{}, map[string]int{}
	at := 0
	for i, n := range c.model.Graph.Nodes {
		for at < len(ends)-1 && i >= ends[at] {
			at++
		}
		for _, name := range n.Inputs {
			if c.parameters[name] == nil {
				continue
			}
			if f, ok := first[name]; !ok {
				first[name] = at
			} else if f != at {
				many[name] = f
			}
		}
	}
	return many
}

// facts returns the types of values, with the dimensions that they have
// whatever the size of the inputs, and the names of those that inputs have.
func (c *cutter) facts() (map[string]*onnx.Type, error) {
	var runs [2]map[string]op.Fact
	var names [2]map[int]string
	for i, sizes := range [][2]int{{3, 5}, {5, 7}} { // of a batch, and of a sequence
		inputs := map[string]*tensor.Tensor{}
		runs[i], names[i] = map[string]op.Fact{}, map[int]string{}
		for _, v := range c.model.Graph.Inputs {
			if v.Type == nil || v.Type.Shape == nil {
				continue
			}
			if empty := emptyCache(v, sizes[0]); empty != nil && strings.HasPrefix(v.Name, "past_key_values.") { // see feed
				inputs[v.Name] = empty
				continue
			}
			shape := make([]int, len(v.Type.Shape.Dims))
			for axis, d := range v.Type.Shape.Dims {
				if shape[axis] = int(d.Value); d.Known {
					continue
				}
				shape[axis] = sizes[min(axis, 1)]
				if names[i][shape[axis]] == "" {
					names[i][shape[axis]] = cmp.Or(d.Param, fmt.Sprintf("axis %d", axis))
				}
			}
			inputs[v.Name] = &tensor.Tensor{Type: v.Type.ElemType, Shape: shape}
		}
		err := runtime.Infer(c.model, inputs, func(n *op.Node, _, out []op.Fact) {
			for j, name := range n.Outputs {
				if name != "" && j < len(out) {
					runs[i][name] = out[j]
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("cutting the model into pipeline stages: %w", err)
		}
	}
	types := map[string]*onnx.Type{}
	for name, a := range runs[0] {
		b := runs[1][name]
		t := &onnx.Type{Kind: onnx.KindTensor, ElemType: a.Type}
		if a.Shape != nil && len(a.Shape) == len(b.Shape) {
			t.Shape = &onnx.Shape{}
			for axis, d := range a.Shape {
				dim := onnx.Dim{}
				switch other := b.Shape[axis]; {
				case d == other && d.Known():
					dim = onnx.Dim{Known: true, Value: int64(d)}
				case names[0][int(d)] != "" && names[0][int(d)] == names[1][int(other)]:
					dim.Param = names[0][int(d)]
				}
				t.Shape.Dims = append(t.Shape.Dims, dim)
			}
		}
		types[name] = t
	}
	return types, nil
}

// sharedNames lists the parameters that several stages have.
func (s *stage) sharedNames() []string { return slices.Sorted(maps.Keys(s.shared)) }
