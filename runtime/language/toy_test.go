package language

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// toyVocabulary is small, as the tests compute probabilities by hand.
const toyVocabulary = 5

// toy describes a language model whose logits after a token are the sum of
// the rows of a table that all tokens up to it select: a model that needs its
// whole past, with or without a cache.
type toy struct {
	cached    bool // past_key_values.0.key and present.0.key
	mask      bool // attention_mask, whose length is added to the logits of token 0
	positions int  // > 0: position_ids select from a table of so many rows
	tokens    onnx.DataType
}

func scalarOf(name string, v int64) *onnx.Tensor {
	return tensor.Scalar(v).ToONNX(name)
}

func axes(name string, v ...int64) *onnx.Tensor {
	return tensor.FromSlice(v).ToONNX(name)
}

func table(name string, rows int) *onnx.Tensor {
	r := rand.New(rand.NewPCG(uint64(rows), 0))
	x := tensor.New(onnx.Float32, rows, toyVocabulary)
	for i := range tensor.Of[float32](x) {
		tensor.Of[float32](x)[i] = float32(r.NormFloat64())
	}
	return x.ToONNX(name)
}

func node(op, output string, inputs ...string) *onnx.Node {
	return &onnx.Node{Name: output, OpType: op, Inputs: inputs, Outputs: []string{output}}
}

func info(name string, t onnx.DataType, dims ...any) *onnx.ValueInfo {
	shape := &onnx.Shape{}
	for _, d := range dims {
		if n, ok := d.(int); ok {
			shape.Dims = append(shape.Dims, onnx.Dim{Value: int64(n), Known: true})
		} else {
			shape.Dims = append(shape.Dims, onnx.Dim{Param: d.(string)})
		}
	}
	return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t, Shape: shape}}
}

func (o toy) model() *onnx.Model {
	if o.tokens == onnx.Undefined {
		o.tokens = onnx.Int64
	}
	g := &onnx.Graph{
		Name:         "toy",
		Inputs:       []*onnx.ValueInfo{info("input_ids", o.tokens, "batch", "sequence")},
		Outputs:      []*onnx.ValueInfo{info("logits", onnx.Float32, "batch", "sequence", toyVocabulary)},
		Initializers: []*onnx.Tensor{table("table", toyVocabulary), scalarOf("axis", 2), axes("axes", 1)},
		Nodes:        []*onnx.Node{node("Gather", "rows", "table", "input_ids"), node("Unsqueeze", "new", "rows", "axes")},
	}
	all := "new"
	if o.cached {
		g.Inputs = append(g.Inputs, info("past_key_values.0.key", onnx.Float32, "batch", 1, "past", toyVocabulary))
		g.Outputs = append(g.Outputs, info("present.0.key", onnx.Float32, "batch", 1, "total", toyVocabulary))
		concat := node("Concat", "present.0.key", "past_key_values.0.key", "new")
		concat.Attributes = []*onnx.Attribute{onnx.IntAttribute("axis", 2)}
		g.Nodes = append(g.Nodes, concat)
		all = "present.0.key"
	}
	// The last n of the running sums, n being the number of new tokens.
	g.Initializers = append(g.Initializers, axes("one", 1), axes("far", 1<<40), axes("second", 2))
	g.Nodes = append(g.Nodes,
		node("CumSum", "sums", all, "axis"),
		node("Shape", "shape", "input_ids"), node("Gather", "n", "shape", "one"), node("Neg", "from", "n"),
		node("Slice", "last", "sums", "from", "far", "second"), node("Squeeze", "sum", "last", "axes"))
	sum := "sum"
	if o.positions > 0 {
		g.Inputs = append(g.Inputs, info("position_ids", onnx.Int64, "batch", "sequence"))
		g.Initializers = append(g.Initializers, table("positions", o.positions))
		g.Nodes = append(g.Nodes, node("Gather", "place", "positions", "position_ids"), node("Add", "placed", sum, "place"))
		sum = "placed"
	}
	if o.mask {
		g.Inputs = append(g.Inputs, info("attention_mask", onnx.Int64, "batch", "total"))
		g.Initializers = append(g.Initializers, tensor.FromSlice([]float32{0.1, 0, 0, 0, 0}).ToONNX("first"))
		cast := node("Cast", "visible", "attention_mask")
		cast.Attributes = []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Float32))}
		length := node("ReduceSum", "length", "visible")
		length.Attributes = []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}
		g.Nodes = append(g.Nodes, cast, length, node("Mul", "bonus", "length", "first"), node("Add", "masked", sum, "bonus"))
		sum = "masked"
	}
	g.Nodes = append(g.Nodes, node("Identity", "logits", sum))
	return &onnx.Model{IRVersion: 8, OpsetImports: []onnx.OpsetImport{{Version: 17}}, Graph: g}
}

// letters is the tokenizer of toys: tokens are the letters from a.
const letters = `{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}, "merges": []}}`

// open writes the model and its tokenizer to files, and opens it.
func (o toy) open(t *testing.T, options Options) *Model {
	t.Helper()
	path := writeToy(t, o.model(), letters)
	m, err := Open(path, options)
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

func writeToy(t *testing.T, m *onnx.Model, tokenizer string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "model.onnx")
	if err := onnx.WriteFile(path, m, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if tokenizer != "" {
		if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(tokenizer), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

var oneThread = Options{Runtime: runtime.Options{Threads: 1}}
