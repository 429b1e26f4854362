package cpu

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// einsumReference computes an equation by its definition: a sum over every
// value of every index.
func einsumReference(e *op.Equation, in []*tensor.Tensor) []float64 {
	lengths := make([]int, e.Indices)
	for i := range lengths {
		lengths[i] = 1
	}
	values := make([][]float64, len(in))
	for i, x := range in {
		values[i] = floats(x)
		for axis, index := range e.Inputs[i] {
			if x.Shape[axis] != 1 {
				lengths[index] = x.Shape[axis]
			}
		}
	}
	shape := pick(lengths, e.Output)
	out := make([]float64, tensor.Count(shape))
	indices(lengths, func(at []int) {
		term := 1.0
		for i, x := range in {
			term *= elementAt(values[i], x.Shape, pick(at, e.Inputs[i]))
		}
		place := 0
		for i, index := range pick(at, e.Output) {
			place = place*shape[i] + index
		}
		out[place] += term
	})
	return out
}

func pick(from, which []int) []int {
	list := make([]int, len(which))
	for i, w := range which {
		list[i] = from[w]
	}
	return list
}

func TestEinsum(t *testing.T) {
	for _, c := range []struct {
		equation string
		shapes   [][]int
	}{
		{"ij,jk->ik", [][]int{{3, 4}, {4, 5}}},
		{"ij,jk->ki", [][]int{{3, 4}, {4, 5}}},
		{"ij,kj", [][]int{{3, 4}, {5, 4}}},                       // implicit output
		{"ba,ca", [][]int{{3, 4}, {5, 4}}},                       // implicit output, sorted
		{"bhid,bhjd->bhij", [][]int{{2, 3, 5, 4}, {2, 3, 6, 4}}}, // attention scores
		{"bihd,bjhd->bhij", [][]int{{2, 5, 3, 4}, {2, 6, 3, 4}}}, // heads not transposed
		{"bhij,bjhd->bihd", [][]int{{2, 3, 5, 6}, {2, 6, 3, 4}}},
		{"bij,bjk->bik", [][]int{{2, 3, 4}, {1, 4, 5}}}, // a batch of one
		{"...ij,...jk->...ik", [][]int{{2, 1, 3, 4}, {5, 4, 2}}},
		{"...a,ab->...b", [][]int{{2, 3, 4}, {4, 5}}},
		{"i...,...j->ij...", [][]int{{3, 2}, {2, 4}}},
		{"ijkl,lkm->mij", [][]int{{2, 3, 4, 5}, {5, 4, 6}}}, // inner indices in two orders
		{"ij,ij->", [][]int{{4, 5}, {4, 5}}},
		{"ij,ij->ij", [][]int{{4, 5}, {4, 5}}},
		{"ij,ij->j", [][]int{{4, 5}, {4, 5}}},
		{"i,j->ij", [][]int{{4}, {5}}},
		{"i,j->ji", [][]int{{4}, {5}}},
		{"ij,kl->ik", [][]int{{3, 4}, {5, 6}}}, // indices summed alone
		{",ij->ji", [][]int{{}, {3, 4}}},
		{"ii", [][]int{{4, 4}}},
		{"iij->ji", [][]int{{4, 4, 3}}},
		{"iji,j->i", [][]int{{4, 3, 4}, {3}}},
		{"ijk->", [][]int{{3, 4, 5}}},
		{"ijk->kij", [][]int{{3, 4, 5}}},
		{"ij,jk,kl->il", [][]int{{2, 3}, {3, 4}, {4, 5}}},
		{"a,b,c,d->dbca", [][]int{{2}, {3}, {4}, {5}}},
		{"ij,jk,ik->", [][]int{{2, 3}, {3, 4}, {2, 4}}},
		{"Ab,bA->Ab", [][]int{{3, 2}, {2, 3}}},
		{"ij,jk->ik", [][]int{{0, 4}, {4, 5}}},
		{"ij,jk->ik", [][]int{{3, 0}, {0, 5}}},
		{"ij->i", [][]int{{1, 1}}},
	} {
		t.Run(fmt.Sprint(c.equation, c.shapes), func(t *testing.T) {
			node := func() *onnx.Node {
				return &onnx.Node{OpType: "Einsum", Outputs: []string{"y"}, Attributes: []*onnx.Attribute{onnx.StringAttribute("equation", c.equation)}}
			}
			in, ranks := make([]*tensor.Tensor, len(c.shapes)), make([]int, len(c.shapes))
			for i, shape := range c.shapes {
				in[i], ranks[i] = random[float64](uint64(i), shape...), len(shape)
			}
			equation, err := op.ParseEquation(&op.Node{Node: node()}, ranks)
			if err != nil {
				t.Fatal(err)
			}
			want := einsumReference(equation, in)
			wantNear(t, "float64", compute(t, 1, false, node(), 12, in...)[0], want, 1e-14)
			narrow := as(onnx.Float32, in)
			one := compute(t, 1, false, node(), 12, narrow...)[0]
			wantNear(t, "float32", one, want, 1e-6)
			if many := compute(t, 3, false, node(), 12, narrow...)[0]; !bytes.Equal(one.Data, many.Data) {
				t.Error("three threads give other bits than one")
			}
		})
	}
}
