package runtime_test

import (
	"math"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// attentionSteps makes nodes from lines; what is behind a semicolon is the
// permutation of a Transpose, or the axis of any other node.
func attentionSteps(t *testing.T, text string) (list []*onnx.Node) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		step, numbers, _ := strings.Cut(line, ";")
		if strings.TrimSpace(step) == "" {
			continue
		}
		n := steps(t, step)[0]
		var values []int64
		for _, c := range strings.TrimSpace(numbers) {
			values = append(values, int64(c-'0'))
		}
		switch {
		case n.OpType == "Transpose":
			n.Attributes = append(n.Attributes, onnx.IntsAttribute("perm", values...))
		case values != nil:
			n.Attributes = append(n.Attributes, onnx.IntAttribute("axis", values[0]))
		}
		list = append(list, n)
	}
	return list
}

func TestRecogniseAttention(t *testing.T) {
	constants := scalars(map[string]float32{"scale": 0.5, "root": 1.4, "two": 2, "zero": 0, "low": -math.MaxFloat32, "low10000": -10000, "inf": float32(math.Inf(-1))})
	constants["split"] = tensor.FromSlice([]int64{0, 0, 2, 4})
	constants["join"] = tensor.FromSlice([]int64{0, 0, 8})
	constants["first"], constants["step"] = tensor.Scalar(int64(0)), tensor.Scalar(int64(1))
	constants["axis0"], constants["axis1"] = tensor.FromSlice([]int64{0}), tensor.FromSlice([]int64{1})
	constants["opened"] = tensor.FromSlice([]int64{2})
	constants["many"] = tensor.FromSlice([]int64{1, 1, 3, 1, 1})
	constants["repeated"] = tensor.FromSlice([]int64{0, 6, -1, 4})
	constants["causal"] = tensor.New(onnx.Float32, 5, 5)
	for i := range 25 {
		if i%5 > i/5 {
			tensor.Of[float32](constants["causal"])[i] = float32(math.Inf(-1))
		}
	}
	const heads = `
		r1 = Reshape(x, split)
		q = Transpose(r1);0213
		r2 = Reshape(u, split)
		k = Transpose(r2);0231
		r3 = Reshape(w, split)
		v = Transpose(r3);0213
	`
	flat := []string{"x float32[batch,n,8]", "u float32[batch,n,8]", "w float32[batch,n,8]", "m float32[batch,1,1,n]", "b bool[n,n]"}
	first := []string{"q float32[batch,6,n,4]", "kt float32[batch,2,n,4]", "v float32[batch,2,n,4]"}
	for _, c := range []struct {
		name          string
		inputs        []string
		output        string
		nodes, wanted string
	}{
		{"of PyTorch's exporters", flat, "y float32[batch,n,8]", heads + `s = MatMul(q, k)
			d = Div(s, two)
			a = Add(d, m)
			p = Softmax(a);3
			o = MatMul(p, v)
			t = Transpose(o);0213
			y = Reshape(t, join)`, "Attention"},
		{"scale on both sides", flat, "y float32[batch,2,n,4]", heads + `q2 = Mul(q, root)
			k2 = Mul(k, root)
			s = MatMul(q2, k2)
			p = Softmax(s);3
			y = MatMul(p, v)`, "Reshape Transpose Attention"},
		{"two masks", flat, "y float32[batch,n,2,4]", heads + `s = MatMul(q, k)
			a = Add(m, s)
			c = Add(a, causal)
			p = Softmax(c);3
			o = MatMul(p, v)
			y = Transpose(o);0213`, "Add Attention Reshape"},
		{"lowest number where masked", flat, "y float32[batch,n,8]", heads + `s = MatMul(q, k)
			d = Mul(s, scale)
			a = Where(b, d, low)
			p = Softmax(a);3
			o = MatMul(p, v)
			t = Transpose(o);0213
			y = Reshape(t, join)`, "Where Attention"},
		{"number that softmax sees", flat, "y float32[batch,2,n,4]", heads + `s = MatMul(q, k)
			a = Where(b, s, low10000)
			p = Softmax(a);3
			y = MatMul(p, v)`, "Reshape Transpose Reshape Transpose Reshape Transpose MatMul Where Softmax MatMul"},
		{"causal", flat, "y float32[batch,n,8]", heads + `size = Shape(b)
			count = Gather(size, first)
			range = Range(first, count, step)
			keys = Unsqueeze(range, axis0)
			queries = Unsqueeze(range, axis1)
			later = Greater(keys, queries)
			s = MatMul(q, k)
			a = Where(later, low10000, s)
			p = Softmax(a);3
			o = MatMul(p, v)
			t = Transpose(o);0213
			y = Reshape(t, join)`, "Attention"},
		{"causal the other way around", flat, "y float32[batch,2,n,4]", heads + `size = Shape(b)
			count = Gather(size, first)
			range = Range(first, count, step)
			keys = Unsqueeze(range, axis0)
			queries = Unsqueeze(range, axis1)
			later = Greater(queries, keys)
			s = MatMul(q, k)
			a = Where(later, low10000, s)
			p = Softmax(a);3
			y = MatMul(p, v)`, "Reshape Transpose Reshape Transpose Reshape Transpose Shape Gather Range Unsqueeze Unsqueeze Greater MatMul Where Softmax MatMul"},
		{"condition expanded to the scores", flat, "y float32[batch,n,8]", heads + `s = MatMul(q, k)
			size = Shape(s)
			e = Expand(b, size)
			a = Where(e, inf, s)
			p = Softmax(a);3
			o = MatMul(p, v)
			t = Transpose(o);0213
			y = Reshape(t, join)`, "Where Attention"},
		{"mask scaled too", flat, "y float32[batch,2,n,4]", heads + `s = MatMul(q, k)
			a = Add(s, m)
			d = Mul(a, scale)
			p = Softmax(d);3
			y = MatMul(p, v)`, "Reshape Transpose Reshape Transpose Reshape Transpose MatMul Add Mul Softmax MatMul"},
		{"softmax over queries", flat, "y float32[batch,2,n,4]", heads + `s = MatMul(q, k)
			p = Softmax(s);2
			y = MatMul(p, v)`, "Reshape Transpose Reshape Transpose Reshape Transpose MatMul Softmax MatMul"},
		{"grouped queries", first, "y float32[batch,6,n,4]", `
			k1 = Unsqueeze(kt, opened)
			k2 = Expand(k1, many)
			k3 = Reshape(k2, repeated)
			v1 = Unsqueeze(v, opened)
			v2 = Expand(v1, many)
			v3 = Reshape(v2, repeated)
			k = Transpose(k3);0132
			s = MatMul(q, k)
			d = Mul(scale, s)
			p = Softmax(d);3
			y = MatMul(p, v3)`, "Attention"},
	} {
		t.Run(c.name, func(t *testing.T) {
			passCase{inputs: c.inputs, outputs: []string{c.output}, constants: constants, nodes: attentionSteps(t, c.nodes), want: c.wanted}.run(t)
		})
	}
}

// What appends to caches of keys and values becomes a part of the attention.
func TestRecogniseCachedAttention(t *testing.T) {
	constants := map[string]*tensor.Tensor{"split": tensor.FromSlice([]int64{0, 0, 2, 4})}
	passCase{
		inputs:    []string{"q float32[batch,2,n,4]", "x float32[batch,n,8]", "v float32[batch,2,n,4]", "pk float32[batch,2,old,4]", "pv float32[batch,2,old,4]"},
		outputs:   []string{"y float32[batch,2,n,4]", "nk float32[batch,2,all,4]", "nv float32[batch,2,all,4]"},
		constants: constants,
		nodes: attentionSteps(t, `r = Reshape(x, split)
			k = Transpose(r);0213
			nk = Concat(pk, k);2
			nv = Concat(pv, v);2
			kt = Transpose(nk);0132
			s = MatMul(q, kt)
			p = Softmax(s);3
			y = MatMul(p, nv)`),
		want: "Attention",
	}.run(t)
}
