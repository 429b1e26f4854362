package onnx

import (
	"bytes"
	"testing"
)

// FuzzDecode looks for a panic in anything that reads a decoded model, and for
// a model that changes when it is written and read.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"testdata/everything.onnx", "testdata/newer.onnx"} {
		f.Add(readTestFile(f, name))
	}
	for _, m := range []*Model{smallModel(), weightsModel(), {Graph: nestedModel()}} {
		f.Add(must(Encode(m)))
	}
	f.Add(externalModel("location", "../weights", "offset", "-1"))
	f.Add(blobOf(7, string(nest(33, nil, 6, 5, 1))))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			return
		}
		_ = Check(m)
		_ = NewIndex(m.Graph)
		for _, tensor := range m.tensors() {
			if b, err := tensor.Bytes(); err == nil && int64(len(b)) != must(tensor.ByteSize()) {
				t.Errorf("tensor %q has %d bytes", tensor.Name, len(b))
			}
		}
		written, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(written)
		if err != nil {
			t.Fatal(err)
		}
		if rewritten, err := Encode(again.Clone()); err != nil || !bytes.Equal(written, rewritten) {
			t.Errorf("written twice, it is not the same (%v)", err)
		}
	})
}
