package runtime_test

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestLayOutAttentions(t *testing.T) {
	swap := onnx.IntsAttribute("perm", 0, 2, 1, 3)
	rows := func(n int) *tensor.Tensor { return tensor.FromSlice(make([]float32, 2*n), n, 2) }
	for _, c := range []struct{ name, nodes, want string }{
		{"all transposed", `
			qt = Transpose(q)
			kt = Transpose(k)
			vt = Transpose(v)
			a = Attention(qt, kt, vt)
			y = Transpose(a)`, "Reshape Reshape Reshape Attention Reshape"},
		{"rotary embeddings between", `
			qt = Transpose(q)
			kt = Transpose(k)
			vt = Transpose(v)
			qr = RotaryEmbedding(qt, cos, sin, ids)
			kr = RotaryEmbedding(kt, cos, sin, ids)
			a = Attention(qr, kr, vt)
			y = Transpose(a)`, "Reshape RotaryEmbedding Reshape Reshape RotaryEmbedding Attention Reshape"},
		{"result stays", `
			qt = Transpose(q)
			kt = Transpose(k)
			vt = Transpose(v)
			a = Attention(qt, kt, vt)
			y = Relu(a)`, "Transpose Reshape Reshape Attention Relu"},
		{"keys are used elsewhere", `
			qt = Transpose(q)
			kt = Transpose(k)
			vt = Transpose(v)
			a = Attention(qt, kt, vt)
			b = Transpose(a)
			s = ReduceSum(kt)
			y = Add(b, s)`, "Transpose ReduceSum Reshape Reshape Attention Reshape Add"},
		{"nothing to do", `
			kt = Relu(k)
			a = Attention(q, kt, v)
			y = Transpose(a)`, "Relu Attention Transpose"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var nodes []*onnx.Node
			for line := range strings.SplitSeq(c.nodes, "\n") {
				if line = strings.TrimSpace(line); line != "" {
					n := node(t, line)
					if n.OpType == "Transpose" {
						n.Attributes = append(n.Attributes, swap)
					}
					nodes = append(nodes, n)
				}
			}
			inputs := []string{"q float32[batch,n,2,4]", "k float32[batch,n,2,4]", "v float32[batch,n,2,4]", "ids int64[batch,n]"}
			passCase{name: c.name, inputs: inputs, outputs: []string{"y float32[a,b,c,d]"}, opsetVersion: 23, want: c.want,
				constants: map[string]*tensor.Tensor{"cos": rows(7), "sin": rows(7)}, nodes: nodes}.run(t)
		})
	}
}
