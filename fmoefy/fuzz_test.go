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

// FuzzRewrite gives fmoefy any model that decodes: one that the checker accepts
// is rewritten into one that it accepts too, or refused with an error that is
// not fmoefy's own, and nothing panics.
func FuzzRewrite(f *testing.F) {
	for _, m := range fuzzSeeds() {
		data, err := onnx.Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		for _, mode := range []uint8{0, 1, 2, 3, 4, 9, 12, 16, 28} {
			f.Add(data, mode)
		}
		f.Add(data, uint8(32))
		f.Add(data, uint8(32+2+64))
	}
	for _, pattern := range []string{"../models/zoo/*/model.onnx", "../models/*/model.onnx"} {
		files, _ := filepath.Glob(pattern)
		for _, path := range files {
			if data, err := os.ReadFile(path); err == nil && len(data) < 60_000 {
				f.Add(data, uint8(0))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, mode uint8) {
		m, err := onnx.Decode(data)
		if err != nil {
			return
		}
		accepted := onnx.Check(m) == nil
		blocks := fmoefy.Find(m)
		if _, err := fmoefy.Regate(m.Clone(), fmoefy.RegateOptions{TopK: 1}); err != nil && strings.Contains(err.Error(), "error in fmoefy") {
			t.Fatal(err)
		}
		gates := moe.Gates()
		o := fmoefy.Options{NumExperts: 2, SeparateShared: mode&1 != 0, Dequantize: mode&2 != 0}
		o.Gate = gates[int(mode>>3)%len(gates)]
		o.Init = []fmoefy.Init{fmoefy.Copy, fmoefy.Noise, fmoefy.Drop, fmoefy.VirtualGroup}[mode>>2&3]
		o.SharedExpert = mode&16 != 0
		if mode&32 != 0 {
			o.Init, o.Models = fmoefy.FromModels, map[int]fmoefy.ExpertModel{1: {Name: "itself", Model: m.Clone()}}
			o.Rest = []fmoefy.Rest{fmoefy.RestBase, fmoefy.RestAverage}[mode>>6&1]
			o.GateInit = []fmoefy.GateInit{fmoefy.GateNormal, fmoefy.GateOrthogonal}[mode>>7]
		}
		report, err := fmoefy.Rewrite(m, o)
		switch {
		case err != nil && strings.Contains(err.Error(), "error in fmoefy"):
			t.Fatal(err)
		case err != nil:
			return
		case !accepted:
			t.Fatal("a model that the checker refuses was rewritten")
		case len(report.Blocks) < len(blocks):
			t.Errorf("Find lists %d blocks, the report %d", len(blocks), len(report.Blocks))
		}
		if err := onnx.Check(m); err != nil {
			t.Fatalf("the rewritten model: %v", err)
		}
		regated := m.Clone()
		toGate := fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: gates[int(mode>>2)%len(gates)]}}
		if _, err := fmoefy.Regate(regated, toGate); err != nil && strings.Contains(err.Error(), "error in fmoefy") {
			t.Fatal(err)
		}
		if size := initializerBytes(m); size > 1<<24 {
			return // too large to write in a test
		}
		// Writing computes the experts; it may find a weight without data.
		_, _ = onnx.Encode(m)
	})
}

func initializerBytes(m *onnx.Model) (total int64) {
	for _, w := range m.Graph.Initializers {
		if n, err := w.ByteSize(); err == nil {
			total += min(n, 1<<30)
		}
	}
	return total
}

// fuzzSeeds are small models of the forms that Rewrite tells apart.
func fuzzSeeds() []*onnx.Model {
	models := []*onnx.Model{layers(newBuilder(17), 2), repeated()}
	for _, c := range forms {
		b := newBuilder(17)
		x := b.tokens()
		models = append(models, b.residual(x, c.write(b, x)))
	}
	for _, c := range gatedForms {
		b := newBuilder(18)
		x := b.tokens()
		fused := b.op("Add", b.op("MatMul", x, b.weight(dModel, 2*dHidden)), b.weight(2*dHidden))
		models = append(models, b.residual(x, b.op("MatMul", c.write(b, fused), b.weight(dHidden, dModel))))
	}
	for _, c := range quantizedWeights {
		b := newBuilder(c.opset)
		b.kind = c.kind
		x := b.tokens()
		h := b.op("Relu", b.op("MatMul", x, c.write(b, dModel, dHidden)))
		models = append(models, b.residual(x, b.op("MatMul", h, c.write(b, dHidden, dModel))))
	}
	for _, c := range refusals {
		b := newBuilder(17)
		x := b.tokens()
		models = append(models, b.residual(x, c.write(b, x)))
	}
	return models
}
