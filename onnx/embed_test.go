package onnx

import (
	"path/filepath"
	"testing"
)

// What is embedded is in the model's file; what is set external is looked for
// beside it.
func TestEmbedAndSetExternal(t *testing.T) {
	dir := t.TempDir()
	writeTestFile(t, "01234567", dir, "weights")
	m := openTestFile(t, writeTestFile(t, string(externalModel("location", "weights")), dir, "model.onnx"))
	embedded := m.Clone()
	if err := embedded.Embed(); err != nil {
		t.Fatal(err)
	}
	alone := must(Decode(must(Encode(embedded))))
	if b, err := alone.Graph.Initializer("w").Bytes(); err != nil || string(b) != "01234567" {
		t.Errorf("embedded: %q, %v", b, err)
	}
	placed := m.Clone()
	placed.Graph.Initializer("w").SetExternal("other", 3, 8)
	writeTestFile(t, "...89abcdef", dir, "other")
	path := writeTestFile(t, string(must(Encode(placed))), filepath.Join(dir, "placed.onnx"))
	if b, err := openTestFile(t, path).Graph.Initializer("w").Bytes(); err != nil || string(b) != "89abcdef" {
		t.Errorf("placed: %q, %v", b, err)
	}
	if b, err := m.Graph.Initializer("w").Bytes(); err != nil || string(b) != "01234567" {
		t.Errorf("the model changed: %q, %v", b, err)
	}
}
