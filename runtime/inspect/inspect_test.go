package inspect

import (
	"encoding/binary"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func readModel(t *testing.T, path ...string) *onnx.Model {
	t.Helper()
	m, err := onnx.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestIndexBound(t *testing.T) {
	tests := []struct {
		model, input string
		bound        int64 // 0: none
	}{
		{"gpt-megatron", "input_ids", 256},
		{"gpt-megatron-dynamo", "input_ids", 256},
		{"bert", "input_ids", 256},
		{"bert", "token_type_ids", 2},
		{"bert", "attention_mask", 0},
	}
	for _, test := range tests {
		bound, ok := IndexBound(readModel(t, "models", test.model, "model.onnx").Graph, test.input)
		if ok != (test.bound != 0) || ok && bound != test.bound {
			t.Errorf("%s: %s stays below %d, %t; want %d", test.model, test.input, bound, ok, test.bound)
		}
	}
}

func TestContextLength(t *testing.T) {
	tests := []struct {
		model  string
		length int64 // 0: none
	}{
		{"gpt-megatron", 256},
		{"gpt-megatron-dynamo", 256},
		{"bert", 128},
		{"llama", 0},                       // rotary positions
		{"t5", 0},                          // relative positions
		{"zoo/gpt2-torchscript-cache", 64}, // of the mask, or of the past's length
		{"zoo/opt-torchscript", 64},        // its table has 66 rows, the first two not used
		{"zoo/bloom-torchscript", 0},       // ALiBi
	}
	for _, test := range tests {
		length, ok := ContextLength(readModel(t, "models", test.model, "model.onnx").Graph)
		if ok != (test.length != 0) || ok && length != test.length {
			t.Errorf("%s: context %d, %t; want %d", test.model, length, ok, test.length)
		}
	}
}

func zeros(name string, t onnx.DataType, dims ...int64) *onnx.Tensor {
	n, _ := onnx.ElementCount(dims)
	size, _ := t.ByteSize(n)
	return onnx.NewTensor(name, t, dims, make([]byte, size))
}

func ints(name string, values ...int64) *onnx.Tensor {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint64(data, uint64(v))
	}
	return onnx.NewTensor(name, onnx.Int64, []int64{int64(len(values))}, data)
}

// Forms that exporters give to a table of positions.
func TestContextLengthOfOtherForms(t *testing.T) {
	node := func(op, output string, inputs ...string) *onnx.Node {
		return &onnx.Node{OpType: op, Inputs: inputs, Outputs: []string{output}}
	}
	table := zeros("table", onnx.Float32, 40, 8)
	tests := []struct {
		name         string
		nodes        []*onnx.Node
		initializers []*onnx.Tensor
		length       int64
	}{
		{
			"positions of the attention mask",
			[]*onnx.Node{node("CumSum", "c", "attention_mask", "one"), node("Sub", "p", "c", "one"), node("Gather", "y", "table", "p")},
			[]*onnx.Tensor{table, ints("one", 1)}, 40,
		},
		{
			"a buffer of positions",
			[]*onnx.Node{node("Shape", "s", "input_ids"), node("Slice", "p", "buffer", "zero", "s", "zero"), node("Gather", "y", "table", "p")},
			[]*onnx.Tensor{table, zeros("buffer", onnx.Int64, 40), ints("zero", 0)}, 40,
		},
		{
			"a sliced table of angles",
			[]*onnx.Node{node("Shape", "s", "input_ids"), node("Slice", "y", "angles", "zero", "s", "axis")},
			[]*onnx.Tensor{zeros("angles", onnx.Float32, 8, 30), ints("zero", 0), ints("axis", -1)}, 30,
		},
		{
			"a table behind Identity",
			[]*onnx.Node{node("Identity", "same", "table"), node("Gather", "y", "same", "position_ids")},
			[]*onnx.Tensor{table}, 40,
		},
		{
			"a cycle",
			[]*onnx.Node{node("Add", "p", "q", "one"), node("Add", "q", "p", "position_ids"), node("Gather", "y", "table", "p")},
			[]*onnx.Tensor{zeros("table", onnx.Float32, 100, 8), ints("one", 1)}, 36,
		},
		{
			"tokens reshaped by a shape are no positions",
			[]*onnx.Node{node("Shape", "s", "input_ids"), node("Reshape", "r", "input_ids", "s"), node("Gather", "y", "table", "r")},
			[]*onnx.Tensor{table}, 0,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			length, ok := ContextLength(&onnx.Graph{Nodes: test.nodes, Initializers: test.initializers})
			if ok != (test.length != 0) || ok && length != test.length {
				t.Errorf("context %d, %t; want %d", length, ok, test.length)
			}
		})
	}
}

// moeModel has one FMoE layer of 4 experts, 2 active, and a projection.
func moeModel() *onnx.Model {
	tensorType := &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32, Shape: &onnx.Shape{Dims: []onnx.Dim{{Param: "tokens"}, {Value: 8, Known: true}}}}
	layer := &onnx.Node{
		Name: "layers.0.mlp", Domain: moe.Domain, OpType: moe.OpType,
		Inputs:     []string{"x", "gate", "", "fc1", "fc1_bias", "fc2"},
		Outputs:    []string{"h"},
		Attributes: moe.NaiveConfig(2, moe.GELU).Encode(),
	}
	return &onnx.Model{
		IRVersion: 8, ProducerName: "test", OpsetImports: []onnx.OpsetImport{{Version: 17}, {Domain: moe.Domain, Version: 1}},
		Graph: &onnx.Graph{
			Inputs:  []*onnx.ValueInfo{{Name: "x", Type: tensorType}},
			Outputs: []*onnx.ValueInfo{{Name: "y", Type: tensorType}},
			Initializers: []*onnx.Tensor{
				zeros("gate", onnx.Float32, 8, 4),
				zeros("fc1", onnx.Float32, 4, 16, 8), zeros("fc1_bias", onnx.Float32, 4, 16), zeros("fc2", onnx.Float32, 4, 8, 16),
				zeros("w", onnx.Float32, 8, 8), ints("shape", 1, 2), zeros("scale", onnx.Float32),
			},
			Nodes: []*onnx.Node{layer, {OpType: "MatMul", Inputs: []string{"h", "w"}, Outputs: []string{"y"}}},
		},
	}
}

func TestDescribe(t *testing.T) {
	got, err := Describe(moeModel())
	if err != nil {
		t.Fatal(err)
	}
	expert := int64(16*8 + 16 + 8*16)
	want := &Description{
		IRVersion: 8, Producer: "test", Opsets: map[string]int64{"ai.onnx": 17, "ai.fmoe": 1},
		Inputs: []Value{{"x", "float32[tokens,8]"}}, Outputs: []Value{{"y", "float32[tokens,8]"}},
		Operators: []Operator{{"MatMul", 1}, {"ai.fmoe::FMoE", 1}}, Functions: []string{},
		Parameters: Parameters{Total: 8*4 + 4*expert + 8*8, Active: 8*4 + 2*expert + 8*8},
		Layers:     []Layer{{Name: "layers.0.mlp", Experts: 4, TopK: 2, Gate: "naive", Activation: "gelu", DModel: 8, DHidden: 16, Weights: "float32"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestDescribeGates: capacities are told, and gates that are not registered.
func TestDescribeGates(t *testing.T) {
	for _, test := range []struct {
		gate       string
		attributes []*onnx.Attribute
		want       *Capacity
	}{
		{moe.GateNaive, nil, nil},
		{moe.GateGShard, nil, &Capacity{Train: 1.2, Evaluation: 2.4}},
		{moe.GateGShard, []*onnx.Attribute{onnx.FloatAttribute(moe.AttributeCapacityEval, moe.Unlimited)}, &Capacity{Train: 1.2, Evaluation: moe.Unlimited}},
		{"of another program", nil, nil},
	} {
		m := moeModel()
		m.Graph.Nodes[0].Attributes = append(test.attributes, onnx.IntAttribute(moe.AttributeTopK, 2), onnx.StringAttribute(moe.AttributeGate, test.gate))
		d, err := Describe(m)
		if err != nil {
			t.Errorf("%s: %v", test.gate, err)
			continue
		}
		if l := d.Layers[0]; l.Gate != test.gate || l.TopK != 2 || !reflect.DeepEqual(l.Capacity, test.want) {
			t.Errorf("%s: got %+v", test.gate, l)
		}
	}
}

func TestDescribeRefusesBrokenLayers(t *testing.T) {
	tests := []struct {
		name   string
		damage func(n *onnx.Node)
		want   string
	}{
		{"no top_k", func(n *onnx.Node) { n.Attributes = nil }, "top_k"},
		{"weights that are computed", func(n *onnx.Node) { n.Inputs[moe.InputFC1Weight] = "x" }, `"x" is not a constant`},
	}
	for _, test := range tests {
		m := moeModel()
		test.damage(m.Graph.Nodes[0])
		if _, err := Describe(m); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "layers.0.mlp") {
			t.Errorf("%s: got error %v, want one with %q and the node's name", test.name, err, test.want)
		}
	}
}
