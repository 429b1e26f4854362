package onnx

import "google.golang.org/protobuf/encoding/protowire"

// The messages of onnx.proto (IR version 14), field by field. A field that is
// not listed is kept in Unknown.
var (
	modelSchema        = &schema[Model]{name: "ModelProto", wire: (*Model).wire}
	opsetImportSchema  = &schema[OpsetImport]{name: "OperatorSetIdProto", wire: (*OpsetImport).wire}
	propertySchema     = &schema[Property]{name: "StringStringEntryProto", wire: (*Property).wire}
	graphSchema        = &schema[Graph]{name: "GraphProto", wire: (*Graph).wire}
	nodeSchema         = &schema[Node]{name: "NodeProto", wire: (*Node).wire}
	functionSchema     = &schema[Function]{name: "FunctionProto", wire: (*Function).wire}
	attributeSchema    = &schema[Attribute]{name: "AttributeProto", wire: (*Attribute).wire, after: (*Attribute).inferType}
	valueInfoSchema    = &schema[ValueInfo]{name: "ValueInfoProto", wire: (*ValueInfo).wire}
	tensorSchema       = &schema[Tensor]{name: "TensorProto", wire: (*Tensor).wire}
	sparseTensorSchema = &schema[SparseTensor]{name: "SparseTensorProto", wire: (*SparseTensor).wire}
	shapeSchema        = &schema[Shape]{name: "TensorShapeProto", wire: (*Shape).wire}
	dimSchema          = &schema[Dim]{name: "TensorShapeProto.Dimension", wire: (*Dim).wire}
	typeSchema         = &schema[Type]{name: "TypeProto", wire: (*Type).wire}

	// The messages inside TypeProto, one for each kind, share its struct.
	tensorTypeSchema   = &schema[Type]{name: "TypeProto.Tensor", wire: (*Type).innerWire}
	sequenceTypeSchema = &schema[Type]{name: "TypeProto.Sequence", wire: (*Type).innerWire}
	mapTypeSchema      = &schema[Type]{name: "TypeProto.Map", wire: (*Type).innerWire}
	opaqueTypeSchema   = &schema[Type]{name: "TypeProto.Opaque", wire: (*Type).innerWire}
)

func (m *Model) wire() (*[]byte, *presence)        { return &m.Unknown, &m.present }
func (o *OpsetImport) wire() (*[]byte, *presence)  { return &o.Unknown, &o.present }
func (p *Property) wire() (*[]byte, *presence)     { return &p.Unknown, &p.present }
func (g *Graph) wire() (*[]byte, *presence)        { return &g.Unknown, &g.present }
func (n *Node) wire() (*[]byte, *presence)         { return &n.Unknown, &n.present }
func (f *Function) wire() (*[]byte, *presence)     { return &f.Unknown, &f.present }
func (a *Attribute) wire() (*[]byte, *presence)    { return &a.Unknown, &a.present }
func (v *ValueInfo) wire() (*[]byte, *presence)    { return &v.Unknown, &v.present }
func (t *Tensor) wire() (*[]byte, *presence)       { return &t.Unknown, &t.present }
func (t *SparseTensor) wire() (*[]byte, *presence) { return &t.Unknown, &t.present }
func (s *Shape) wire() (*[]byte, *presence)        { return &s.Unknown, &s.present }
func (d *Dim) wire() (*[]byte, *presence)          { return &d.Unknown, &d.present }
func (t *Type) wire() (*[]byte, *presence)         { return &t.Unknown, &t.present }
func (t *Type) innerWire() (*[]byte, *presence)    { return &t.inner.unknown, &t.inner.present }

// The tables refer to one another in circles (a graph has nodes, a node
// attributes, an attribute graphs), so they are filled in here.
func init() {
	modelSchema.fields = fields[Model]{
		1:  integer(func(m *Model) *int64 { return &m.IRVersion }),
		2:  text(func(m *Model) *string { return &m.ProducerName }),
		3:  text(func(m *Model) *string { return &m.ProducerVersion }),
		4:  text(func(m *Model) *string { return &m.Domain }),
		5:  integer(func(m *Model) *int64 { return &m.ModelVersion }),
		6:  text(func(m *Model) *string { return &m.DocString }),
		7:  child(graphSchema, func(m *Model) **Graph { return &m.Graph }),
		8:  values(opsetImportSchema, func(m *Model) *[]OpsetImport { return &m.OpsetImports }),
		14: values(propertySchema, func(m *Model) *[]Property { return &m.Metadata }),
		25: children(functionSchema, func(m *Model) *[]*Function { return &m.Functions }),
	}
	opsetImportSchema.fields = fields[OpsetImport]{
		1: text(func(o *OpsetImport) *string { return &o.Domain }),
		2: integer(func(o *OpsetImport) *int64 { return &o.Version }),
	}
	propertySchema.fields = fields[Property]{
		1: text(func(p *Property) *string { return &p.Key }),
		2: text(func(p *Property) *string { return &p.Value }),
	}
	graphSchema.fields = fields[Graph]{
		1:  children(nodeSchema, func(g *Graph) *[]*Node { return &g.Nodes }),
		2:  text(func(g *Graph) *string { return &g.Name }),
		5:  children(tensorSchema, func(g *Graph) *[]*Tensor { return &g.Initializers }),
		10: text(func(g *Graph) *string { return &g.DocString }),
		11: children(valueInfoSchema, func(g *Graph) *[]*ValueInfo { return &g.Inputs }),
		12: children(valueInfoSchema, func(g *Graph) *[]*ValueInfo { return &g.Outputs }),
		13: children(valueInfoSchema, func(g *Graph) *[]*ValueInfo { return &g.ValueInfo }),
		15: children(sparseTensorSchema, func(g *Graph) *[]*SparseTensor { return &g.SparseInitializers }),
		16: values(propertySchema, func(g *Graph) *[]Property { return &g.Metadata }),
	}
	nodeSchema.fields = fields[Node]{
		1: texts(func(n *Node) *[]string { return &n.Inputs }),
		2: texts(func(n *Node) *[]string { return &n.Outputs }),
		3: text(func(n *Node) *string { return &n.Name }),
		4: text(func(n *Node) *string { return &n.OpType }),
		5: children(attributeSchema, func(n *Node) *[]*Attribute { return &n.Attributes }),
		6: text(func(n *Node) *string { return &n.DocString }),
		7: text(func(n *Node) *string { return &n.Domain }),
		8: text(func(n *Node) *string { return &n.Overload }),
		9: values(propertySchema, func(n *Node) *[]Property { return &n.Metadata }),
	}
	functionSchema.fields = fields[Function]{
		1:  text(func(f *Function) *string { return &f.Name }),
		4:  texts(func(f *Function) *[]string { return &f.Inputs }),
		5:  texts(func(f *Function) *[]string { return &f.Outputs }),
		6:  texts(func(f *Function) *[]string { return &f.Attributes }),
		7:  children(nodeSchema, func(f *Function) *[]*Node { return &f.Nodes }),
		8:  text(func(f *Function) *string { return &f.DocString }),
		9:  values(opsetImportSchema, func(f *Function) *[]OpsetImport { return &f.OpsetImports }),
		10: text(func(f *Function) *string { return &f.Domain }),
		11: children(attributeSchema, func(f *Function) *[]*Attribute { return &f.AttributeDefaults }),
		12: children(valueInfoSchema, func(f *Function) *[]*ValueInfo { return &f.ValueInfo }),
		13: text(func(f *Function) *string { return &f.Overload }),
		14: values(propertySchema, func(f *Function) *[]Property { return &f.Metadata }),
	}
	attributeSchema.fields = fields[Attribute]{
		1:  text(func(a *Attribute) *string { return &a.Name }),
		2:  typed(AttributeFloat, float(func(a *Attribute) *float32 { return &a.Float })),
		3:  typed(AttributeInt, integer(func(a *Attribute) *int64 { return &a.Int })),
		4:  typed(AttributeString, blob(func(a *Attribute) *[]byte { return &a.String })),
		5:  child(tensorSchema, func(a *Attribute) **Tensor { return &a.Tensor }),
		6:  child(graphSchema, func(a *Attribute) **Graph { return &a.Graph }),
		7:  floats(func(a *Attribute) *[]float32 { return &a.Floats }),
		8:  integers(func(a *Attribute) *[]int64 { return &a.Ints }),
		9:  blobs(func(a *Attribute) *[][]byte { return &a.Strings }),
		10: children(tensorSchema, func(a *Attribute) *[]*Tensor { return &a.Tensors }),
		11: children(graphSchema, func(a *Attribute) *[]*Graph { return &a.Graphs }),
		13: text(func(a *Attribute) *string { return &a.DocString }),
		14: child(typeSchema, func(a *Attribute) **Type { return &a.TypeProto }),
		15: children(typeSchema, func(a *Attribute) *[]*Type { return &a.TypeProtos }),
		20: declaredType(integer(func(a *Attribute) *AttributeType { return &a.Type })),
		21: text(func(a *Attribute) *string { return &a.RefName }),
		22: child(sparseTensorSchema, func(a *Attribute) **SparseTensor { return &a.SparseTensor }),
		23: children(sparseTensorSchema, func(a *Attribute) *[]*SparseTensor { return &a.SparseTensors }),
	}
	valueInfoSchema.fields = fields[ValueInfo]{
		1: text(func(v *ValueInfo) *string { return &v.Name }),
		2: child(typeSchema, func(v *ValueInfo) **Type { return &v.Type }),
		3: text(func(v *ValueInfo) *string { return &v.DocString }),
		4: values(propertySchema, func(v *ValueInfo) *[]Property { return &v.Metadata }),
	}
	tensorSchema.fields = fields[Tensor]{
		1:  integers(func(t *Tensor) *[]int64 { return &t.Dims }),
		2:  integer(func(t *Tensor) *DataType { return &t.DataType }),
		4:  elements(floatData),
		5:  elements(int32Data),
		6:  blobs(func(t *Tensor) *[][]byte { return &t.Strings }),
		7:  elements(int64Data),
		8:  text(func(t *Tensor) *string { return &t.Name }),
		9:  elements(rawData),
		10: elements(doubleData),
		11: elements(uint64Data),
		12: text(func(t *Tensor) *string { return &t.DocString }),
		13: ofStorage(values(propertySchema, func(s *tensorStorage) *[]Property { return &s.external })),
		14: ofStorage(integer(func(s *tensorStorage) *int32 { return &s.location })),
		16: values(propertySchema, func(t *Tensor) *[]Property { return &t.Metadata }),
	}
	sparseTensorSchema.fields = fields[SparseTensor]{
		1: child(tensorSchema, func(t *SparseTensor) **Tensor { return &t.Values }),
		2: child(tensorSchema, func(t *SparseTensor) **Tensor { return &t.Indices }),
		3: integers(func(t *SparseTensor) *[]int64 { return &t.Dims }),
	}
	shapeSchema.fields = fields[Shape]{
		1: values(dimSchema, func(s *Shape) *[]Dim { return &s.Dims }),
	}
	dimSchema.fields = fields[Dim]{
		1: dimValue,
		2: dimParam,
		3: text(func(d *Dim) *string { return &d.Denotation }),
	}
	typeSchema.fields = fields[Type]{
		1: kind(KindTensor, tensorTypeSchema),
		4: kind(KindSequence, sequenceTypeSchema),
		5: kind(KindMap, mapTypeSchema),
		6: text(func(t *Type) *string { return &t.Denotation }),
		7: kind(KindOpaque, opaqueTypeSchema),
		8: kind(KindSparseTensor, tensorTypeSchema),
		9: kind(KindOptional, sequenceTypeSchema),
	}
	tensorTypeSchema.fields = fields[Type]{
		1: integer(func(t *Type) *DataType { return &t.ElemType }),
		2: child(shapeSchema, func(t *Type) **Shape { return &t.Shape }),
	}
	sequenceTypeSchema.fields = fields[Type]{
		1: child(typeSchema, func(t *Type) **Type { return &t.Elem }),
	}
	mapTypeSchema.fields = fields[Type]{
		1: integer(func(t *Type) *DataType { return &t.ElemType }),
		2: child(typeSchema, func(t *Type) **Type { return &t.Elem }),
	}
	opaqueTypeSchema.fields = fields[Type]{
		1: text(func(t *Type) *string { return &t.Opaque[0] }),
		2: text(func(t *Type) *string { return &t.Opaque[1] }),
	}
}

// dimValue and dimParam are a oneof: the one that comes last in a file wins.
var (
	dimValue = field[Dim]{
		decode: func(_ *decoder, m *Dim, v value) error {
			n, err := v.number()
			m.Value, m.Known, m.Param = int64(n), true, ""
			return err
		},
		encode: func(e *encoder, m *Dim, number protowire.Number, _ bool) {
			if m.Known {
				e.varint(number, uint64(m.Value))
			}
		},
	}
	dimParam = field[Dim]{
		decode: func(_ *decoder, m *Dim, v value) error {
			b, err := v.bytes()
			m.Value, m.Known, m.Param = 0, false, string(b)
			return err
		},
		encode: func(e *encoder, m *Dim, number protowire.Number, explicit bool) {
			if !m.Known && (m.Param != "" || explicit) {
				e.text(number, m.Param)
			}
		},
	}
)

// inner is what a file had in the message of a Type's kind.
type inner struct {
	unknown []byte
	present presence
}

// kind is one member of the oneof in TypeProto, a message whose fields live
// in the same Type.
func kind(k TypeKind, s *schema[Type]) field[Type] {
	return field[Type]{
		decode: func(d *decoder, m *Type, v value) error {
			if m.Kind != k {
				*m = Type{Kind: k, Denotation: m.Denotation, Unknown: m.Unknown, present: m.present}
			}
			return s.decode(d, m, v)
		},
		encode: func(e *encoder, m *Type, number protowire.Number, _ bool) {
			if m.Kind == k {
				s.encode(e, number, m)
			}
		},
	}
}

// typed is an attribute's value of type t: an attribute that was made here
// and not read gives it even where it is the default.
func typed(t AttributeType, f field[Attribute]) field[Attribute] {
	encode := f.encode
	f.encode = func(e *encoder, m *Attribute, number protowire.Number, explicit bool) {
		encode(e, m, number, explicit || m.present == 0 && m.Type == t && m.RefName == "")
	}
	return f
}

// declaredType is an attribute's type, which stays out of the file where it
// was left out (IR version 1) and inferred.
func declaredType(f field[Attribute]) field[Attribute] {
	encode := f.encode
	f.encode = func(e *encoder, m *Attribute, number protowire.Number, explicit bool) {
		if explicit || m.Type != m.inferred {
			encode(e, m, number, explicit)
		}
	}
	return f
}

// inferType gives an attribute that was stored without a type the type of
// the value that it has.
func (a *Attribute) inferType() {
	if a.present.has(20) || a.RefName != "" {
		return
	}
	for number, t := range [...]AttributeType{
		2: AttributeFloat, 3: AttributeInt, 4: AttributeString, 5: AttributeTensor, 6: AttributeGraph,
		7: AttributeFloats, 8: AttributeInts, 9: AttributeStrings, 10: AttributeTensors, 11: AttributeGraphs,
		14: AttributeTypeProto, 15: AttributeTypeProtos, 22: AttributeSparseTensor, 23: AttributeSparseTensors,
	} {
		if t != AttributeUndefined && a.present.has(protowire.Number(number)) {
			a.Type, a.inferred = t, t
			return
		}
	}
}
