package op

import (
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

func TestInferEinsum(t *testing.T) {
	for _, c := range []struct {
		equation string
		shapes   [][]Dim
		want     string
		fails    string
	}{
		{equation: "ij, jk -> ik", shapes: [][]Dim{{2, 3}, {3, 4}}, want: "[2,4]"},
		{equation: "bij,bjk", shapes: [][]Dim{{-1, 2, 3}, {-2, 3, 4}}, want: "[2,4]"},
		{equation: "ba", shapes: [][]Dim{{2, 3}}, want: "[3,2]"},
		{equation: "...ij->...ji", shapes: [][]Dim{{7, -1, 2, 3}}, want: "[7,?,3,2]"},
		{equation: "...,...", shapes: [][]Dim{{7, 1}, {4}}, want: "[7,4]"},
		{equation: "ii->", shapes: [][]Dim{{3, 3}}, want: "[]"},
		{equation: "", shapes: [][]Dim{{}}, want: "[]"},
		{equation: "ij,jk->ik", shapes: [][]Dim{nil, {3, 4}}, want: "[…]"},

		{equation: "ij,jk->ik", shapes: [][]Dim{{2, 3}}, fails: "2 operands"},
		{equation: "ij->i", shapes: [][]Dim{{2, 3, 4}}, fails: "rank 3"},
		{equation: "...ij->...", shapes: [][]Dim{{2}}, fails: "rank 1"},
		{equation: "ij,jk->ik", shapes: [][]Dim{{2, 3}, {5, 4}}, fails: "does not fit"},
		{equation: "ii->i", shapes: [][]Dim{{2, 3}}, fails: "does not fit"},
		{equation: "ij->ik", shapes: [][]Dim{{2, 3}}, fails: "in its output only"},
		{equation: "ij->ii", shapes: [][]Dim{{2, 3}}, fails: "twice"},
		{equation: "i1->i", shapes: [][]Dim{{2, 3}}, fails: "letters"},
		{equation: "......->...", shapes: [][]Dim{{2, 3, 4}}, fails: "ellips"},
		{equation: "...i->i", shapes: [][]Dim{{2, 3}}, fails: "lacks in its output"},
		{equation: "i->i->i", shapes: [][]Dim{{2}}, fails: "letters"},
		{equation: strings.Repeat("i", 200), shapes: [][]Dim{{2}}, fails: "too many"},
	} {
		t.Run(c.equation, func(t *testing.T) {
			n := &onnx.Node{OpType: "Einsum", Attributes: []*onnx.Attribute{onnx.StringAttribute("equation", c.equation)}, Outputs: []string{"y"}}
			facts := make([]Fact, len(c.shapes))
			for i, shape := range c.shapes {
				n.Inputs, facts[i] = append(n.Inputs, "x"), Fact{Type: onnx.Float32, Shape: shape}
			}
			node, err := Resolve(n, 12)
			if err != nil {
				t.Fatal(err)
			}
			out, err := Infer(node, facts, &Symbols{last: -100})
			switch {
			case c.fails != "":
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v, want one with %q", err, c.fails)
				}
			case err != nil:
				t.Error(err)
			case FormatDims(out[0].Shape) != c.want:
				t.Errorf("shape %s, want %s", FormatDims(out[0].Shape), c.want)
			}
		})
	}
}
