package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// The widths of a layer, and the bytes of its weights.
const (
	dModel, dHidden = 2048, 8192
	layerBytes      = 4 * (2*dModel*dHidden + dHidden + dModel)
)

// model is a Transformer without attention: each layer is x plus an MLP of the
// norm of x, written as PyTorch's TorchScript exporter writes it.
func model(layers int) *onnx.Model {
	shape := &onnx.Shape{Dims: []onnx.Dim{{Param: "batch"}, {Param: "sequence"}, {Known: true, Value: dModel}}}
	value := func(name string) *onnx.ValueInfo {
		return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32, Shape: shape}}
	}
	g := &onnx.Graph{Name: "big", Inputs: []*onnx.ValueInfo{value("x")}, Outputs: []*onnx.ValueInfo{value("y")}}
	weight := func(name string, scale float32, dims ...int64) string {
		t := &onnx.Tensor{Name: name, DataType: onnx.Float32, Dims: dims}
		count := int64(1)
		for _, d := range dims {
			count *= d
		}
		t.SetSource(&pattern{count, uint64(len(g.Initializers)), scale})
		g.Initializers = append(g.Initializers, t)
		return name
	}
	op := func(opType, out string, in ...string) string {
		g.Nodes = append(g.Nodes, &onnx.Node{Name: out, OpType: opType, Inputs: in, Outputs: []string{out}})
		return out
	}
	scale, shift := weight("norm.weight", 1, dModel), weight("norm.bias", 0.1, dModel)
	x := "x"
	for i := range layers {
		name := func(part string) string { return fmt.Sprintf("layers.%d.mlp.%s", i, part) }
		norm := op("LayerNormalization", name("norm"), x, scale, shift)
		h := op("MatMul", name("fc1/MatMul"), norm, weight(name("fc1.weight"), 0.02, dModel, dHidden))
		h = op("Relu", name("Relu"), op("Add", name("fc1/Add"), weight(name("fc1.bias"), 0.02, dHidden), h))
		y := op("MatMul", name("fc2/MatMul"), h, weight(name("fc2.weight"), 0.02, dHidden, dModel))
		y = op("Add", name("fc2/Add"), weight(name("fc2.bias"), 0.02, dModel), y)
		x = op("Add", name("residual"), x, y)
	}
	op("Identity", "y", x)
	return &onnx.Model{IRVersion: 8, ProducerName: "bigmodel", OpsetImports: []onnx.OpsetImport{{Version: 17}}, Graph: g}
}

// pattern is the source of count numbers between −scale and scale.
type pattern struct {
	count int64
	seed  uint64
	scale float32
}

func (p *pattern) Size() int64 { return 4 * p.count }

// WriteTo implements [onnx.Source].
func (p *pattern) WriteTo(w io.Writer) (int64, error) {
	buffer := make([]byte, 1<<18)
	state, written := p.seed*0x9e3779b97f4a7c15+1, int64(0)
	for written < p.Size() {
		piece := buffer[:min(int64(len(buffer)), p.Size()-written)]
		for i := 0; i < len(piece); i += 4 {
			state ^= state << 13 // xorshift
			state ^= state >> 7
			state ^= state << 17
			binary.LittleEndian.PutUint32(piece[i:], math.Float32bits(p.scale*(float32(state>>40)/(1<<23)-1)))
		}
		n, err := w.Write(piece)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// verify checks that the experts of the first and the last block hold the
// dense weights, transposed.
func verify(densePath, mixturePath string, experts int) error {
	dense, err := onnx.ReadFile(densePath)
	if err != nil {
		return err
	}
	defer dense.Close()
	mixture, err := onnx.ReadFile(mixturePath)
	if err != nil {
		return err
	}
	defer mixture.Close()
	var blocks []*onnx.Node
	for _, n := range mixture.Graph.Nodes {
		if n.Domain == moe.Domain {
			blocks = append(blocks, n)
		}
	}
	last := 0
	for dense.Graph.Initializer(fmt.Sprintf("layers.%d.mlp.fc1.weight", last+1)) != nil {
		last++
	}
	if len(blocks) != last+1 {
		return fmt.Errorf("%d of %d blocks were rewritten", len(blocks), last+1)
	}
	for _, i := range []int{0, last} {
		for part, slot := range map[string]int{"fc1": moe.InputFC1Weight, "fc2": moe.InputFC2Weight} {
			name := fmt.Sprintf("layers.%d.mlp.%s.weight", i, part)
			w := dense.Graph.Initializer(name)
			from, err := w.Bytes()
			if err != nil {
				return err
			}
			to, err := mixture.Graph.Initializer(blocks[i].Input(slot)).Bytes()
			if err != nil {
				return err
			}
			rows, columns := int(w.Dims[0]), int(w.Dims[1])
			for e := range experts {
				expert := to[e*len(from):][:len(from)]
				for k := 0; k < rows*columns; k += 1009 {
					r, c := k/columns, k%columns
					if !bytes.Equal(from[4*k:][:4], expert[4*(c*rows+r):][:4]) {
						return fmt.Errorf("expert %d of %s is not a copy of the dense weight", e, name)
					}
				}
			}
		}
	}
	return nil
}
