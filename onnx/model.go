package onnx

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/memory"
)

// Model is an ONNX ModelProto: a graph, the operator sets it is written in,
// and the model-local functions it calls.
type Model struct {
	IRVersion       int64
	OpsetImports    []OpsetImport
	ProducerName    string
	ProducerVersion string
	Domain          string
	ModelVersion    int64
	DocString       string
	Graph           *Graph
	Metadata        []Property
	Functions       []*Function

	// Unknown holds the encoded fields that this package has no name for,
	// byte for byte; the encoder appends them.
	Unknown []byte

	present presence
	files   []*memory.File // what Close unmaps; the model's own file first
}

// OpsetImport says which version of an operator domain a model or function
// is written in. The domains "" and "ai.onnx" are the same.
type OpsetImport struct {
	Domain  string
	Version int64
	Unknown []byte

	present presence
}

// Property is one key and value of a metadata list (StringStringEntryProto).
type Property struct {
	Key, Value string
	Unknown    []byte

	present presence
}

// Graph is an ONNX GraphProto. Nodes are in topological order.
type Graph struct {
	Name               string
	DocString          string
	Nodes              []*Node
	Initializers       []*Tensor
	SparseInitializers []*SparseTensor
	Inputs             []*ValueInfo
	Outputs            []*ValueInfo
	ValueInfo          []*ValueInfo
	Metadata           []Property
	Unknown            []byte

	present presence
}

// Node is one operator application. An empty input or output name marks an
// optional one that is absent.
type Node struct {
	Name       string
	Domain     string
	OpType     string
	Overload   string
	Inputs     []string
	Outputs    []string
	Attributes []*Attribute
	DocString  string
	Metadata   []Property
	Unknown    []byte

	present presence
}

// Function is a model-local function (FunctionProto): the body of every node
// whose domain, name and overload it carries.
type Function struct {
	Name              string
	Domain            string
	Overload          string
	Inputs            []string
	Outputs           []string
	Attributes        []string     // names that a caller may give
	AttributeDefaults []*Attribute // attributes with a default value
	Nodes             []*Node
	OpsetImports      []OpsetImport
	DocString         string
	ValueInfo         []*ValueInfo
	Metadata          []Property
	Unknown           []byte

	present presence
}

// ValueInfo names a value and states what is known of its type.
type ValueInfo struct {
	Name      string
	Type      *Type // nil when unstated
	DocString string
	Metadata  []Property
	Unknown   []byte

	present presence
}

// AttributeType is AttributeProto.AttributeType.
type AttributeType int32

// The attribute types of AttributeProto.
const (
	AttributeUndefined     AttributeType = 0
	AttributeFloat         AttributeType = 1
	AttributeInt           AttributeType = 2
	AttributeString        AttributeType = 3
	AttributeTensor        AttributeType = 4
	AttributeGraph         AttributeType = 5
	AttributeFloats        AttributeType = 6
	AttributeInts          AttributeType = 7
	AttributeStrings       AttributeType = 8
	AttributeTensors       AttributeType = 9
	AttributeGraphs        AttributeType = 10
	AttributeSparseTensor  AttributeType = 11
	AttributeSparseTensors AttributeType = 12
	AttributeTypeProto     AttributeType = 13
	AttributeTypeProtos    AttributeType = 14
)

var attributeTypes = [...]string{
	"UNDEFINED", "FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS",
	"SPARSE_TENSOR", "SPARSE_TENSORS", "TYPE_PROTO", "TYPE_PROTOS",
}

// String returns the type's name in onnx.proto, such as "INTS".
func (t AttributeType) String() string {
	if t >= 0 && int(t) < len(attributeTypes) {
		return attributeTypes[t]
	}
	return fmt.Sprintf("AttributeType(%d)", int32(t))
}

// Attribute is a named constant of a node. Type says which of the value
// fields holds it. Inside a function body RefName may name an attribute of
// the calling node instead of a value.
type Attribute struct {
	Name          string
	Type          AttributeType
	RefName       string
	Float         float32
	Int           int64
	String        []byte
	Tensor        *Tensor
	Graph         *Graph
	SparseTensor  *SparseTensor
	TypeProto     *Type
	Floats        []float32
	Ints          []int64
	Strings       [][]byte
	Tensors       []*Tensor
	Graphs        []*Graph
	SparseTensors []*SparseTensor
	TypeProtos    []*Type
	DocString     string
	Unknown       []byte

	present  presence
	inferred AttributeType // what Type was guessed to be in a file that leaves it out
}

// TypeKind says which kind of value a Type describes.
type TypeKind int

// The kinds of TypeProto.
const (
	KindUnknown TypeKind = iota
	KindTensor
	KindSparseTensor
	KindSequence
	KindOptional
	KindMap
	KindOpaque
)

// Type is an ONNX TypeProto.
type Type struct {
	Kind       TypeKind
	ElemType   DataType  // of a tensor or sparse tensor; of a map's keys
	Shape      *Shape    // of a tensor or sparse tensor; nil when the rank is unknown
	Elem       *Type     // of a sequence or optional; of a map's values
	Opaque     [2]string // domain and name of an opaque type
	Denotation string
	Unknown    []byte

	present presence
	inner   inner // what the file had in the message of the kind
}

// Shape is a TensorShapeProto: a list of dimensions, empty for a scalar.
type Shape struct {
	Dims    []Dim
	Unknown []byte

	present presence
}

// Dim is one dimension: a number, a symbol, or unknown.
type Dim struct {
	Value      int64 // meaningful when Known
	Known      bool
	Param      string // a symbol such as "batch"; "" when unnamed
	Denotation string
	Unknown    []byte

	present presence
}

// OpsetVersion returns the version in which the model imports domain, and
// false where it does not. "" and "ai.onnx" are one domain.
func (m *Model) OpsetVersion(domain string) (int64, bool) {
	return opsetVersion(m.OpsetImports, domain)
}

// OpsetVersion returns the version in which the function imports domain.
func (f *Function) OpsetVersion(domain string) (int64, bool) {
	return opsetVersion(f.OpsetImports, domain)
}

func opsetVersion(imports []OpsetImport, domain string) (int64, bool) {
	domain = CanonicalDomain(domain)
	for _, o := range imports {
		if CanonicalDomain(o.Domain) == domain {
			return o.Version, true
		}
	}
	return 0, false
}

// CanonicalDomain maps "ai.onnx" to "", the other spelling of ONNX's own
// operator domain, and returns every other domain unchanged.
func CanonicalDomain(domain string) string {
	if domain == "ai.onnx" {
		return ""
	}
	return domain
}

// Function returns the model-local function that n calls, or nil.
func (m *Model) Function(n *Node) *Function {
	for _, f := range m.Functions {
		if f.Name == n.OpType && f.Overload == n.Overload &&
			CanonicalDomain(f.Domain) == CanonicalDomain(n.Domain) {
			return f
		}
	}
	return nil
}

// Initializer returns the graph's initializer of that name, or nil. For many
// look-ups build an [Index].
func (g *Graph) Initializer(name string) *Tensor {
	for _, t := range g.Initializers {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Attribute returns the node's attribute of that name, or nil.
func (n *Node) Attribute(name string) *Attribute {
	for _, a := range n.Attributes {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// Int returns an integer attribute, or fallback where the node has none.
func (n *Node) Int(name string, fallback int64) int64 {
	if a := n.Attribute(name); a != nil && a.Type == AttributeInt {
		return a.Int
	}
	return fallback
}

// Float returns a float attribute, or fallback where the node has none.
func (n *Node) Float(name string, fallback float32) float32 {
	if a := n.Attribute(name); a != nil && a.Type == AttributeFloat {
		return a.Float
	}
	return fallback
}

// String returns a string attribute, or fallback where the node has none.
func (n *Node) String(name, fallback string) string {
	if a := n.Attribute(name); a != nil && a.Type == AttributeString {
		return string(a.String)
	}
	return fallback
}

// Ints returns an integer-list attribute, or nil where the node has none.
func (n *Node) Ints(name string) []int64 {
	if a := n.Attribute(name); a != nil && a.Type == AttributeInts {
		return a.Ints
	}
	return nil
}

// Input returns the name of input i, "" when it is absent.
func (n *Node) Input(i int) string {
	if i < len(n.Inputs) {
		return n.Inputs[i]
	}
	return ""
}

// Output returns the name of output i, "" when it is absent.
func (n *Node) Output(i int) string {
	if i < len(n.Outputs) {
		return n.Outputs[i]
	}
	return ""
}

// Is reports whether n is the operator opType of ONNX's own domain.
func (n *Node) Is(opType string) bool {
	return n.OpType == opType && CanonicalDomain(n.Domain) == ""
}

// IntAttribute makes an integer attribute.
func IntAttribute(name string, v int64) *Attribute {
	return &Attribute{Name: name, Type: AttributeInt, Int: v}
}

// FloatAttribute makes a float attribute.
func FloatAttribute(name string, v float32) *Attribute {
	return &Attribute{Name: name, Type: AttributeFloat, Float: v}
}

// StringAttribute makes a string attribute.
func StringAttribute(name, v string) *Attribute {
	return &Attribute{Name: name, Type: AttributeString, String: []byte(v)}
}

// IntsAttribute makes an integer-list attribute.
func IntsAttribute(name string, v ...int64) *Attribute {
	return &Attribute{Name: name, Type: AttributeInts, Ints: v}
}

// TensorAttribute makes a tensor attribute.
func TensorAttribute(name string, t *Tensor) *Attribute {
	return &Attribute{Name: name, Type: AttributeTensor, Tensor: t}
}

// GraphAttribute makes a subgraph attribute.
func GraphAttribute(name string, g *Graph) *Attribute {
	return &Attribute{Name: name, Type: AttributeGraph, Graph: g}
}
