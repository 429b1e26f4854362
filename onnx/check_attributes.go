package onnx

import (
	"errors"
	"fmt"
	"slices"
)

// attributes checks a node's attributes and the graphs in them.
func (c *checker) attributes(list []*Attribute, s *scope, at place) {
	seen := make(map[string]bool, len(list))
	for i, a := range list {
		switch {
		case a.Name == "":
			c.problem(at, "attribute %d has no name", i)
		case seen[a.Name]:
			c.problem(at, "there are two attributes %s", quote(a.Name))
		}
		seen[a.Name] = true
		if err := a.check(s.attributes); err != nil {
			c.problem(at, "attribute %s %w", quote(a.Name), err)
		}
	}
	for _, a := range list {
		for _, g := range subgraphs([]*Attribute{a}) {
			c.graph(g, &scope{
				outer:      s,
				at:         func() string { return at() + ": " + clip(a.Name) + ": graph " + quote(g.Name) },
				imports:    s.imports,
				attributes: s.attributes,
			})
		}
	}
}

// check checks an attribute but for the graphs in it, against the attributes
// that the function around it has, nil where there is none.
func (a *Attribute) check(declared map[string]bool) error {
	if a.RefName != "" {
		if declared == nil {
			return fmt.Errorf("refers to the attribute %s, which only a node in a function can do", quote(a.RefName))
		}
		if !declared[a.RefName] {
			return fmt.Errorf("refers to the attribute %s, which the function does not have", quote(a.RefName))
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
	for _, t := range slices.Concat(optional(a.Tensor), a.Tensors) {
		if err := t.check(); err != nil {
			return fmt.Errorf("has a bad %w", err)
		}
	}
	for _, t := range slices.Concat(optional(a.SparseTensor), a.SparseTensors) {
		if err := t.check(); err != nil {
			return fmt.Errorf("has a bad sparse tensor: %w", err)
		}
	}
	return nil
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
