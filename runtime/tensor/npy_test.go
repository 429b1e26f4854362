package tensor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// The files in testdata were written by NumPy 2.
func TestReadNPYOfNumPy(t *testing.T) {
	for _, c := range []struct {
		file string
		want *Tensor
	}{
		{"float32", FromSlice([]float32{0, 0.5, 1, 1.5, 2, 2.5}, 2, 3)},
		{"float32_version_2", FromSlice([]float32{0, 1})},
		{"int64_scalar", Scalar[int64](7)},
		{"bool_vector", FromSlice([]bool{true, false, true})},
		{"int16_big_endian", FromSlice([]int16{1, 256})},
		{"uint8_fortran_order", FromSlice([]uint8{0, 1, 2, 3, 4, 5}, 2, 3)},
		{"float16_empty", New(onnx.Float16, 0, 3)},
		{"complex64_big_endian", FromSlice([]complex64{1 + 2i})},
	} {
		t.Run(c.file, func(t *testing.T) {
			got, err := ReadNPY(bytes.NewReader(numPyFile(t, c.file)))
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, got, c.want)
			view, err := ViewNPY(numPyFile(t, c.file))
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, view, c.want)
		})
	}
}

func numPyFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".npy"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func requireEqual(t *testing.T, got, want *Tensor) {
	t.Helper()
	if got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
		t.Fatalf("got %s % x, want %s % x", got, got.Data, want, want.Data)
	}
}

// npy makes a file of version 1 with the given header and elements.
func npy(header string, elements ...byte) []byte {
	header += "\n"
	return slices.Concat([]byte("\x93NUMPY\x01\x00"), []byte{byte(len(header)), byte(len(header) >> 8)}, []byte(header), elements)
}

// TestReadNPY has what NumPy does not write by itself, and what it wrote long
// ago.
func TestReadNPY(t *testing.T) {
	header := func(descr, order, shape string) string {
		return fmt.Sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': %s, }", descr, order, shape)
	}
	for _, c := range []struct {
		name string
		file []byte
		want *Tensor
	}{
		{"booleans other than 0 and 1", npy(header("|b1", "False", "(3,)"), 0, 1, 2), FromSlice([]bool{false, true, true})},
		{"Fortran order, three axes", npy(header("|i1", "True", "(2, 2, 2)"), 0, 4, 2, 6, 1, 5, 3, 7), FromSlice([]int8{0, 1, 2, 3, 4, 5, 6, 7}, 2, 2, 2)},
		{"Fortran order, no elements", npy(header("<f8", "True", "(3, 0)")), FromSlice([]float64{}, 3, 0)},
		{"Python 2", npy(header("|u1", "False", "(2L,)"), 1, 2), FromSlice([]uint8{1, 2})},
		{"other order of keys", npy(`{"shape":(1,),"fortran_order":False,"descr":"|u1"}`, 9), FromSlice([]uint8{9})},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadNPY(bytes.NewReader(append(c.file, "what follows"...)))
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, got, c.want)
		})
	}
}

func TestReadNPYRefuses(t *testing.T) {
	good := "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
	change := func(old, new string) []byte { return npy(strings.Replace(good, old, new, 1), make([]byte, 8)...) }
	for _, c := range []struct {
		name, reason string
		file         []byte
	}{
		{"nothing", "not a .npy file", nil},
		{"text", "not a .npy file", []byte("hello, world")},
		{"version", "version 9", append([]byte("\x93NUMPY\x09\x00"), make([]byte, 100)...)},
		{"header length", "too long", append([]byte("\x93NUMPY\x02\x00\xff\xff\xff\xff"), make([]byte, 100)...)},
		{"cut header", "ends in its header", npy(good)[:20]},
		{"cut elements", "ends after 4 of 8 bytes", npy(good, 0, 0, 0, 0)},
		{"no shape", "does not consist", change(", 'shape': (2,)", "")},
		{"key", "unknown", change("shape", "shapes")},
		{"strings", "not supported", numPyFile(t, "text")},
		{"structure", "structured", change("'<f4'", "[('a', '<f4')]")},
		{"negative dimension", "bad dimension", change("(2,)", "(-2,)")},
		{"huge dimension", "too large", change("(2,)", "(1152921504606846976,)")},
		{"overflowing dimension", "bad dimension", change("(2,)", "(99999999999999999999,)")},
		{"overflowing product", "too large", change("(2,)", "(4294967296, 4294967296, 16)")},
		{"more than the file has", "ends after 8 of", change("(2,)", "(1000000000000,)")},
		{"order", "neither True nor False", change("False", "Maybe")},
		{"tail", "does not consist", change(", }", ", } + evil()")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ReadNPY(bytes.NewReader(c.file)); err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got error %v, want one with %q", err, c.reason)
			}
			if _, err := ViewNPY(c.file); err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("ViewNPY: got error %v, want one with %q", err, c.reason)
			}
		})
	}
}

func TestViewNPYCopiesNothing(t *testing.T) {
	file := numPyFile(t, "float32")
	x, err := ViewNPY(file)
	if err != nil {
		t.Fatal(err)
	}
	if &x.Data[len(x.Data)-1] != &file[len(file)-1] {
		t.Error("the elements are not those of the file")
	}
}

// TestWriteNPY writes files of the same bytes as NumPy does.
func TestWriteNPY(t *testing.T) {
	for _, name := range []string{"float32", "int64_scalar", "bool_vector"} {
		file := numPyFile(t, name)
		x, err := ReadNPY(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := WriteNPY(&b, x); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), file) {
			t.Errorf("%s: got %q\nwant %q", name, b.Bytes(), file)
		}
	}
	for _, x := range []*Tensor{FromStrings([]string{"a"}), New(onnx.BFloat16, 1), New(onnx.Int4, 1)} {
		if err := WriteNPY(&bytes.Buffer{}, x); err == nil || !strings.Contains(err.Error(), ".pb") {
			t.Errorf("%v: got error %v, want one that names .pb", x, err)
		}
	}
}

// FuzzReadNPY checks that no file makes the reader panic, and that whatever it
// reads is written and read again as the same.
func FuzzReadNPY(f *testing.F) {
	for _, name := range []string{"float32", "float32_version_2", "float16_empty", "complex64_big_endian", "uint8_fortran_order"} {
		f.Add(numPyFile(f, name))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		x, err := ReadNPY(bytes.NewReader(file))
		view, viewErr := ViewNPY(file)
		if (err == nil) != (viewErr == nil) {
			t.Fatalf("error %v, of a view %v", err, viewErr)
		}
		if err != nil {
			return
		}
		requireEqual(t, view, x)
		var b bytes.Buffer
		if err := WriteNPY(&b, x); err != nil {
			t.Fatal(err)
		}
		y, err := ReadNPY(&b)
		if err != nil {
			t.Fatal(err)
		}
		requireEqual(t, y, x)
	})
}
