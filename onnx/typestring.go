package onnx

import (
	"fmt"
	"strings"
)

// String writes a type as "float32[batch,4]": symbols by name, "?" for
// unnamed ones, "[…]" for an unknown rank.
func (t *Type) String() string {
	if t == nil {
		return "a value of unstated type"
	}
	switch t.Kind {
	case KindTensor:
		return t.ElemType.String() + t.Shape.String()
	case KindSparseTensor:
		return "sparse " + t.ElemType.String() + t.Shape.String()
	case KindSequence:
		return "sequence of " + t.Elem.String()
	case KindOptional:
		return "optional " + t.Elem.String()
	case KindMap:
		return fmt.Sprintf("map from %s to %s", t.ElemType, t.Elem)
	case KindOpaque:
		return "opaque " + t.Opaque[0] + "::" + t.Opaque[1]
	}
	return "a value of unstated type"
}

// String writes a shape as "[batch,4]".
func (s *Shape) String() string {
	if s == nil {
		return "[…]"
	}
	dims := make([]string, len(s.Dims))
	for i, d := range s.Dims {
		switch {
		case d.Known:
			dims[i] = fmt.Sprint(d.Value)
		case d.Param != "":
			dims[i] = d.Param
		default:
			dims[i] = "?"
		}
	}
	return "[" + strings.Join(dims, ",") + "]"
}
