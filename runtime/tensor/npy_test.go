package tensor

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// The files in testdata were written by NumPy 2.
func TestDecodeNPY(t *testing.T) {
	tests := []struct {
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
	}
	for _, test := range tests {
		t.Run(test.file, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", test.file+".npy"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := DecodeNPY(data)
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, got, test.want)

			var b bytes.Buffer
			if err := got.WriteNPY(&b); err != nil {
				t.Fatal(err)
			}
			if (b.Len()-len(got.Data))%64 != 0 {
				t.Errorf("elements start at byte %d, want a multiple of 64", b.Len()-len(got.Data))
			}
			again, err := DecodeNPY(b.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, again, test.want)
		})
	}
}

func requireEqual(t *testing.T, got, want *Tensor) {
	t.Helper()
	if got.Type != want.Type || !reflect.DeepEqual(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
		t.Fatalf("got %s % x, want %s % x", got, got.Data, want, want.Data)
	}
}

func TestDecodeNPYRefuses(t *testing.T) {
	good, err := os.ReadFile(filepath.Join("testdata", "float32.npy"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("testdata", "text.npy"))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "not a NumPy"},
		{"another format", []byte("PK\x03\x04 an archive"), "not a NumPy"},
		{"unknown version", replace("NUMPY\x01", "NUMPY\x09"), "version 9"},
		{"header cut", good[:40], "ends in its header"},
		{"elements cut", good[:len(good)-1], "23 bytes of elements, needs 24"},
		{"text", text, "not supported"},

		{"overflowing shape", replace("(2, 3), }                      ", "(99999999999, 9999999999999), }"), "too large"},
		{"negative dimension", replace("(2, 3)", "(-2,3)"), "not that of an array"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := DecodeNPY(test.data); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestWriteNPYRefusesTypesThatNumPyHasNot(t *testing.T) {
	for _, x := range []*Tensor{New(onnx.BFloat16, 2), FromStrings([]string{"a"})} {
		if err := x.WriteNPY(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), ".pb") {
			t.Errorf("%s: got error %v, want one that names .pb", x, err)
		}
	}
}
