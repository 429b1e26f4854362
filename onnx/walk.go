package onnx

import "slices"

// Walk calls visit for g and for every graph nested in it, outer graphs
// before inner ones. It stops at the first error, which it returns.
func (g *Graph) Walk(visit func(*Graph) error) error {
	if err := visit(g); err != nil {
		return err
	}
	for _, n := range g.Nodes {
		for _, sub := range n.Subgraphs() {
			if err := sub.Walk(visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// Subgraphs returns the graphs among the node's attributes: the branches of
// an If, the body of a Loop or Scan.
func (n *Node) Subgraphs() []*Graph { return subgraphs(n.Attributes) }

func subgraphs(attributes []*Attribute) []*Graph {
	var all []*Graph
	for _, a := range attributes {
		all = append(append(all, optional(a.Graph)...), a.Graphs...)
	}
	return all
}

// tensors returns every tensor of the model: initializers, attributes and the
// parts of sparse tensors, in nested graphs and functions too.
func (m *Model) tensors() []*Tensor {
	var c collector
	c.graph(m.Graph)
	for _, f := range m.Functions {
		c.attributes(f.AttributeDefaults)
		c.nodes(f.Nodes)
	}
	return c.tensors
}

// collector gathers tensors.
type collector struct{ tensors []*Tensor }

func (c *collector) graph(g *Graph) {
	if g == nil {
		return
	}
	c.tensors = append(c.tensors, g.Initializers...)
	for _, t := range g.SparseInitializers {
		c.sparse(t)
	}
	c.nodes(g.Nodes)
}

func (c *collector) nodes(nodes []*Node) {
	for _, n := range nodes {
		c.attributes(n.Attributes)
	}
}

func (c *collector) attributes(attributes []*Attribute) {
	for _, a := range attributes {
		c.tensors = append(append(c.tensors, optional(a.Tensor)...), a.Tensors...)
		for _, t := range slices.Concat(optional(a.SparseTensor), a.SparseTensors) {
			c.sparse(t)
		}
	}
	for _, g := range subgraphs(attributes) {
		c.graph(g)
	}
}

func (c *collector) sparse(t *SparseTensor) {
	c.tensors = append(append(c.tensors, optional(t.Values)...), optional(t.Indices)...)
}

// optional returns the list of p, empty when p is nil.
func optional[T any](p *T) []*T {
	if p == nil {
		return nil
	}
	return []*T{p}
}
