package onnx

import "slices"

// Clone copies the model but for the elements of its tensors, which both
// share. The copy of a model that was read from a file needs those files too:
// closing either closes them for both.
func (m *Model) Clone() *Model {
	c := *m
	c.OpsetImports = cloneValues(m.OpsetImports, OpsetImport.clone)
	c.Graph = clonePointer(m.Graph, (*Graph).Clone)
	c.Metadata = cloneValues(m.Metadata, Property.clone)
	c.Functions = cloneValues(m.Functions, (*Function).Clone)
	c.Unknown = slices.Clone(m.Unknown)
	c.files = slices.Clone(m.files)
	return &c
}

// Clone copies the graph and the graphs nested in it, sharing the elements of
// tensors.
func (g *Graph) Clone() *Graph {
	c := *g
	c.Nodes = cloneValues(g.Nodes, (*Node).Clone)
	c.Initializers = cloneValues(g.Initializers, (*Tensor).Clone)
	c.SparseInitializers = cloneValues(g.SparseInitializers, (*SparseTensor).Clone)
	c.Inputs = cloneValues(g.Inputs, (*ValueInfo).Clone)
	c.Outputs = cloneValues(g.Outputs, (*ValueInfo).Clone)
	c.ValueInfo = cloneValues(g.ValueInfo, (*ValueInfo).Clone)
	c.Metadata = cloneValues(g.Metadata, Property.clone)
	c.Unknown = slices.Clone(g.Unknown)
	return &c
}

// Clone copies the node and the graphs in its attributes, sharing the elements
// of tensors.
func (n *Node) Clone() *Node {
	c := *n
	c.Inputs = slices.Clone(n.Inputs)
	c.Outputs = slices.Clone(n.Outputs)
	c.Attributes = cloneValues(n.Attributes, (*Attribute).Clone)
	c.Metadata = cloneValues(n.Metadata, Property.clone)
	c.Unknown = slices.Clone(n.Unknown)
	return &c
}

// Clone copies the function, sharing the elements of tensors.
func (f *Function) Clone() *Function {
	c := *f
	c.Inputs = slices.Clone(f.Inputs)
	c.Outputs = slices.Clone(f.Outputs)
	c.Attributes = slices.Clone(f.Attributes)
	c.AttributeDefaults = cloneValues(f.AttributeDefaults, (*Attribute).Clone)
	c.Nodes = cloneValues(f.Nodes, (*Node).Clone)
	c.OpsetImports = cloneValues(f.OpsetImports, OpsetImport.clone)
	c.ValueInfo = cloneValues(f.ValueInfo, (*ValueInfo).Clone)
	c.Metadata = cloneValues(f.Metadata, Property.clone)
	c.Unknown = slices.Clone(f.Unknown)
	return &c
}

// Clone copies the attribute, sharing the elements of tensors.
func (a *Attribute) Clone() *Attribute {
	c := *a
	c.String = slices.Clone(a.String)
	c.Tensor = clonePointer(a.Tensor, (*Tensor).Clone)
	c.Graph = clonePointer(a.Graph, (*Graph).Clone)
	c.SparseTensor = clonePointer(a.SparseTensor, (*SparseTensor).Clone)
	c.TypeProto = clonePointer(a.TypeProto, (*Type).Clone)
	c.Floats = slices.Clone(a.Floats)
	c.Ints = slices.Clone(a.Ints)
	c.Strings = cloneValues(a.Strings, slices.Clone[[]byte])
	c.Tensors = cloneValues(a.Tensors, (*Tensor).Clone)
	c.Graphs = cloneValues(a.Graphs, (*Graph).Clone)
	c.SparseTensors = cloneValues(a.SparseTensors, (*SparseTensor).Clone)
	c.TypeProtos = cloneValues(a.TypeProtos, (*Type).Clone)
	c.Unknown = slices.Clone(a.Unknown)
	return &c
}

// Clone copies the tensor but for its elements, which both share until
// SetBytes or SetSource gives one of them others.
func (t *Tensor) Clone() *Tensor {
	c := *t
	c.Dims = slices.Clone(t.Dims)
	c.Metadata = cloneValues(t.Metadata, Property.clone)
	c.Unknown = slices.Clone(t.Unknown)
	c.Strings = cloneValues(t.Strings, slices.Clone[[]byte])
	return &c
}

// Clone copies the tensor, sharing the elements of its parts.
func (t *SparseTensor) Clone() *SparseTensor {
	c := *t
	c.Values = clonePointer(t.Values, (*Tensor).Clone)
	c.Indices = clonePointer(t.Indices, (*Tensor).Clone)
	c.Dims = slices.Clone(t.Dims)
	c.Unknown = slices.Clone(t.Unknown)
	return &c
}

// Clone copies the value's name and type.
func (v *ValueInfo) Clone() *ValueInfo {
	c := *v
	c.Type = clonePointer(v.Type, (*Type).Clone)
	c.Metadata = cloneValues(v.Metadata, Property.clone)
	c.Unknown = slices.Clone(v.Unknown)
	return &c
}

// Clone copies the type and those it is made of.
func (t *Type) Clone() *Type {
	c := *t
	c.Shape = clonePointer(t.Shape, (*Shape).Clone)
	c.Elem = clonePointer(t.Elem, (*Type).Clone)
	c.Unknown = slices.Clone(t.Unknown)
	c.inner.unknown = slices.Clone(t.inner.unknown)
	return &c
}

// Clone copies the shape.
func (s *Shape) Clone() *Shape {
	c := *s
	c.Dims = cloneValues(s.Dims, Dim.clone)
	c.Unknown = slices.Clone(s.Unknown)
	return &c
}

func (d Dim) clone() Dim {
	d.Unknown = slices.Clone(d.Unknown)
	return d
}

func (p Property) clone() Property {
	p.Unknown = slices.Clone(p.Unknown)
	return p
}

func (o OpsetImport) clone() OpsetImport {
	o.Unknown = slices.Clone(o.Unknown)
	return o
}

func clonePointer[T any](p *T, clone func(*T) *T) *T {
	if p == nil {
		return nil
	}
	return clone(p)
}

// cloneValues clones every element; a nil slice stays nil.
func cloneValues[T any](s []T, clone func(T) T) []T {
	c := slices.Clone(s)
	for i, v := range c {
		c[i] = clone(v)
	}
	return c
}
