package fmoefy

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// prove computes a mixture for some tokens, as the graph has it and as an FMoE
// node, and fails where the results differ. The tokens are drawn such that
// every expert gets some, and in several sizes, so that bounds on hidden
// values show.
func (i *importer) prove(x *mixture) error {
	if i.options.Run == nil {
		return errors.New("there is nothing that could run it, to compare it with FMoE")
	}
	p, err := newProof(i.model, x)
	if err != nil {
		return err
	}
	inputs := map[string]*tensor.Tensor{x.input: p.tokens(x)}
	want, err := i.options.Run(p.original, inputs)
	if err != nil {
		return fmt.Errorf("it does not run: %w", err)
	}
	got, err := i.options.Run(p.rewritten, inputs)
	if err != nil {
		return fmt.Errorf("it does not run as FMoE: %w", err)
	}
	counts, err := got[p.counts].Ints()
	if err != nil {
		return err
	}
	if e := slices.Index(counts, 0); e >= 0 {
		return fmt.Errorf("none of %d tokens reached its expert %d, so that it cannot be compared", tensor.Count(p.shape)/p.shape[len(p.shape)-1], e)
	}
	return sameRows(got[x.output], want[x.output], x.elementType)
}

// sameRows compares results token by token, relative to a token's largest
// element.
func sameRows(got, want *tensor.Tensor, t onnx.DataType) error {
	if got == nil || want == nil || !slices.Equal(got.Shape, want.Shape) {
		return misplaced{errors.New("as FMoE it gives another shape")}
	}
	a, err := tensor.Float64s(got)
	if err != nil {
		return err
	}
	b, err := tensor.Float64s(want)
	if err != nil {
		return err
	}
	tolerance := map[onnx.DataType]float64{onnx.Float32: 1e-4, onnx.Float64: 1e-9, onnx.Float16: 1e-2, onnx.BFloat16: 5e-2}[t]
	width := want.Shape[len(want.Shape)-1]
	for row := 0; row < len(b); row += width {
		largest, difference := 0.0, 0.0
		for j := row; j < row+width; j++ {
			largest = max(largest, math.Abs(b[j]))
			difference = max(difference, math.Abs(a[j]-b[j]))
		}
		if !(difference <= tolerance*largest) {
			return fmt.Errorf("as FMoE it gives something else: for one token the results differ by %.2g where they are up to %.2g", difference, largest)
		}
	}
	return nil
}

// proof is a mixture cut out of its model, as it is and as an FMoE node.
type proof struct {
	original, rewritten *onnx.Model
	shape               []int  // of the tokens
	counts              string // the output with the tokens of each expert
}

// cutter copies what a mixture needs into a graph of its own.
type cutter struct {
	*mixture
	proof   *proof
	symbols map[string]int // what dimensions are taken for
	graph   *onnx.Graph
	done    map[string]bool
}

func newProof(m *onnx.Model, x *mixture) (*proof, error) {
	p := &proof{counts: x.output + ".counts"}
	c := &cutter{mixture: x, proof: p, symbols: map[string]int{}, graph: &onnx.Graph{Name: "mixture"}, done: map[string]bool{x.input: true}}
	shape := x.scope.shapeOf(x.input)
	if len(shape) == 0 {
		return nil, errors.New("the rank of its tokens is not known")
	}
	// Few in all dimensions but the one before the last.
	tokens := int(max(64, 4*x.Experts))
	for i, d := range shape {
		switch {
		case i == len(shape)-1:
			d = number(x.DModel)
		case i == len(shape)-2:
			c.bind(d, tokens)
		default:
			c.bind(d, 2)
		}
		p.shape = append(p.shape, c.value(d))
	}
	if n, err := tensor.CheckedCount(onnx.Float64, p.shape); err != nil || n > 1<<25 {
		return nil, fmt.Errorf("its tokens %v are too many to try it", p.shape)
	}
	if err := c.need(x.output, 0); err != nil {
		return nil, err
	}
	info := func(name string) *onnx.ValueInfo {
		t := &onnx.Type{Kind: onnx.KindTensor, ElemType: x.elementType, Shape: &onnx.Shape{}}
		for _, d := range p.shape {
			t.Shape.Dims = append(t.Shape.Dims, onnx.Dim{Known: true, Value: int64(d)})
		}
		return &onnx.ValueInfo{Name: name, Type: t}
	}
	c.graph.Inputs, c.graph.Outputs = []*onnx.ValueInfo{info(x.input)}, []*onnx.ValueInfo{info(x.output)}
	imports := slices.DeleteFunc(slices.Clone(m.OpsetImports), func(o onnx.OpsetImport) bool { return o.Domain == moe.Domain })
	p.original = &onnx.Model{IRVersion: m.IRVersion, OpsetImports: imports, Graph: c.graph}

	g := &onnx.Graph{Name: "FMoE", Inputs: c.graph.Inputs, Outputs: []*onnx.ValueInfo{info(x.output), {
		Name: p.counts, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Int64, Shape: &onnx.Shape{Dims: []onnx.Dim{{Known: true, Value: x.Experts}}}}}}}
	n := x.node(func(slot int) string {
		name := "FMoE." + moe.InputNames[slot]
		g.Initializers = append(g.Initializers, x.initializer(slot, name))
		return name
	})
	n.Outputs = []string{x.output, "", p.counts}
	g.Nodes = []*onnx.Node{n}
	p.rewritten = &onnx.Model{IRVersion: m.IRVersion, OpsetImports: append(slices.Clone(imports), onnx.OpsetImport{Domain: moe.Domain, Version: moe.Version}), Graph: g}
	return p, nil
}

// bind decides what number a dimension is, unless that is known.
func (c *cutter) bind(d dim, n int) {
	for _, s := range d.list() {
		if c.symbols[s] == 0 {
			c.symbols[s], n = n, 2
		}
	}
}

// value returns the number that a dimension is taken for, 0 for one that has
// nothing to do with the tokens.
func (c *cutter) value(d dim) int {
	n := int(d.factor)
	for _, s := range d.list() {
		n *= c.symbols[s]
	}
	return n
}

// need adds what computes a value. What does not depend on the tokens must be
// constant, or a shape that has their dimensions.
func (c *cutter) need(value string, depth int) error {
	if value == "" || c.done[value] {
		return nil
	}
	c.done[value] = true
	if depth > 1<<14 {
		return fmt.Errorf("it is computed by too many nodes")
	}
	s := c.scope
	d := s.lookup(value)
	if d.tensor != nil {
		c.graph.Initializers = append(c.graph.Initializers, d.tensor)
		return nil
	}
	if d.node == nil {
		return misplaced{fmt.Errorf("it depends on %q besides its tokens", value)}
	}
	if !slices.Contains(c.nodes, d.node) {
		if t, ok := c.dimensions(value); ok {
			c.graph.Initializers = append(c.graph.Initializers, t)
			return nil
		}
	}
	if len(d.node.Subgraphs()) > 0 || d.scope != s && d.node.OpType != "Constant" {
		return fmt.Errorf("%s takes part in it", nodeName(d.node))
	}
	for _, out := range d.node.Outputs {
		c.done[out] = true
	}
	for _, in := range d.node.Inputs {
		if err := c.need(in, depth+1); err != nil {
			return err
		}
	}
	c.graph.Nodes = append(c.graph.Nodes, d.node)
	return nil
}

// dimensions returns the integers that a value outside the mixture has when it
// is made of dimensions of the tokens.
func (c *cutter) dimensions(value string) (*onnx.Tensor, bool) {
	dims, ok := c.scope.dimsOf(value, maxDepth)
	if _, err := c.scope.constant(value); err == nil || !ok {
		return nil, false
	}
	list := make([]int64, len(dims))
	for i, d := range dims {
		if list[i] = int64(c.value(d)); list[i] == 0 && !d.is(0) {
			return nil, false
		}
	}
	if c.scope.isScalarDim(value) && len(list) == 1 {
		return tensor.Scalar(list[0]).ToONNX(value), true
	}
	return tensor.FromSlice(list).ToONNX(value), true
}

// isScalarDim reports whether a value that dimsOf understands is a scalar, not
// a vector of one element.
func (s *scope) isScalarDim(value string) bool {
	n := s.producer(value)
	for n != nil {
		switch n.OpType {
		case "Squeeze":
			return true
		case "Gather":
			indices, err := s.constant(n.Input(1))
			return err == nil && len(indices.dims) == 0
		case "Identity", "Cast", "Add", "Sub", "Mul", "Div":
			if _, err := s.constant(n.Input(0)); err == nil && len(n.Inputs) == 2 {
				n = s.producer(n.Input(1))
				continue
			}
			n = s.producer(n.Input(0))
		default:
			return false
		}
	}
	return false
}

// tokens returns random tokens. Each leans towards the router's weights of one
// expert after the other.
func (p *proof) tokens(x *mixture) *tensor.Tensor {
	values := make([]float64, tensor.Count(p.shape))
	newNormals(0, x.Name).fill(values, 0)
	router := x.weights[moe.InputGateWeight][0] // [d, T]
	data, err := router.bytes()
	d, experts := int(x.DModel), int(x.Experts)
	if err == nil {
		weights := widen(router.elementType(), data)
		for token := range len(values) / d {
			row, expert := values[token*d:][:d], token%experts
			norm := 0.0
			for j := range row {
				norm += weights[j*experts+expert] * weights[j*experts+expert]
			}
			size := []float64{1, 0.1, 10}[token/experts%3]
			for j := range row {
				if norm > 0 {
					row[j] += 2 * math.Sqrt(float64(d)/norm) * weights[j*experts+expert]
				}
				row[j] *= size
			}
		}
	}
	t := tensor.New(x.elementType, p.shape...)
	tensor.ConvertFloat(t, tensor.FromSlice(values, p.shape...))
	return t
}
