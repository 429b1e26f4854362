package cpu

import (
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestMicrosoftMoE: constant experts, which are packed, compute what experts do
// that each run reads; and they are held once it is known how they are stored.
func TestMicrosoftMoE(t *testing.T) {
	const tokens, experts, d, h = 5, 4, 8, 12
	x, logits := random[float32](1, tokens, d), random[float32](2, tokens, experts)
	weight := func(rows, cols int) *tensor.Tensor { return random[float32](uint64(rows), experts, rows, cols) }
	bias := func(n int) *tensor.Tensor { return random[float32](uint64(n), experts, n) }
	integers := func(rows, bytes int) *tensor.Tensor {
		w := tensor.New(onnx.Uint8, experts, rows, bytes)
		for i := range w.Data {
			w.Data[i] = byte(37 * i)
		}
		return w
	}
	swiGLU := []*onnx.Attribute{onnx.StringAttribute("activation_type", "swiglu"), onnx.IntAttribute("swiglu_fusion", 1)}
	for _, test := range []struct {
		name, kind string
		attributes []*onnx.Attribute
		experts    []*tensor.Tensor
		held       bool
	}{
		{"out × in", "MoE", nil, []*tensor.Tensor{weight(h, d), bias(h), weight(d, h), bias(d)}, true},
		{"in × out", "MoE", nil, []*tensor.Tensor{weight(d, h), bias(h), weight(h, d), bias(d)}, true},
		{"either way", "MoE", nil, []*tensor.Tensor{weight(h, d), nil, weight(d, h)}, false},
		{"rows in turn", "MoE", swiGLU, []*tensor.Tensor{weight(2*h, d), nil, weight(d, h)}, true},
		{"8 bits", "QMoE", []*onnx.Attribute{onnx.IntAttribute("expert_weight_bits", 8)},
			[]*tensor.Tensor{integers(h, d), bias(h), nil, integers(d, h), bias(d)}, true},
		{"4 bits", "QMoE", swiGLU, []*tensor.Tensor{integers(2*h, d/2), bias(2 * h), nil, integers(d, h/2), bias(d)}, true},
		{"2 bits", "QMoE", []*onnx.Attribute{onnx.IntAttribute("expert_weight_bits", 2)},
			[]*tensor.Tensor{integers(h, d/4), bias(h), nil, integers(d, h/4), bias(d)}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := &onnx.Node{Domain: moe.MicrosoftDomain, OpType: test.kind, Attributes: test.attributes, Outputs: []string{"y"}}
			in := append([]*tensor.Tensor{x, logits}, test.experts...)
			want := compute(t, 1, false, n, 1, in...)[0]
			wantNear(t, "constant experts", compute(t, 2, true, n, 1, in...)[0], floats(want), 1e-5)

			dev := New(device.Options{Threads: 1})
			defer dev.Close()
			node, err := op.Resolve(n, 1)
			if err != nil {
				t.Fatal(err)
			}
			kernel, err := dev.Compile(node, append([]*tensor.Tensor{nil, nil}, test.experts...))
			if err != nil {
				t.Fatal(err)
			}
			if got := held(kernel, 2) > 0; got != test.held {
				t.Errorf("the first weight is held: %v", got)
			}
		})
	}
}
