package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// Content gives the integers in an input, and false where they are not known.
// Inference and kernels both read parameters through it.
type Content func(input int) ([]int64, bool)

// maxListedRank bounds the ranks that inference takes from the length of a
// shape whose content is unknown, a number that a file may state at will.
const maxListedRank = 64

// sameType returns the element type that the given inputs share, Undefined
// where none is known. Absent inputs do not count.
func (c *Inference) sameType(inputs ...int) (onnx.DataType, error) {
	t := onnx.Undefined
	for _, i := range inputs {
		switch u := c.Type(i); {
		case u == onnx.Undefined || u == t:
		case t == onnx.Undefined:
			t = u
		default:
			return t, fmt.Errorf("input %d has elements of type %s, others have %s", i, u, t)
		}
	}
	return t, nil
}

// wantIndices fails where an input's elements are known to be neither int32
// nor int64.
func (c *Inference) wantIndices(inputs ...int) error {
	for _, i := range inputs {
		switch t := c.Type(i); t {
		case onnx.Undefined, onnx.Int32, onnx.Int64:
		default:
			return fmt.Errorf("input %d has elements of type %s, needs int64 or int32", i, t)
		}
	}
	return nil
}

// wantVector fails where an input is known to have a rank above 1.
func (c *Inference) wantVector(inputs ...int) error {
	for _, i := range inputs {
		if len(c.Shape(i)) > 1 {
			return fmt.Errorf("input %d has shape %s, needs a vector", i, FormatDims(c.Shape(i)))
		}
	}
	return nil
}

// wantParameters combines wantIndices and wantVector.
func (c *Inference) wantParameters(inputs ...int) error {
	if err := c.wantIndices(inputs...); err != nil {
		return err
	}
	return c.wantVector(inputs...)
}

// wantForm fails where a node gives as an attribute what its version takes as
// an input, or the reverse. The change came with the given version.
func (c *Inference) wantForm(version, input int, attributes ...string) error {
	if c.Node.Since < version {
		if c.Has(input) {
			return fmt.Errorf("has %d inputs; version %d of the operator takes attributes instead", len(c.Inputs), c.Node.Since)
		}
		return nil
	}
	return c.unwanted(attributes...)
}

// unwanted fails where the node has one of the attributes, which exist in
// other versions of the operator only.
func (c *Inference) unwanted(attributes ...string) error {
	for _, name := range attributes {
		if c.Node.Attribute(name) != nil {
			return fmt.Errorf("attribute %q does not exist in version %d of the operator", name, c.Node.Since)
		}
	}
	return nil
}

// wantMode fails where a string attribute is none of those allowed, the first
// of which is the default.
func (n *Node) wantMode(attribute string, allowed ...string) error {
	if mode := n.String(attribute, allowed[0]); !slices.Contains(allowed, mode) {
		return fmt.Errorf("attribute %s is %q; it can be one of %q", attribute, mode, allowed)
	}
	return nil
}

// integer returns the only element of an input, and false where it is not
// known.
func integer(content Content, input int) (value int64, known bool, err error) {
	list, known := content(input)
	if !known {
		return 0, false, nil
	}
	if len(list) != 1 {
		return 0, false, fmt.Errorf("input %d has %d elements, needs one", input, len(list))
	}
	return list[0], true, nil
}

// listed returns a shape of as many unknown dimensions as the vector in input
// i has elements, nil where that is not known.
func (c *Inference) listed(i int) []Dim {
	if shape := c.Shape(i); len(shape) == 1 && shape[0].Known() && shape[0] <= maxListedRank {
		return c.Unknown(int(shape[0]))
	}
	return nil
}

// replaced returns the shape with another dimension at an axis.
func replaced(shape []Dim, axis int, d Dim) []Dim {
	out := JoinDims(shape)
	out[axis] = d
	return out
}
