package onnx

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Writers put fields in the order of their numbers, as this package does, so
// equal field by field means equal byte by byte.
func TestReadingAndWritingChangesNothing(t *testing.T) {
	var files []string
	for _, pattern := range []string{"testdata/everything.onnx", "../models/*/*.onnx", "../../shared/models/*.onnx"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
			roundTripModel(t, readTestFile(t, file))
		})
	}
}

// The operator tests of ONNX: some 1,800 models and 6,000 tensors.
func TestReadingAndWritingOperatorTests(t *testing.T) {
	const archive = "../../shared/onnx-node-tests.tar.xz"
	if _, err := os.Stat(archive); err != nil {
		t.Skip("needs ONNX's operator tests: ", err)
	}
	unpack := exec.CommandContext(t.Context(), "xz", "--decompress", "--stdout", archive)
	stream, err := unpack.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := unpack.Start(); err != nil {
		t.Skip("needs the xz command: ", err)
	}
	models, tensors := 0, 0
	for r := tar.NewReader(stream); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		switch name := header.Name; {
		case path.Ext(name) == ".onnx":
			models++
			if m := roundTripModel(t, data); m != nil {
				if err := Check(m); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		case path.Ext(name) == ".pb" && !holdsSequence(name):
			tensors++
			tensor, err := DecodeTensor(data)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if again, err := EncodeTensor(tensor); err != nil || !bytes.Equal(again, data) {
				t.Errorf("%s: reading and writing it gave another file (%v)", name, err)
			}
		}
	}
	if err := unpack.Wait(); err != nil {
		t.Fatal(err)
	}
	if models < 1000 || tensors < 5000 {
		t.Errorf("the archive had %d models and %d tensors", models, tensors)
	}
}

// holdsSequence reports whether a file may be a SequenceProto or
// OptionalProto, which operators on those types are tested with.
func holdsSequence(name string) bool {
	for _, word := range []string{"sequence", "_seq", "optional", "_opt/"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func roundTripModel(t *testing.T, data []byte) *Model {
	t.Helper()
	m, err := Decode(data)
	if err != nil {
		t.Error(err)
		return nil
	}
	if again, err := Encode(m); err != nil || !bytes.Equal(again, data) {
		t.Errorf("reading and writing it gave another file (%v)", err)
	}
	clone := m.Clone()
	if !reflect.DeepEqual(clone, m) {
		t.Error("its clone differs")
	}
	return m
}

// testdata/everything.onnx sets each field; this looks at the ones whose Go
// form is not obvious.
func TestDecodeFields(t *testing.T) {
	m := decodeTestFile(t, "testdata/everything.onnx")
	node, function := m.Graph.Nodes[0], m.Functions[0]
	inputs := make(map[string]*Type)
	for _, v := range m.Graph.Inputs {
		inputs[strings.TrimPrefix(v.Name, "in_")] = v.Type
	}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"the opset", must(m.OpsetVersion("ai.onnx")), int64(21)},
		{"a property", m.Graph.Metadata[0].Value, "graph"},
		{"an absent input", node.Input(1), ""},
		{"a zero", node.Int("zero_int", 9), int64(0)},
		{"an empty list", node.Attribute("no_ints").Type, AttributeInts},
		{"an inferred type", node.Ints("untyped"), []int64{4, 5}},
		{"a subgraph", node.Attribute("graphs").Graphs[1].Nodes[0].OpType, "Identity"},
		{"a reference", function.Nodes[0].Attribute("alpha").RefName, "slope"},
		{"a default", string(function.AttributeDefaults[0].String), "soft"},
		{"the called function", m.Function(m.Graph.Nodes[1]), function},
		{"strings", m.Graph.Initializer("strings").Strings, [][]byte{[]byte("one"), {}}},
		{"no type", m.Graph.Outputs[0].Type, (*Type)(nil)},
		{"an empty type", inputs["unknown"].Kind, KindUnknown},
		{"no rank", inputs["unranked"].Shape, (*Shape)(nil)},
		{"rank 0", len(inputs["scalar"].Shape.Dims), 0},
		{"a symbol", inputs["tensor"].Shape.Dims[0].Param, "batch"},
		{"a number", inputs["tensor"].Shape.Dims[1].Value, int64(3)},
		{"an unknown dimension", inputs["tensor"].Shape.Dims[2].Known, false},
		{"a zero dimension", inputs["tensor"].Shape.Dims[4].Known, true},
		{"a map", inputs["map"].ElemType, String},
		{"a map's values", inputs["map"].Elem.ElemType, Float32},
		{"nested types", inputs["optional"].Elem.Elem.Kind, KindTensor},
		{"an opaque type", inputs["opaque"].Opaque, [2]string{"some.domain", "thing"}},
		{"a sparse initializer", m.Graph.SparseInitializers[0].Values.Name, "sparse"},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %v, not %v", c.what, c.got, c.want)
		}
	}
	if err := Check(m); err != nil {
		t.Error(err)
	}
}

// Fields that the package does not know come through byte for byte, after
// those that it knows.
func TestUnknownFieldsAreKept(t *testing.T) {
	known, newer := decodeTestFile(t, "testdata/everything.onnx"), decodeTestFile(t, "testdata/newer.onnx")
	data, err := Encode(newer)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, newer) {
		t.Error("writing and reading the model changed it")
	}
	original := readTestFile(t, "testdata/newer.onnx")
	for what, m := range map[string][2][]byte{
		"model": {known.Unknown, newer.Unknown},
		"graph": {known.Graph.Unknown, newer.Graph.Unknown},
		"node":  {known.Graph.Nodes[0].Unknown, newer.Graph.Nodes[0].Unknown},
	} {
		if len(m[0]) > 0 || len(m[1]) == 0 {
			t.Errorf("%s: unknown fields %q, and %q with newer ones", what, m[0], m[1])
		}
	}
	for _, field := range [][]byte{newer.Graph.Unknown, newer.Graph.Nodes[0].Unknown} {
		known, future := field[:len(field)-3], field[len(field)-3:]
		if !bytes.Contains(original, known) || !bytes.Contains(original, future) {
			t.Errorf("the file does not contain %q", field)
		}
	}
	if len(data) != len(original) {
		t.Errorf("the model takes %d bytes, its file %d", len(data), len(original))
	}
}

// Lists may be packed or not, whatever the schema says, and a message may come
// in pieces.
func TestDecodeOtherEncodings(t *testing.T) {
	const dims, dataType, floats, ints = 1, 2, 4, 7
	for _, c := range []struct {
		name string
		data []byte
		want *Tensor
	}{
		{"packed dims", join(packed(dims, 2, 1), varint(dataType, 1), blobOf(floats, "\x00\x00\x80\x3f\x00\x00\x00\x40")),
			NewTensor("", Float32, []int64{2, 1}, []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0x40})},
		{"single floats", join(varint(dims, 2), varint(dataType, 1), fixed32(floats, 0x3f800000), fixed32(floats, 0x40000000)),
			NewTensor("", Float32, []int64{2}, []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0x40})},
		{"packed and single integers", join(varint(dims, 3), varint(dataType, 7), packed(ints, 1), varint(ints, 2), packed(ints, 300)),
			NewTensor("", Int64, []int64{3}, []byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0})},
		{"values after their type", join(blobOf(9, "\x05"), varint(dataType, 2)), NewTensor("", Uint8, nil, []byte{5})},
		{"the last of two wins", join(varint(dataType, 1), varint(dataType, 2), blobOf(9, "\x04"), blobOf(9, "\x05")), NewTensor("", Uint8, nil, []byte{5})},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := DecodeTensor(c.data)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Dims, c.want.Dims) || !bytes.Equal(must(got.Bytes()), must(c.want.Bytes())) {
				t.Errorf("%v %v, not %v %v", got.Dims, must(got.Bytes()), c.want.Dims, must(c.want.Bytes()))
			}
		})
	}
	m, err := Decode(join(
		blobOf(7, string(blobOf(2, "first"))),
		blobOf(7, string(join(blobOf(2, "second"), blobOf(1, string(blobOf(4, "Relu"))))))))
	if err != nil {
		t.Fatal(err)
	}
	if m.Graph.Name != "second" || len(m.Graph.Nodes) != 1 {
		t.Errorf("a graph in two pieces became %q with %d nodes", m.Graph.Name, len(m.Graph.Nodes))
	}
}

// Only a type that is missing is inferred.
func TestDeclaredAttributeType(t *testing.T) {
	for _, declared := range []AttributeType{AttributeUndefined, AttributeFloat} {
		var a Attribute
		if err := decode(join(varint(8, 5), varint(20, uint64(declared))), attributeSchema, &a); err != nil {
			t.Fatal(err)
		}
		if a.Type != declared {
			t.Errorf("an attribute that says %s became %s", declared, a.Type)
		}
	}
}

// What is made here and not read gives even default values where a reader
// looks for them.
func TestEncodeDefaults(t *testing.T) {
	data, err := Encode(&Model{Graph: &Graph{
		Nodes:  []*Node{{OpType: "Op", Attributes: []*Attribute{IntAttribute("axis", 0), StringAttribute("mode", "")}}},
		Inputs: []*ValueInfo{{Name: "x", Type: &Type{Kind: KindTensor, ElemType: Float32, Shape: &Shape{Dims: []Dim{{Known: true}}}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for what, field := range map[string][]byte{
		"an integer 0":   join(blobOf(1, "axis"), varint(3, 0), varint(20, 2)),
		"an empty text":  join(blobOf(1, "mode"), blobOf(4, ""), varint(20, 3)),
		"a dimension 0":  blobOf(1, string(varint(1, 0))),
		"nothing absent": blobOf(1, string(join(blobOf(4, "Op"), blobOf(5, string(join(blobOf(1, "axis"), varint(3, 0), varint(20, 2)))), blobOf(5, string(join(blobOf(1, "mode"), blobOf(4, ""), varint(20, 3))))))),
	} {
		if !bytes.Contains(data, field) {
			t.Errorf("%s: % x is not in % x", what, field, data)
		}
	}
}
