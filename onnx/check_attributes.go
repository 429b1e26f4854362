package onnx

import (
	"errors"
	"fmt"
	"slices"
)

// attributes checks a node's attributes and the graphs in them. Where names
// the node.
func (c *checker) attributes(list []*Attribute, s *scope, where func() string) {
	seen := make(map[string]bool, len(list))
	for i, a := range list {
		switch {
		case a.Name == "":
			c.problem("%s: attribute %d has no name", where(), i)
		case seen[a.Name]:
			c.problem("%s: there are two attributes %q", where(), a.Name)
		}
		seen[a.Name] = true
		if err := a.check(s.function); err != nil {
			c.problem("%s: attribute %q %w", where(), a.Name, err)
		}
	}
	for _, a := range list {
		for _, g := range subgraphs([]*Attribute{a}) {
			c.graph(g, &scope{
				outer:    s,
				path:     fmt.Sprintf("%s: %s: graph %q", where(), a.Name, g.Name),
				imports:  s.imports,
				function: s.function,
			})
		}
	}
}

// check checks an attribute but for the graphs in it. The function is the one
// in whose body it is, or nil.
func (a *Attribute) check(f *Function) error {
	if a.RefName != "" {
		if f == nil {
			return fmt.Errorf("refers to the attribute %q, which only a node in a function can do", a.RefName)
		}
		if !f.hasAttribute(a.RefName) {
			return fmt.Errorf("refers to the attribute %q, which the function does not have", a.RefName)
		}
		return nil
	}
	held := []struct {
		t      AttributeType
		absent bool
	}{
		{AttributeTensor, a.Tensor == nil}, {AttributeTensors, a.Tensors == nil},
		{AttributeGraph, a.Graph == nil}, {AttributeGraphs, a.Graphs == nil},
		{AttributeSparseTensor, a.SparseTensor == nil}, {AttributeSparseTensors, a.SparseTensors == nil},
		{AttributeTypeProto, a.TypeProto == nil}, {AttributeTypeProtos, a.TypeProtos == nil},
	}
	for _, h := range held {
		if !h.absent && a.Type != h.t {
			return fmt.Errorf("has the type %s, but a value of type %s", a.Type, h.t)
		}
	}
	switch a.Type {
	case AttributeTensor, AttributeGraph, AttributeSparseTensor, AttributeTypeProto:
		for _, h := range held {
			if h.absent && a.Type == h.t {
				return fmt.Errorf("has the type %s, but no value", a.Type)
			}
		}
	case AttributeUndefined:
		return errors.New("has no type and no value")
	}
	if a.Type < 0 || a.Type > AttributeTypeProtos {
		return fmt.Errorf("has a type that is not known, %s", a.Type)
	}
	var tensors collector
	tensors.tensor(a.Tensor)
	tensors.tensors = append(tensors.tensors, a.Tensors...)
	for _, t := range tensors.tensors {
		if err := t.check(); err != nil {
			return fmt.Errorf("has a bad %w", err)
		}
	}
	sparse := a.SparseTensors
	if a.SparseTensor != nil {
		sparse = append([]*SparseTensor{a.SparseTensor}, sparse...)
	}
	for _, t := range sparse {
		if err := t.check(); err != nil {
			return fmt.Errorf("has a bad sparse tensor: %w", err)
		}
	}
	return nil
}

func (f *Function) hasAttribute(name string) bool {
	return slices.Contains(f.Attributes, name) ||
		slices.ContainsFunc(f.AttributeDefaults, func(a *Attribute) bool { return a.Name == name })
}

// check checks that a tensor has the elements that its type and dims ask for.
func (t *Tensor) check() error {
	if !t.DataType.Valid() {
		return t.errorf("its element type, %s, is not known", t.DataType)
	}
	count, err := t.ElementCount()
	if err != nil {
		return err
	}
	s := t.heldStorage()
	if len(s.fields) > 1 || len(s.fields) == 1 && (len(t.Strings) > 0 || s.location == externalLocation) {
		return t.errorf("its elements are in more than one place, of which one is %s", elementFieldNames[s.fields[0].number])
	}
	if t.DataType == String {
		if int64(len(t.Strings)) != count {
			return t.errorf("it has %d strings, its dims take %d", len(t.Strings), count)
		}
		return nil
	}
	if len(t.Strings) > 0 {
		return t.errorf("it has strings, but is of type %s", t.DataType)
	}
	if s.source != nil || s.location == externalLocation && s.mapped == nil {
		_, err = t.ByteSize() // there are no bytes yet to compare it with
	} else {
		_, err = t.Bytes()
	}
	return err
}

// check checks the parts of a sparse tensor: [NNZ] values, and as many
// indices, as offsets [NNZ] or as coordinates [NNZ, rank].
func (t *SparseTensor) check() error {
	if t.Values == nil || t.Indices == nil {
		return errors.New("it lacks its values or its indices")
	}
	if err := t.Values.check(); err != nil {
		return fmt.Errorf("values: %w", err)
	}
	if err := t.Indices.check(); err != nil {
		return fmt.Errorf("indices: %w", err)
	}
	if _, err := ElementCount(t.Dims); err != nil {
		return err
	}
	values, indices := t.Values.Dims, t.Indices.Dims
	switch {
	case t.Indices.DataType != Int64:
		return fmt.Errorf("its indices are of type %s, not int64", t.Indices.DataType)
	case len(values) != 1:
		return fmt.Errorf("its values have the dims %v, not one", values)
	case slices.Equal(indices, values), slices.Equal(indices, []int64{values[0], int64(len(t.Dims))}):
		return nil
	}
	return fmt.Errorf("its indices have the dims %v, for %d values in %d dimensions", indices, values[0], len(t.Dims))
}
