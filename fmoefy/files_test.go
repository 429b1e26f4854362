package fmoefy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// TestFiles finds and replaces the blocks of models that PyTorch's exporters
// wrote, and compares the rewritten file with the original.
func TestFiles(t *testing.T) {
	for _, c := range []struct {
		path       string
		blocks     int
		name       string // of the second block
		kind       fmoefy.Kind
		activation moe.Activation
		refused    string // the reason for one more candidate
	}{
		{"../models/gpt-megatron/model.onnx", 6, "language_model.encoder.layers.1.mlp", fmoefy.Plain, moe.GELUTanh, ""},
		{"../models/gpt-megatron-dynamo/model.onnx", 6, "language_model.encoder.layers.1.mlp", fmoefy.Plain, moe.GELUTanh, ""},
		{"../models/bert/model.onnx", 2, "encoder.layer.1", fmoefy.Plain, moe.GELU, "LayerNormalization"},
		{"../models/llama/model.onnx", 2, "model.layers.1.mlp", fmoefy.Gated, moe.SiLU, ""},
		{"../models/t5/model.onnx", 2, "encoder.block.1.layer.1.DenseReluDense", fmoefy.Gated, moe.GELUTanh, ""},
		{"../../shared/models/distilbert-optimum.onnx", 2, "distilbert.transformer.layer.1.ffn", fmoefy.Plain, moe.GELU, "head or projection"},
		{"../../shared/models/transformer-encoder-mlm-vespa.onnx", 2, "transformer_encoder.layers.1", fmoefy.Plain, moe.ReLU, ""},
	} {
		t.Run(filepath.Base(filepath.Dir(c.path))+"/"+filepath.Base(c.path), func(t *testing.T) {
			if _, err := os.Stat(c.path); err != nil {
				t.Skip("the file is not here")
			}
			dense, err := onnx.ReadFile(c.path)
			if err != nil {
				t.Fatal(err)
			}
			defer dense.Close()
			var found, refused []fmoefy.Block
			for _, b := range fmoefy.Find(dense) {
				if b.Refused == "" {
					found = append(found, b)
				} else {
					refused = append(refused, b)
				}
			}
			if len(found) != c.blocks {
				t.Fatalf("%d blocks, want %d", len(found), c.blocks)
			}
			if b := found[1]; b.Name != c.name || b.Kind != c.kind || b.Activation != c.activation {
				t.Errorf("block %s %s %s, want %s %s %s", b.Name, b.Kind, b.Activation, c.name, c.kind, c.activation)
			}
			if c.refused == "" && len(refused) > 0 || c.refused != "" && (len(refused) != 1 || !strings.Contains(refused[0].Refused, c.refused)) {
				t.Errorf("refused %d candidates, want one for %q", len(refused), c.refused)
			}

			path := filepath.Join(t.TempDir(), "moe.onnx")
			rewritten := dense.Clone()
			if _, err := fmoefy.Rewrite(rewritten, fmoefy.Options{NumExperts: 8}); err != nil {
				t.Fatal(err)
			}
			if err := onnx.WriteFile(path, rewritten, onnx.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			read, err := onnx.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			if n := mixtures(read); n != c.blocks {
				t.Errorf("%d FMoE nodes, want %d", n, c.blocks)
			}
			compare(t, read, dense, 1e-4)
			compare(t, decomposed(read), dense, 1e-4)
		})
	}
}
