package fmoefy

import (
	"fmt"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Resolving a constant ends, in a graph with a cycle and in one that uses
// each value twice, in which the ways to the first double at each node.
func TestConstantsOfHostileGraphs(t *testing.T) {
	doubling := &onnx.Graph{Initializers: []*onnx.Tensor{tensor.FromSlice([]int64{1}).ToONNX("v0")}}
	for i := range 60 {
		from, to := fmt.Sprintf("v%d", i), fmt.Sprintf("v%d", i+1)
		doubling.Nodes = append(doubling.Nodes, &onnx.Node{OpType: "Unsqueeze", Inputs: []string{from, from}, Outputs: []string{to}})
	}
	tests := []struct {
		name  string
		graph *onnx.Graph
		value string
	}{
		{"cycle through the axes", &onnx.Graph{
			Initializers: []*onnx.Tensor{tensor.FromSlice([]int64{0}).ToONNX("x")},
			Nodes:        []*onnx.Node{{OpType: "Squeeze", Inputs: []string{"x", "y"}, Outputs: []string{"y"}}},
		}, "y"},
		{"cycle through the data", &onnx.Graph{
			Nodes: []*onnx.Node{{OpType: "Identity", Inputs: []string{"y"}, Outputs: []string{"y"}}},
		}, "y"},
		{"doubling", doubling, "v60"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newScope(&onnx.Model{Graph: test.graph}, test.graph, nil, "main")
			if c, err := s.constant(test.value); err == nil {
				t.Errorf("resolved to dimensions %v", c.dims)
			}
		})
	}
}
