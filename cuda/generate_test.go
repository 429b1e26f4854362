//go:build fmoecuda

package cuda

import (
	"errors"
	"testing"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// TestGenerate compiles a kernel with every formula, and with operands that are
// found in every way. It needs NVRTC, and no GPU.
func TestGenerate(t *testing.T) {
	chain := &op.Chain{Inputs: 5}
	facts := []op.Fact{{Type: onnx.Float32}, {Type: onnx.Float32}, {Type: onnx.Float32}, {Type: onnx.Bool}, {Type: onnx.Bool}}
	add := func(opType string, in ...int) {
		f := op.Fact{Type: onnx.Float32}
		switch opType {
		case "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "Xor":
			f.Type = onnx.Bool
		}
		chain.Nodes = append(chain.Nodes, &op.Node{Node: &onnx.Node{OpType: opType}})
		chain.In, facts = append(chain.In, in), append(facts, f)
	}
	for name := range formulas {
		switch name {
		case "GeluTanh":
		case "Not":
			add(name, 3)
		case "And", "Or", "Xor":
			add(name, 3, 4)
		default:
			add(name, 0, 1)
		}
	}
	add("Max", 0, 1, 2)
	add("Where", 3, 0, 2)
	add("Cast", 4)
	add("Add", len(facts)-1, len(facts)-2)
	source, err := generate(chain, facts, []int{dense, single, strided, dense, strided})
	if err != nil {
		t.Fatal(err)
	}
	image, err := driver.CompileSource(source, "sm_90")
	if errors.Is(err, driver.ErrNoCompiler) {
		t.Skip(err)
	}
	if err != nil || len(image) == 0 {
		t.Fatalf("%v\n%s", err, source)
	}
}
