package safetensors

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

var update = flag.Bool("update", false, "write testdata/written.safetensors again")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sample has a tensor of every type of the format, of different shapes.
func sample() []Named {
	var all []Named
	for _, t := range []onnx.DataType{onnx.Bool, onnx.Uint8, onnx.BFloat16, onnx.Float32, onnx.Int64, onnx.Float16, onnx.Int8, onnx.Float64,
		onnx.Uint16, onnx.Int16, onnx.Uint32, onnx.Int32, onnx.Uint64, onnx.Complex64, onnx.Float8E4M3FN, onnx.Float8E4M3FNUZ, onnx.Float8E5M2, onnx.Float8E5M2FNUZ} {
		x := tensor.New(t, 1+int(t)%3, 5)
		for i := range x.Data {
			x.Data[i] = byte(i) % 2
			if t != onnx.Bool {
				x.Data[i] = byte(37*i + int(t))
			}
		}
		all = append(all, Named{Name: "of/" + t.String(), Tensor: x})
	}
	return append(all, Named{Name: `"quoted" <ü>` + "\n", Tensor: tensor.Scalar[float32](1.5)}, Named{Name: "empty", Tensor: tensor.New(onnx.Float32, 3, 0)}, Named{Name: "", Tensor: tensor.New(onnx.Int64)})
}

func writeFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func encode(t testing.TB, tensors []Named, metadata map[string]string) ([]byte, []Entry) {
	t.Helper()
	var b bytes.Buffer
	entries, err := Write(&b, tensors, metadata)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), entries
}

func TestRoundTrip(t *testing.T) {
	metadata := map[string]string{"format": "pt", "ü": "<&>"}
	for _, c := range []struct {
		name     string
		tensors  []Named
		metadata map[string]string
	}{{"every type", sample(), metadata}, {"nothing", nil, nil}, {"metadata alone", nil, metadata}} {
		t.Run(c.name, func(t *testing.T) {
			content, entries := encode(t, c.tensors, c.metadata)
			f, err := Open(writeFile(t, content))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if len(f.Entries()) != len(c.tensors) || !reflect.DeepEqual(f.Metadata(), c.metadata) {
				t.Errorf("%d tensors and metadata %v", len(f.Entries()), f.Metadata())
			}
			for _, e := range entries {
				if got := f.entries[f.byName[e.Name]]; !reflect.DeepEqual(got, e) {
					t.Errorf("read %+v, written %+v", got, e)
				}
				if width := int64(e.Type.Bits() / 8); e.Offset%min(width, 8) != 0 {
					t.Errorf("%s at byte %d is not aligned", e.Type, e.Offset)
				}
			}
			for _, want := range c.tensors {
				got, err := f.Tensor(want.Name)
				if err != nil || got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
					t.Errorf("%q: %v, %v", want.Name, got, err)
				}
			}
			if got, err := f.Tensor("nobody"); got != nil || err != nil {
				t.Errorf("%v, %v for a tensor that is not there", got, err)
			}
		})
	}
}

// reference is what Hugging Face's library reads from a file.
type reference struct {
	Metadata map[string]string
	Tensors  map[string]struct {
		Type, SHA256 string
		Shape        []int
	}
}

var torchNames = map[string]string{"float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz", "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz"}

// A file that Hugging Face's library wrote, and one that it read, hold for
// this package what they hold for that library.
func TestReference(t *testing.T) {
	var files map[string]reference
	if err := json.Unmarshal(must(os.ReadFile("testdata/reference.json")), &files); err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 {
		t.Fatalf("%d files", len(files))
	}
	for name, want := range files {
		f, err := Open(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if len(f.Entries()) != len(want.Tensors) || !reflect.DeepEqual(f.Metadata(), want.Metadata) {
			t.Errorf("%s: %d tensors, metadata %v", name, len(f.Entries()), f.Metadata())
		}
		for tensorName, w := range want.Tensors {
			got := must(f.Tensor(tensorName))
			if got == nil {
				t.Errorf("%s has no tensor %q", name, tensorName)
				continue
			}
			if mine := torchNames[w.Type]; mine != "" {
				w.Type = mine
			}
			sum := sha256.Sum256(got.Data)
			if got.Type.String() != w.Type || !slices.Equal(got.Shape, w.Shape) || hex.EncodeToString(sum[:]) != w.SHA256 {
				t.Errorf("%s: tensor %q is %s, not %s%v, or its elements differ", name, tensorName, got, w.Type, w.Shape)
			}
		}
	}
}

// The file that was read by Hugging Face's library is the one that this
// version writes.
func TestWrittenFile(t *testing.T) {
	content, _ := encode(t, sample(), map[string]string{"format": "pt"})
	const path = "testdata/written.safetensors"
	if *update {
		if err := os.WriteFile(path, content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(content, must(os.ReadFile(path))) {
		t.Error("the file is written otherwise than before: write it with -update, and run testdata/reference.py")
	}
}

func TestWriteRefuses(t *testing.T) {
	x := tensor.Scalar[float32](1)
	for _, c := range []struct {
		name    string
		tensors []Named
		want    string
	}{
		{"strings", []Named{{Name: "s", Tensor: tensor.FromStrings([]string{"a"})}}, `tensor "s": the format has no elements of type string`},
		{"four bits", []Named{{Name: "q", Tensor: tensor.New(onnx.Int4, 2)}}, `tensor "q": the format has no elements of type int4`},
		{"one name twice", []Named{{Name: "x", Tensor: x}, {Name: "x", Tensor: x}}, `two tensors "x"`},
		{"no value", []Named{{Name: "x", Tensor: nil}}, "no value"},
		{"the name of the metadata", []Named{{Name: "__metadata__", Tensor: x}}, "does not allow this name"},
		{"a name that is not UTF-8", []Named{{Name: "\xff", Tensor: x}}, "does not allow this name"},
		{"too few bytes", []Named{{Name: "x", Tensor: &tensor.Tensor{Type: onnx.Float32, Shape: []int{2}, Data: x.Data}}}, "float32[2] takes 8 bytes, it has 4"},
		{"a negative dimension", []Named{{Name: "x", Tensor: &tensor.Tensor{Type: onnx.Float32, Shape: []int{-1}, Data: x.Data}}}, "negative dimension"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			if _, err := Write(&b, c.tensors, nil); err == nil || !strings.Contains(err.Error(), c.want) || b.Len() > 0 {
				t.Errorf("error %v after %d bytes, not one with %q", err, b.Len(), c.want)
			}
		})
	}
}

// limited is a Writer that fails after some bytes.
type limited struct{ left int }

var errFull = errors.New("full")

func (w *limited) Write(b []byte) (int, error) {
	n := min(len(b), w.left)
	w.left -= n
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

func TestWriteFails(t *testing.T) {
	content, _ := encode(t, sample(), nil)
	for n := range content {
		if _, err := Write(&limited{n}, sample(), nil); !errors.Is(err, errFull) {
			t.Fatalf("after %d bytes: error %v", n, err)
		}
	}
}

// file joins a header of the given text and n elements' bytes.
func file(header string, n int) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), make([]byte, n)...)
}

var hostile = []struct {
	name    string
	content []byte
	want    string
}{
	{"an empty file", nil, "0 bytes"},
	{"a length alone", []byte{2, 0, 0, 0}, "4 bytes"},
	{"a huge header", []byte{255, 255, 255, 255, 255, 255, 255, 255, '{', '}'}, "18446744073709551615 bytes, 2 are left"},
	{"a header beyond the end", append([]byte{3, 0, 0, 0, 0, 0, 0, 0}, "{}"...), "cut short"},
	{"not UTF-8", file("{\"\xff\":1}", 0), "not UTF-8"},
	{"not JSON", file("hello", 0), "not a JSON object"},
	{"a list", file("[]", 0), "not a JSON object"},
	{"JSON that ends early", file(`{"x":`, 0), "damaged"},
	{"JSON without its end", file(`{`, 0), "damaged"},
	{"more behind the JSON", file(`{} {}`, 0), "goes on behind its JSON"},
	{"an entry that is a number", file(`{"x":1}`, 0), `"x": its entry in the header is damaged`},
	{"an entry that is null", file(`{"x":null}`, 0), "needs dtype, shape and two data_offsets"},
	{"one offset", file(`{"x":{"dtype":"F32","shape":[],"data_offsets":[0]}}`, 4), "two data_offsets"},
	{"no shape", file(`{"x":{"dtype":"F32","data_offsets":[0,4]}}`, 4), "needs dtype, shape"},
	{"an unknown type", file(`{"x":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}`, 4), `type "F7"`},
	{"metadata of numbers", file(`{"__metadata__":{"a":1}}`, 0), "metadata in its header are not strings"},
	{"metadata twice", file(`{"__metadata__":{},"__metadata__":{}}`, 0), "two tensors"},
	{"a name twice", file(`{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `two tensors "x"`},
	{"a negative dimension", file(`{"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1), "negative dimension"},
	{"a fraction of a dimension", file(`{"x":{"dtype":"U8","shape":[0.5],"data_offsets":[0,1]}}`, 1), "damaged"},
	{"dimensions that overflow", file(`{"x":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), "too large"},
	{"zeros that hide an overflow", file(`{"x":{"dtype":"U8","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,1]}}`, 1), "it has 1 bytes"},
	{"offsets that overflow", file(`{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,99999999999999999999]}}`, 1), "damaged"},
	{"offsets in the wrong order", file(`{"x":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}`, 1), "from byte 1 to byte 0"},
	{"negative offsets", file(`{"x":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}`, 1), "from byte -1"},
	{"too many bytes", file(`{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), "it has 4 bytes, its type float32 and shape [2] take 8"},
	{"an overlap", file(`{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), `"y" begins at byte 1`},
	{"the same bytes twice", file(`{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2), "begins at byte 0"},
	{"a gap", file(`{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3), `"y" begins at byte 2`},
	{"elements beyond the end", file(`{"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 2), "cut short"},
	{"bytes behind the last", file(`{"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 4), "1 bytes follow"},
	{"deep JSON", file(`{"x":`+strings.Repeat("[", 1<<20), 0), "damaged"},
}

func TestHostileFiles(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			path := writeFile(t, c.content)
			if _, err := Open(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, not one with %q and the file's name", err, c.want)
			}
		})
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: error %v", err)
	}
}

// A header longer than the format allows is not even looked at.
func TestHeaderLimit(t *testing.T) {
	path := writeFile(t, binary.LittleEndian.AppendUint64(nil, maxHeader+1))
	if err := os.Truncate(path, prefixBytes+maxHeader+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxHeader)) {
		t.Errorf("error %v", err)
	}
}

// FuzzParse looks for a panic, for tensors that are not within the file, and
// for a file that changes when it is written and read.
func FuzzParse(f *testing.F) {
	f.Add(must(os.ReadFile("testdata/reference.safetensors")))
	f.Add(must(os.ReadFile("testdata/written.safetensors")))
	for _, c := range hostile {
		if len(c.content) < 1000 {
			f.Add(c.content)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		entries, metadata, err := parse(content)
		if err != nil {
			return
		}
		var tensors []Named
		for _, e := range entries {
			data := content[e.Offset : e.Offset+e.Size]
			tensors = append(tensors, Named{Name: e.Name, Tensor: &tensor.Tensor{Type: e.Type, Shape: e.Shape, Data: data}})
		}
		var written bytes.Buffer
		if _, err := Write(&written, tensors, metadata); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, _, err := parse(written.Bytes())
		if err != nil || len(again) != len(entries) {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		for _, e := range again {
			i := slices.IndexFunc(tensors, func(n Named) bool { return n.Name == e.Name })
			if i < 0 || !slices.Equal(e.Shape, tensors[i].Shape) || !bytes.Equal(written.Bytes()[e.Offset:e.Offset+e.Size], tensors[i].Data) {
				t.Errorf("tensor %q changed", e.Name)
			}
		}
	})
}
