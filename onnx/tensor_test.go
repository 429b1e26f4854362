package onnx

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
)

// testdata/everything.onnx has each element type twice, stored in its typed
// field by one function of the Python package and in raw_data by another.
func TestBytesOfEveryType(t *testing.T) {
	m := decodeTestFile(t, "testdata/everything.onnx")
	seen := make(map[DataType]bool)
	for _, typed := range m.Graph.Initializers {
		name, ok := strings.CutPrefix(typed.Name, "typed_")
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			raw := m.Graph.Initializer("raw_" + name)
			if typed.storage.field(rawData) != nil || raw.storage.field(rawData) == nil {
				t.Fatal("the file does not store the one typed and the other raw")
			}
			got, err := typed.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			want, err := raw.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("% x, in raw_data % x", got, want)
			}
			if again := must(typed.Bytes()); &again[0] != &got[0] {
				t.Error("a second call converted again")
			}
			seen[typed.DataType] = true
		})
	}
	for d := Float32; d.Valid(); d++ {
		if !seen[d] && d != String {
			t.Errorf("type %s was not tested", d)
		}
	}
}

func TestBytesFails(t *testing.T) {
	const dims, dataType, floatField, intField, raw = 1, 2, 4, 5, 9
	for _, c := range []struct {
		name   string
		fields []byte
		want   string
	}{
		{"too few bytes", join(varint(dims, 2), varint(dataType, 1), blobOf(raw, "1234")), "4 bytes of data, its type and dims take 8"},
		{"too many bytes", join(varint(dataType, 1), blobOf(raw, "12345")), "5 bytes of data, its type and dims take 4"},
		{"half a byte too few", join(varint(dims, 3), varint(dataType, 22), blobOf(raw, "1")), "1 bytes of data, its type and dims take 2"},
		{"no data", join(varint(dims, 2), varint(dataType, 1)), "no data"},
		{"another type's field", join(varint(dims, 1), varint(dataType, 7), blobOf(floatField, "1234")), "type int64 cannot be in float_data"},
		{"too few numbers", join(varint(dims, 2), varint(dataType, 6), packed(intField, 1)), "int32_data has 1 numbers"},
		{"half a number", join(varint(dims, 1), varint(dataType, 6), blobOf(intField, "\x01\x80")), "int32_data: a packed list ends in the middle"},
		{"a huge number of numbers", join(varint(dims, 1<<59), varint(dataType, 2), packed(intField, 1)), "its type and dims take 576460752303423488"},
		{"a negative dimension", join(varint(dims, ^uint64(0)), varint(dataType, 1), blobOf(raw, "1234")), "negative dimension"},
		{"overflowing dimensions", join(varint(dims, 1<<40), varint(dims, 1<<40), varint(dataType, 1)), "overflow"},
		{"an overflowing size", join(varint(dims, 1<<62), varint(dataType, 11)), "overflow"},
		{"an unknown type", join(varint(dataType, 99), blobOf(raw, "1")), "DataType(99)"},
		{"strings", join(varint(dataType, 8), blobOf(6, "text")), "type string has no fixed element size"},
		{"an external file", join(varint(dims, 1), varint(dataType, 1), varint(14, 1), blobOf(13, string(join(blobOf(1, "location"), blobOf(2, "w.bin"))))), `external file "w.bin"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tensor Tensor
			if err := decode(join(blobOf(8, "w"), c.fields), tensorSchema, &tensor); err != nil {
				t.Fatal(err)
			}
			_, err := tensor.Bytes()
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `tensor "w"`) {
				t.Errorf("error %v, not one about %q and the tensor's name", err, c.want)
			}
		})
	}
}

// zeros is a Source of that many zero bytes which claims to have size.
type zeros struct{ has, size int64 }

func (z zeros) Size() int64 { return z.size }

func (z zeros) WriteTo(w io.Writer) (int64, error) {
	return io.CopyN(w, zeroReader{}, z.has)
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestSource(t *testing.T) {
	for _, c := range []struct {
		name   string
		source zeros
		fails  bool
	}{
		{"exact", zeros{8, 8}, false},
		{"claims less than the dims", zeros{4, 4}, true},
		{"gives less than it claims", zeros{4, 8}, true},
		{"gives more than it claims", zeros{12, 8}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tensor := NewTensor("w", Float32, []int64{2}, nil)
			tensor.SetSource(c.source)
			model := &Model{Graph: &Graph{Initializers: []*Tensor{tensor}}}
			_, bytesErr := tensor.Bytes()
			n, writeErr := tensor.WriteTo(io.Discard)
			_, encodeErr := Encode(model)
			for what, err := range map[string]error{"Bytes": bytesErr, "WriteTo": writeErr, "Encode": encodeErr} {
				if (err != nil) != c.fails {
					t.Errorf("%s: %v", what, err)
				}
			}
			if !c.fails && n != 8 {
				t.Errorf("wrote %d bytes", n)
			}
		})
	}
}

func TestBytesConcurrently(t *testing.T) {
	tensor := decodeTestFile(t, "testdata/everything.onnx").Graph.Initializer("typed_INT64")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if b, err := tensor.Bytes(); err != nil || len(b) != 24 {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	group.Wait()
}

func TestSetBytesLeavesClonesAlone(t *testing.T) {
	tensor := NewTensor("w", Uint8, []int64{2}, []byte{1, 2})
	clone := tensor.Clone()
	tensor.SetBytes([]byte{3, 4})
	if got := must(clone.Bytes()); !bytes.Equal(got, []byte{1, 2}) {
		t.Errorf("the clone has %v", got)
	}
	again, err := DecodeTensor(must(EncodeTensor(tensor)))
	if err != nil {
		t.Fatal(err)
	}
	if got := must(again.Bytes()); !bytes.Equal(got, []byte{3, 4}) {
		t.Errorf("written and read, it has %v", got)
	}
}

// The elements of a tensor without any need no bytes.
func TestEmptyTensor(t *testing.T) {
	tensor := &Tensor{Name: "none", DataType: Float32, Dims: []int64{0, 5}}
	if b, err := tensor.Bytes(); err != nil || len(b) != 0 {
		t.Errorf("%v, %v", b, err)
	}
	if err := tensor.check(); err != nil {
		t.Error(err)
	}
}

func TestElementCount(t *testing.T) {
	for _, c := range []struct {
		dims  []int64
		count int64
		fails bool
	}{
		{nil, 1, false},
		{[]int64{2, 3}, 6, false},
		{[]int64{1 << 40, 0, 1 << 40}, 0, true},
		{[]int64{0, -1}, 0, true},
		{[]int64{1 << 62, 2}, 0, true},
		{[]int64{1<<62 - 1, 2}, 1<<63 - 2, false},
	} {
		count, err := ElementCount(c.dims)
		if (err != nil) != c.fails || !c.fails && count != c.count {
			t.Errorf("%v: %d, %v", c.dims, count, err)
		}
	}
}

var errDisk = errors.New("no space left")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errDisk }

func TestWriteToReportsTheWriter(t *testing.T) {
	tensor := NewTensor("w", Uint8, []int64{2}, []byte{1, 2})
	if _, err := tensor.WriteTo(brokenWriter{}); !errors.Is(err, errDisk) {
		t.Errorf("error %v", err)
	}
}
