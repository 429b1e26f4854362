package onnx

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// weightsModel has initializers of 5,000, 1,024 and 1,023 bytes and two
// strings, and one of 2,000 bytes in a nested graph.
func weightsModel() *Model {
	uint8s := func(name string, n int, value byte) *Tensor {
		return NewTensor(name, Uint8, []int64{int64(n)}, bytes.Repeat([]byte{value}, n))
	}
	then := branch("inner_w", "a")
	then.Initializers = []*Tensor{uint8s("inner_w", 2000, 4)}
	m := branches(then, branch("x", "b"))
	m.Graph.Initializers = []*Tensor{
		uint8s("big", 5000, 1), uint8s("just", 1024, 2), uint8s("small", 1023, 3),
		{Name: "strings", DataType: String, Dims: []int64{2}, Strings: [][]byte{[]byte("a"), []byte("b")}},
	}
	return m
}

// contents returns each tensor's name and elements.
func contents(t *testing.T, m *Model) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, tensor := range m.tensors() {
		if tensor.DataType == String {
			all[tensor.Name] = string(slices.Concat(tensor.Strings...))
			continue
		}
		b, err := tensor.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		all[tensor.Name] = string(b)
	}
	return all
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func openTestFile(t *testing.T, path string) *Model {
	t.Helper()
	m, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestWriteFile(t *testing.T) {
	for _, c := range []struct {
		name     string
		options  WriteOptions
		external bool
	}{
		{"small weights", WriteOptions{}, false},
		{"weights above the limit", WriteOptions{Limit: 8000}, true},
		{"weights at the limit", WriteOptions{Limit: 8024}, false},
		{"always", WriteOptions{External: ExternalAlways}, true},
		{"never", WriteOptions{External: ExternalNever, Limit: 1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "model.onnx")
			original := weightsModel()
			before := must(Encode(original))
			if err := WriteFile(path, original, c.options); err != nil {
				t.Fatal(err)
			}
			want := []string{"model.onnx"}
			if c.external {
				want = append(want, "model.onnx.data")
			}
			if got := files(t, dir); !slices.Equal(got, want) {
				t.Fatalf("files %q, not %q", got, want)
			}
			m := openTestFile(t, path)
			got := contents(t, m)
			for name, b := range contents(t, original) {
				if got[name] != b {
					t.Errorf("%s has other elements", name)
				}
			}
			if !bytes.Equal(must(Encode(original)), before) {
				t.Error("writing the model changed it")
			}
			if err := Check(m); err != nil {
				t.Error(err)
			}
			checkLayout(t, m, c.external, dir)
		})
	}
}

// checkLayout checks that what is external is exactly the large tensors, one
// after another at pages of their own.
func checkLayout(t *testing.T, m *Model, external bool, dir string) {
	t.Helper()
	offsets := make(map[string]string)
	for _, tensor := range m.tensors() {
		s := tensor.heldStorage()
		if s.location != externalLocation {
			continue
		}
		if s.key("location") != "model.onnx.data" {
			t.Errorf("%s is in %q", tensor.Name, s.key("location"))
		}
		offsets[tensor.Name] = s.key("offset") + "+" + s.key("length")
	}
	if !external {
		if len(offsets) > 0 {
			t.Errorf("external tensors %v", offsets)
		}
		return
	}
	want := map[string]string{"big": "0+5000", "just": "8192+1024", "inner_w": "12288+2000"}
	if len(offsets) != len(want) {
		t.Errorf("external tensors %v, not %v", offsets, want)
	}
	for name, place := range want {
		if offsets[name] != place {
			t.Errorf("%s is at %s, not %s", name, offsets[name], place)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "model.onnx.data")); err != nil || info.Size() != 14288 {
		t.Errorf("the data file: %v, %v", info, err)
	}
}

// A model may be written over the file that it was read from, again and again,
// and stays usable.
func TestWriteFileInPlace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.onnx")
	original := weightsModel()
	if err := WriteFile(path, original, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	want := contents(t, original)
	for _, mode := range []ExternalMode{ExternalNever, ExternalAlways, ExternalAlways, ExternalNever} {
		m := openTestFile(t, path)
		if err := WriteFile(path, m, WriteOptions{External: mode}); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*Model{m, openTestFile(t, path)} {
			for name, b := range contents(t, m) {
				if want[name] != b {
					t.Errorf("mode %v: %s has other elements", mode, name)
				}
			}
		}
	}
	if got := files(t, dir); !slices.Equal(got, []string{"model.onnx", "model.onnx.data"}) {
		t.Errorf("files %q", got)
	}
}

func TestWriteFileKeepsPermissions(t *testing.T) {
	path := writeTestFile(t, "old", t.TempDir(), "model.onnx")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, smallModel(), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Weights that are made on demand are streamed, into the model or beside it.
func TestWriteFileFromSource(t *testing.T) {
	const size = 64 << 20
	m := smallModel()
	m.Graph.Initializers[0] = NewTensor("w", Uint8, []int64{size}, nil)
	m.Graph.Initializers[0].SetSource(zeros{size, size})
	for _, mode := range []ExternalMode{ExternalNever, ExternalAlways} {
		path := filepath.Join(t.TempDir(), "model.onnx")
		allocated := bytesAllocated(func() {
			if err := WriteFile(path, m, WriteOptions{External: mode}); err != nil {
				t.Fatal(err)
			}
		})
		if allocated > size/8 {
			t.Errorf("mode %v: %d bytes were allocated", mode, allocated)
		}
		got := openTestFile(t, path)
		if n, err := got.Graph.Initializer("w").WriteTo(io.Discard); n != size || err != nil {
			t.Errorf("mode %v: %d bytes, %v", mode, n, err)
		}
	}
}

// A failure leaves what was there, and nothing else.
func TestWriteFileFails(t *testing.T) {
	lying := func(m *Model) {
		m.Graph.Initializers[0].SetSource(zeros{4000, 5000})
	}
	for _, c := range []struct {
		name    string
		damage  func(m *Model)
		prepare func(t *testing.T, dir string)
		mode    ExternalMode
		want    string
	}{
		{name: "no graph", damage: func(m *Model) { m.Graph = nil }, want: "no graph"},
		{name: "a source that ends early", damage: lying, want: "4000 bytes"},
		{name: "an external source that ends early", damage: lying, mode: ExternalAlways, want: "4000 bytes"},
		{name: "a tensor without its bytes", damage: func(m *Model) { m.Graph.Initializers[0].Dims[0]++ }, mode: ExternalAlways, want: `tensor "big": it has 5000 bytes`},
		{name: "an external tensor that was not found", damage: func(m *Model) {
			m.Graph = must(Decode(externalModel("location", "weights"))).Graph
		}, want: `external file "weights"`},
		{name: "more than 2 GiB", damage: func(m *Model) {
			m.Graph.Initializers[0].Dims[0] = 1 << 31
			m.Graph.Initializers[0].SetSource(zeros{1 << 31, 1 << 31})
		}, mode: ExternalNever, want: "store its weights as external data"},
		{name: "a folder of that name", prepare: func(t *testing.T, dir string) { writeTestFile(t, "", dir, "model.onnx", "file") }, want: "not a regular file"},
		{name: "a folder of the data file's name", prepare: func(t *testing.T, dir string) { writeTestFile(t, "", dir, "model.onnx.data", "file") },
			mode: ExternalAlways, want: "not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "model.onnx")
			if c.prepare != nil {
				c.prepare(t, dir)
			} else {
				writeTestFile(t, "old model", path)
				writeTestFile(t, "old data", path+".data")
			}
			before := files(t, dir)
			m := weightsModel()
			if c.damage != nil {
				c.damage(m)
			}
			err := WriteFile(path, m, WriteOptions{External: c.mode})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, not one with %q and the file's name", err, c.want)
			}
			if after := files(t, dir); !slices.Equal(after, before) {
				t.Errorf("files %q, before %q", after, before)
			}
			if c.prepare == nil && (string(readTestFile(t, path)) != "old model" || string(readTestFile(t, path+".data")) != "old data") {
				t.Error("a file changed")
			}
		})
	}
	err := WriteFile(filepath.Join(t.TempDir(), "nowhere", "model.onnx"), smallModel(), WriteOptions{})
	if err == nil || !strings.Contains(err.Error(), filepath.Join("nowhere", "model.onnx")+": no such file") {
		t.Errorf("error %v", err)
	}
}

// An interrupt in the middle of the weights is a failure like others.
func TestWriteFileStopsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	m := weightsModel()
	m.Graph.Initializers[0].SetSource(interrupting{zeros{5000, 5000}, cancel})
	err := WriteFile(filepath.Join(dir, "model.onnx"), m, WriteOptions{External: ExternalAlways, Context: ctx})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, not one of the context", err)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("files left behind: %q", left)
	}
}

// interrupting is a source that gives its bytes after an interrupt.
type interrupting struct {
	Source
	interrupt func()
}

func (s interrupting) WriteTo(w io.Writer) (int64, error) {
	s.interrupt()
	return s.Source.WriteTo(w)
}

// Writing another model must not take away the data of the one that it came
// from.
func TestWriteFileSparesItsOwnData(t *testing.T) {
	dir := t.TempDir()
	model := writeTestFile(t, string(externalModel("location", "b.onnx.data")), dir, "a.onnx")
	writeTestFile(t, "01234567", dir, "b.onnx.data")
	m := openTestFile(t, model)
	large := NewTensor("large", Uint8, []int64{2000}, make([]byte, 2000))
	m.Graph.Initializers = append(m.Graph.Initializers, large)
	for _, path := range []string{"b.onnx", "b.onnx.data"} {
		err := WriteFile(filepath.Join(dir, path), m.Clone(), WriteOptions{External: ExternalAlways})
		if err == nil || !strings.Contains(err.Error(), "choose another name") {
			t.Errorf("%s: error %v", path, err)
		}
	}
	if err := WriteFile(filepath.Join(dir, "c.onnx"), m, WriteOptions{External: ExternalAlways}); err != nil {
		t.Error(err)
	}
}

// When the second of two files cannot take its place, the first one's old
// content comes back.
func TestPublishIsUndone(t *testing.T) {
	for _, c := range []struct {
		name string
		old  string
	}{{"replacing", "old data"}, {"new", ""}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			data := filepath.Join(dir, "model.onnx.data")
			if c.old != "" {
				writeTestFile(t, c.old, data)
			}
			writeTestFile(t, "", dir, "model.onnx", "file") // a folder cannot be replaced
			var staged []*stagedFile
			for _, path := range []string{data, filepath.Join(dir, "model.onnx")} {
				f, err := newStagedFile(path)
				if err != nil {
					t.Fatal(err)
				}
				staged = append(staged, f)
			}
			if err := publish(staged); err == nil {
				t.Error("no error")
			}
			for _, f := range staged {
				f.discard()
			}
			want := []string{"model.onnx"}
			if c.old != "" {
				want = append(want, "model.onnx.data")
				if got := string(readTestFile(t, data)); got != c.old {
					t.Errorf("the data file has %q", got)
				}
			}
			if got := files(t, dir); !slices.Equal(got, want) {
				t.Errorf("files %q, not %q", got, want)
			}
		})
	}
}
