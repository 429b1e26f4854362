package benchmodel

import (
	"bytes"
	"encoding/binary"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Mixture is the size of an FMoE layer.
type Mixture struct {
	Experts, TopK, Model, Hidden int

	// Favoured, where it is not 0, is how many experts get all tokens.
	Favoured int
}

// Layer is one FMoE node: x [tokens, d] to y [tokens, d]. With standard normal
// tokens the router chooses all experts about equally often.
func (x Mixture) Layer() *onnx.Model {
	b := newBuilder("fmoe")
	inputs := make([]string, moe.InputFC2Bias+1)
	inputs[moe.InputX] = b.input("x", onnx.Float32, "tokens", x.Model)
	inputs[moe.InputGateWeight] = b.weight("gate.weight", 0, weightStd, x.Model, x.Experts)
	if x.Favoured > 0 {
		inputs[moe.InputGateBias] = b.favour(x)
	}
	inputs[moe.InputFC1Weight] = b.weight("experts.fc1.weight", 0, weightStd, x.Experts, x.Hidden, x.Model)
	inputs[moe.InputFC1Bias] = b.weight("experts.fc1.bias", 0, weightStd, x.Experts, x.Hidden)
	inputs[moe.InputFC2Weight] = b.weight("experts.fc2.weight", 0, weightStd, x.Experts, x.Model, x.Hidden)
	inputs[moe.InputFC2Bias] = b.weight("experts.fc2.bias", 0, weightStd, x.Experts, x.Model)
	config := moe.NaiveConfig(x.TopK, moe.GELUTanh)
	b.add(moe.OpType, "experts", inputs, config.Encode()...)
	b.last().Domain = moe.Domain
	b.output("y", onnx.Float32, "tokens", x.Model)
	return b.model()
}

// favour makes a router's bias that no token's scores outweigh.
func (b *builder) favour(x Mixture) string {
	bias := make([]float32, x.Experts)
	for e := range x.Favoured {
		bias[e] = 1000
	}
	var data bytes.Buffer
	_ = binary.Write(&data, binary.LittleEndian, bias) // a buffer takes everything
	b.graph.Initializers = append(b.graph.Initializers, onnx.NewTensor("gate.bias", onnx.Float32, []int64{int64(x.Experts)}, data.Bytes()))
	return "gate.bias"
}

// Product is a matrix product with a constant right side: x [rows, k] to
// y [rows, n].
func Product(k, n int) *onnx.Model {
	b := newBuilder("product")
	b.op("MatMul", b.input("x", onnx.Float32, "rows", k), b.weight("weight", 0, weightStd, k, n))
	b.output("y", onnx.Float32, "rows", n)
	return b.model()
}
