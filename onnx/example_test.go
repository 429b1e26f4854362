package onnx_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/fmoe-go/fmoe/onnx"
)

// Exchange every Relu of a model for a LeakyRelu.
func Example() {
	dir, err := os.MkdirTemp("", "onnx")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "model.onnx")
	if err := onnx.WriteFile(path, exampleModel(), onnx.WriteOptions{}); err != nil {
		log.Fatal(err)
	}

	m, err := onnx.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	for _, n := range m.Graph.Nodes {
		if n.Is("Relu") {
			n.OpType = "LeakyRelu"
			n.Attributes = append(n.Attributes, onnx.FloatAttribute("alpha", 0.1))
		}
	}
	if err := onnx.Check(m); err != nil {
		log.Fatal(err)
	}
	if err := onnx.WriteFile(path, m, onnx.WriteOptions{}); err != nil {
		log.Fatal(err)
	}
	for _, n := range m.Graph.Nodes {
		fmt.Println(n.OpType, n.Inputs, "→", n.Outputs)
	}
	// Output:
	// MatMul [x weight] → [h]
	// LeakyRelu [h] → [y]
}

func ExampleNewIndex() {
	g := exampleModel().Graph
	x := onnx.NewIndex(g)
	fmt.Println(x.Producer("h").OpType)
	for _, use := range x.Consumers("h") {
		fmt.Println(use.Node.OpType, "input", use.Input)
	}
	fmt.Println(x.Initializer("weight").Dims, x.NewName("h"))
	// Output:
	// MatMul
	// Relu input 0
	// [2 2] h_1
}

func exampleModel() *onnx.Model {
	matrix := &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32, Shape: &onnx.Shape{Dims: []onnx.Dim{{Param: "batch"}, {Value: 2, Known: true}}}}
	return &onnx.Model{
		IRVersion:    8,
		OpsetImports: []onnx.OpsetImport{{Version: 17}},
		Graph: &onnx.Graph{
			Name:         "example",
			Inputs:       []*onnx.ValueInfo{{Name: "x", Type: matrix}},
			Outputs:      []*onnx.ValueInfo{{Name: "y", Type: matrix}},
			Initializers: []*onnx.Tensor{onnx.NewTensor("weight", onnx.Float32, []int64{2, 2}, make([]byte, 16))},
			Nodes: []*onnx.Node{
				{OpType: "MatMul", Inputs: []string{"x", "weight"}, Outputs: []string{"h"}},
				{OpType: "Relu", Inputs: []string{"h"}, Outputs: []string{"y"}},
			},
		},
	}
}
