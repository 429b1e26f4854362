package runtime_test

import (
	"math"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestRecogniseRotary(t *testing.T) {
	constants := map[string]*tensor.Tensor{"split": tensor.FromSlice([]int64{0, 0, 2, 4}), "heads": tensor.FromSlice([]int64{1})}
	for name, v := range map[string]int64{"zero": 0, "two": 2, "three": 3, "four": 4, "all": math.MaxInt64} {
		constants[name] = tensor.FromSlice([]int64{v})
	}
	const tables = `
		e = Concat(f, f);2
		c3 = Cos(e)
		s3 = Sin(e)
		c = Unsqueeze(c3, heads)
		s = Unsqueeze(s3, heads)
	`
	const turned = `
		x1 = Slice(x, zero, two, three)
		x2 = Slice(x, two, four, three)
		n = Neg(x2)
		r = Concat(n, x1);3
		a = Mul(x, c)
		b = Mul(r, s)
	`
	for _, c := range []struct {
		name, x, f, nodes, want string
	}{
		{"a table for each text", "x float32[batch,2,n,4]", "f float32[batch,n,2]", tables + turned + "y = Add(a, b)",
			"Concat Cos Sin Slice Slice RotaryEmbedding"},
		{"one table", "x float32[batch,2,n,4]", "f float32[1,n,2]", tables + turned + "y = Add(b, a)",
			"Concat Cos Sin Slice Reshape Slice Reshape com.microsoft::RotaryEmbedding"},
		{"one table without batch", "x float32[batch,2,n,4]", "f float32[n,2]", `
			e = Concat(f, f);1
			c = Cos(e)
			s = Sin(e)` + turned + "y = Add(a, b)", "Concat Cos Sin Slice Slice com.microsoft::RotaryEmbedding"},
		{"heads behind", "u float32[batch,n,8]", "f float32[batch,n,2]", "t = Reshape(u, split)\nx = Transpose(t);0213\n" + tables + turned + "y = Add(a, b)",
			"Concat Cos Sin Slice Slice RotaryEmbedding Reshape Transpose"},
		{"a part of each head", "w float32[batch,2,n,7]", "f float32[batch,n,2]", "x = Slice(w, zero, four, three)\nrest = Slice(w, four, all, three)\n" +
			tables + turned + "z = Add(a, b)\ny = Concat(z, rest);3",
			"Concat Cos Sin Slice Slice RotaryEmbedding"},
		{"halves swapped", "x float32[batch,2,n,4]", "f float32[batch,n,2]", tables + `
			x1 = Slice(x, zero, two, three)
			x2 = Slice(x, two, four, three)
			n = Neg(x1)
			r = Concat(n, x2);3
			a = Mul(x, c)
			b = Mul(r, s)
			y = Add(a, b)`, "Concat Cos Sin Unsqueeze Unsqueeze Slice Slice Neg Concat Mul Mul Add"},
		{"angles that differ", "x float32[batch,2,n,4]", "e float32[batch,n,4]", `
			c3 = Cos(e)
			s3 = Sin(e)
			c = Unsqueeze(c3, heads)
			s = Unsqueeze(s3, heads)` + turned + "y = Add(a, b)", "Cos Sin Unsqueeze Unsqueeze Slice Slice Neg Concat Mul Mul Add"},
	} {
		t.Run(c.name, func(t *testing.T) {
			output := "y float32[batch,2,n,4]"
			if c.name == "a part of each head" {
				output = "y float32[batch,2,n,7]"
			}
			passCase{inputs: []string{c.x, c.f}, outputs: []string{output}, constants: constants, nodes: attentionSteps(t, c.nodes), want: c.want}.run(t)
		})
	}
}
