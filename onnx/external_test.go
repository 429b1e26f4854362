package onnx

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// externalModel is a model whose initializer "w", two float32, has these
// entries of external_data.
func externalModel(entries ...string) []byte {
	fields := join(varint(1, 2), varint(2, 1), blobOf(8, "w"), varint(14, 1))
	for i := 0; i < len(entries); i += 2 {
		fields = join(fields, blobOf(13, string(join(blobOf(1, entries[i]), blobOf(2, entries[i+1])))))
	}
	return blobOf(7, string(blobOf(5, string(fields))))
}

func writeTestFile(t *testing.T, data string, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

func link(t *testing.T, target string, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Skip("needs symbolic links: ", err)
	}
	return name
}

func TestExternalData(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []string
		want    string // the bytes of "w"
		fails   string // else part of the error
	}{
		{"offset and length", []string{"location", "weights", "offset", "4", "length", "8"}, "456789ab", ""},
		{"no offset", []string{"location", "weights", "length", "8"}, "01234567", ""},
		{"no length", []string{"location", "weights", "offset", "8"}, "89abcdef", ""},
		{"a folder below", []string{"location", "below/weights"}, "belowbel", ""},
		{"other keys", []string{"location", "weights", "checksum", "x", "length", "8", "future", "y"}, "01234567", ""},
		{"dots in a name", []string{"location", "a..b", "length", "8"}, "dotsdots", ""},
		{"a symbolic link below", []string{"location", "alias"}, "01234567", ""},
		{"a hard link", []string{"location", "hard"}, "01234567", ""},

		{"no location", nil, "", "the location is empty"},
		{"the parent", []string{"location", "../secret"}, "", `without ".."`},
		{"down and up", []string{"location", "below/../../secret"}, "", `without ".."`},
		{"up inside", []string{"location", "below/../weights"}, "", `without ".."`},
		{"an absolute path", []string{"location", "/etc/passwd"}, "", "must be a path below"},
		{"a zero byte", []string{"location", "weights\x00"}, "", "must be a path below"},
		{"a missing file", []string{"location", "nowhere"}, "", "no such file"},
		{"a folder", []string{"location", "below"}, "", "not a regular file"},
		{"a symbolic link out", []string{"location", "out"}, "", "a symbolic link to"},
		{"a symbolic link to a folder out", []string{"location", "outside/secret"}, "", "a symbolic link to"},
		{"a symbolic link to itself", []string{"location", "loop"}, "", "too many links"},
		{"a negative offset", []string{"location", "weights", "offset", "-1"}, "", `the offset "-1" is not a number`},
		{"a huge offset", []string{"location", "weights", "offset", "99999999999999999999"}, "", "is not a number"},
		{"an offset that overflows", []string{"location", "weights", "offset", "9223372036854775807"}, "", "beyond the end of the file, which has 16"},
		{"a negative length", []string{"location", "weights", "length", "-8"}, "", `the length "-8" is not a number`},
		{"a length of words", []string{"location", "weights", "length", "all"}, "", "is not a number"},
		{"another length", []string{"location", "weights", "length", "4"}, "", "its length is 4 bytes, the tensor's type and dims take 8"},
		{"beyond the end", []string{"location", "weights", "offset", "9", "length", "8"}, "", "bytes 9 to 17 are beyond the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			model := writeTestFile(t, string(externalModel(c.entries...)), dir, "model", "model.onnx")
			weights := writeTestFile(t, "0123456789abcdef", dir, "model", "weights")
			writeTestFile(t, "belowbelow", dir, "model", "below", "weights")
			writeTestFile(t, "dotsdots", dir, "model", "a..b")
			writeTestFile(t, "secretsecret", dir, "secret")
			link(t, "weights", dir, "model", "alias")
			link(t, "../secret", dir, "model", "out")
			link(t, dir, dir, "model", "outside")
			link(t, "loop", dir, "model", "loop")
			if err := os.Link(weights, filepath.Join(dir, "model", "hard")); err != nil {
				t.Skip("needs hard links: ", err)
			}
			m, err := ReadFile(model)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), `tensor "w"`) {
					t.Errorf("error %v, not one with %q and the tensor's name", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if b, err := m.Graph.Initializer("w").Bytes(); err != nil || string(b) != c.want {
				t.Errorf("%q, %v, not %q", b, err, c.want)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// In the cache of a model hub the model and its data are links to files of
// other names in one folder.
func TestExternalDataOfLinkedModel(t *testing.T) {
	dir := t.TempDir()
	writeTestFile(t, string(externalModel("location", "model.onnx.data")), dir, "blobs", "1111")
	writeTestFile(t, "01234567", dir, "blobs", "2222")
	writeTestFile(t, "secretse", dir, "elsewhere", "3333")
	model := link(t, "../../blobs/1111", dir, "snapshots", "main", "model.onnx")
	data := link(t, "../../blobs/2222", dir, "snapshots", "main", "model.onnx.data")
	m, err := ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	if b := must(m.Graph.Initializer("w").Bytes()); string(b) != "01234567" {
		t.Errorf("%q", b)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	link(t, "../../elsewhere/3333", data)
	if _, err := ReadFile(model); err == nil || !strings.Contains(err.Error(), "outside the model's directory") {
		t.Errorf("error %v", err)
	}
}

// External data may belong to any tensor, not only to initializers.
func TestExternalDataEverywhere(t *testing.T) {
	external := externalModel("location", "weights")
	var wrapped Model
	if err := decode(external, modelSchema, &wrapped); err != nil {
		t.Fatal(err)
	}
	w := wrapped.Graph.Initializers[0]
	constant := func() []*Node {
		return []*Node{{OpType: "Constant", Attributes: []*Attribute{TensorAttribute("value", w)}}}
	}
	m := &Model{
		Graph: &Graph{
			Nodes:              []*Node{{OpType: "Loop", Attributes: []*Attribute{GraphAttribute("body", &Graph{Nodes: constant()})}}},
			SparseInitializers: []*SparseTensor{{Values: w, Indices: w}},
		},
		Functions: []*Function{{Name: "f", Nodes: constant(), AttributeDefaults: []*Attribute{TensorAttribute("k", w)}}},
	}
	dir := t.TempDir()
	path := writeTestFile(t, string(must(Encode(m))), dir, "model.onnx")
	writeTestFile(t, "01234567", dir, "weights")
	m, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tensors := m.tensors()
	if len(tensors) != 5 {
		t.Errorf("%d tensors", len(tensors))
	}
	for _, tensor := range tensors {
		if b, err := tensor.Bytes(); err != nil || string(b) != "01234567" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// What is evicted is still there, in the model's file and in an external one.
func TestEvict(t *testing.T) {
	for _, external := range []ExternalMode{ExternalNever, ExternalAlways} {
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
		m := &Model{IRVersion: 8, OpsetImports: []OpsetImport{{Version: 17}},
			Graph: &Graph{Name: "g", Initializers: []*Tensor{NewTensor("w", Uint8, []int64{1 << 16}, data)}}}
		path := filepath.Join(t.TempDir(), "m.onnx")
		if err := WriteFile(path, m, WriteOptions{External: external}); err != nil {
			t.Fatal(err)
		}
		read, err := ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		got, err := read.Graph.Initializers[0].Bytes()
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range [][]byte{got, got[1:], got[5000:5001], got[:4096]} {
			if !read.Evict(part) || !bytes.Equal(got, data) {
				t.Errorf("external %v: %d bytes are not of the file, or changed", external, len(part))
			}
		}
		if read.Evict(nil) || read.Evict(data) || m.Evict(data) {
			t.Error("memory outside the files was evicted")
		}
	}
}
