package onnx

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// smallModel is a model in which each field is needed: cut anywhere, it is
// broken.
func smallModel() *Model {
	return &Model{
		IRVersion:    8,
		ProducerName: "test",
		Graph: &Graph{
			Name: "main",
			Nodes: []*Node{
				{Name: "a", OpType: "Add", Inputs: []string{"x", "w"}, Outputs: []string{"y"}},
				{Name: "b", OpType: "Softmax", Domain: "my.domain", Inputs: []string{"y"}, Outputs: []string{"z"}, Attributes: []*Attribute{IntAttribute("axis", -1)}},
			},
			Initializers: []*Tensor{NewTensor("w", Float32, []int64{2}, []byte("12345678"))},
			Inputs:       []*ValueInfo{{Name: "x", Type: &Type{Kind: KindTensor, ElemType: Float32, Shape: &Shape{Dims: []Dim{{Param: "n"}, {Value: 2, Known: true}}}}}},
			Outputs:      []*ValueInfo{{Name: "z"}},
		},
		OpsetImports: []OpsetImport{{Version: 17}, {Domain: "my.domain", Version: 1}},
	}
}

func TestTruncatedAnywhere(t *testing.T) {
	data := must(Encode(smallModel()))
	if m, err := Decode(data); err != nil || Check(m) != nil {
		t.Fatal("the whole model has an error: ", err)
	}
	for n := range len(data) {
		m, err := Decode(data[:n])
		if err == nil {
			err = Check(m)
		}
		if err == nil {
			t.Errorf("no error from the first %d of %d bytes", n, len(data))
		}
	}
}

func TestReadFileNamesFileAndOffset(t *testing.T) {
	data := must(Encode(smallModel()))
	path := filepath.Join(t.TempDir(), "model.onnx")
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"truncated", data[:40], "byte 8, field 7 of a ModelProto: a length of 124 runs past the end, 30 bytes are left"},
		{"empty", nil, "no graph"},
		{"text", []byte("# A model\n"), "byte 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(path, c.content, 0o666); err != nil {
				t.Fatal(err)
			}
			_, err := ReadFile(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, not one with %q and the file's name", err, c.want)
			}
		})
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "missing.onnx"), t.TempDir()} {
		if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", path, err)
		}
	}
}

// nest wraps content into fields of the given numbers, again and again.
func nest(times int, content []byte, numbers ...protowire.Number) []byte {
	for range times {
		for _, n := range numbers {
			content = blobOf(n, string(content))
		}
	}
	return content
}

func TestDecodeRefuses(t *testing.T) {
	const graph, node, attribute, subgraph = 7, 1, 5, 6
	header := func(number protowire.Number, length uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), length)
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "no graph"},
		{"another protobuf message", varint(3000, 7), "no graph"},
		{"a huge string", header(2, 1<<62), "a length of 4611686018427387904 runs past the end"},
		{"a length of 2^64-1", header(graph, 1<<64-1), "runs past the end"},
		{"a huge packed list", blobOf(graph, string(blobOf(5, string(header(1, 1<<40))))), "runs past the end"},
		{"a varint that does not end", []byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "not a valid protobuf encoding"},
		{"field number 0", []byte{0x02, 0x00}, "not a valid protobuf encoding"},
		{"a group that does not end", []byte{0x0b}, "not a valid protobuf encoding"},
		{"a number for a message", varint(graph, 1), "another wire type"},
		{"a text for a number", blobOf(1, "text"), "another wire type"},
		{"graphs nested too deep", blobOf(graph, string(nest(40, nil, subgraph, attribute, node))), "nested more than 100 deep"},
		{"types nested too deep", blobOf(graph, string(blobOf(11, string(blobOf(2, string(nest(60, nil, 1, 4))))))), "nested more than 100 deep"},
		{"half a packed float", blobOf(graph, string(blobOf(node, string(blobOf(attribute, string(blobOf(7, "123"))))))), "a packed list ends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Decode(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, not one with %q", err, c.want)
			}
		})
	}
}

// What a file makes us allocate is proportional to its size, whatever lengths
// and dims it declares.
func TestAllocationIsBounded(t *testing.T) {
	repeat := func(field []byte) []byte {
		return blobOf(7, strings.Repeat(string(field), 100_000/len(field)))
	}
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"a huge length", protowire.AppendVarint([]byte{0x3a}, 1<<40)},
		{"empty nodes", repeat(blobOf(1, ""))},
		{"empty initializers", repeat(blobOf(5, ""))},
		{"empty properties", repeat(blobOf(16, ""))},
		{"an initializer with huge dims", blobOf(7, string(blobOf(5, string(join(varint(1, 1<<40), varint(2, 1), blobOf(8, "w"), blobOf(4, "1234"))))))},
		{"an initializer with many dims", blobOf(7, string(blobOf(5, string(join(varint(2, 1), blobOf(1, strings.Repeat("\x01", 100_000)))))))},
		{"nodes that lack everything", repeat(blobOf(1, string(join(blobOf(1, "x"), blobOf(5, "")))))},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := bytesAllocated(func() {
				if m, err := Decode(c.data); err == nil {
					_ = Check(m) // not every one is wrong
				}
			})
			if limit := uint64(1<<20 + 500*len(c.data)); got > limit {
				t.Errorf("%d bytes of data made it allocate %d, more than %d", len(c.data), got, limit)
			}
		})
	}
}

func TestDecodeCountsMessages(t *testing.T) {
	data := must(Encode(smallModel())) // 15 messages
	for messages, fails := range map[int]bool{14: true, 15: false} {
		d := &decoder{end: cap(data), messages: messages}
		err := modelSchema.decode(d, new(Model), value{kind: protowire.BytesType, payload: data})
		if (err != nil) != fails {
			t.Errorf("%d messages allowed: error %v", messages, err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	deep := &Graph{}
	for range 40 {
		deep = &Graph{Nodes: []*Node{{Attributes: []*Attribute{GraphAttribute("body", deep)}}}}
	}
	huge := NewTensor("w", Uint8, []int64{1 << 31}, nil)
	huge.SetSource(zeros{1 << 31, 1 << 31})
	for _, c := range []struct {
		name  string
		model *Model
		want  string
	}{
		{"graphs nested too deep", &Model{Graph: deep}, "nested more than 100 deep"},
		{"more than 2 GiB", &Model{Graph: &Graph{Initializers: []*Tensor{huge}}}, "external data"},
		{"a node that is nil", &Model{Graph: &Graph{Nodes: []*Node{nil}}}, "a NodeProto is nil"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Encode(c.model)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, not one with %q", err, c.want)
			}
		})
	}
}

// A malformed file's error can be told apart from a missing file's.
func TestReadFileWrapsErrors(t *testing.T) {
	if _, err := ReadFile("testdata/missing.onnx"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
