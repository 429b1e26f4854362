package runtime_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// FuzzRun gives the runtime any model that decodes: it runs, or it is refused
// with an error, but nothing panics, hangs or takes memory beyond the limit.
func FuzzRun(f *testing.F) {
	if cases, err := devicetest.LoadONNXCases(); err == nil {
		seen := map[string]int{}
		for _, c := range cases {
			m, err := onnx.Decode(c.Model)
			if err != nil || len(c.Model) > 4000 || len(m.Graph.Nodes) == 0 {
				continue
			}
			if op := m.Graph.Nodes[0].OpType; seen[op] < 3 {
				seen[op]++
				f.Add(c.Model, uint8(2))
			}
		}
	}
	for _, gate := range moe.Gates() {
		config := moe.DefaultConfig(gate)
		if config.TopK = 2; config.Check(8) != nil {
			config.TopK = 1
		}
		kind, err := moe.KindOf(gate)
		if err != nil {
			f.Fatal(err)
		}
		inputs := map[int]string{moe.InputStep: "step int64[]", moe.InputMask: "mask bool[batch,tokens]"}
		if kind.Noisy {
			inputs[moe.InputNoiseWeight] = "noise"
		}
		data, err := onnx.Encode(fmoeModel(f, config, inputs))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		m, err := onnx.Decode(data)
		if err != nil {
			return
		}
		s, err := runtime.New(m, runtime.Options{Threads: 1, MaxMemory: 16 << 20})
		if err != nil {
			if errors.Is(err, runtime.ErrInternal) {
				t.Fatal(err)
			}
			return
		}
		defer s.Close()
		inputs := map[string]*tensor.Tensor{}
		for _, v := range s.Inputs() {
			x, ok := anyInput(v, int(size%5))
			if !ok {
				return
			}
			inputs[v.Name] = x
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if _, err := s.Run(ctx, inputs); errors.Is(err, runtime.ErrInternal) {
			t.Fatal(err)
		}
	})
}

// anyInput makes an input that fits a declaration, with the given length for
// every open dimension and small content.
func anyInput(v *onnx.ValueInfo, length int) (*tensor.Tensor, bool) {
	if v.Type == nil || v.Type.Kind != onnx.KindTensor || !v.Type.ElemType.Valid() {
		return nil, false
	}
	var shape []int
	if v.Type.Shape != nil {
		for _, d := range v.Type.Shape.Dims {
			n := length
			if d.Known {
				n = int(d.Value)
			}
			shape = append(shape, n)
		}
	}
	if n, err := tensor.CheckedCount(v.Type.ElemType, shape); err != nil || n > 1<<16 || slices.Contains(shape, -1) {
		return nil, false
	}
	x := tensor.New(v.Type.ElemType, shape...)
	for i := range x.Data {
		x.Data[i] = byte(i % 3)
	}
	return x, true
}
