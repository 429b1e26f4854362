package op

import (
	"reflect"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// link is a node of a chain; its inputs are facts or the numbers of earlier
// nodes.
type link struct {
	op    string
	attrs []*onnx.Attribute
	in    []any
}

func inferChain(t *testing.T, links []link) Fact {
	t.Helper()
	symbols := &Symbols{last: S}
	var facts []Fact
	for _, l := range links {
		n := &onnx.Node{OpType: l.op, Attributes: l.attrs, Outputs: []string{"out"}}
		var in []Fact
		for _, x := range l.in {
			f, ok := x.(Fact)
			if !ok {
				f = facts[x.(int)]
			}
			in, n.Inputs = append(in, f), append(n.Inputs, "in")
		}
		node, err := Resolve(n, 28)
		if err != nil {
			t.Fatal(l.op, err)
		}
		out, err := Infer(node, in, symbols)
		if err != nil {
			t.Fatal(l.op, err)
		}
		facts = append(facts, out[0])
	}
	return facts[len(facts)-1]
}

// Shapes that exporters compute from others are known as far as those are.
func TestInferComputedShapes(t *testing.T) {
	x := shaped(B, S, 12)
	sizes := []link{
		{"Shape", nil, []any{x}},
		{"Gather", nil, []any{0, scalar(int64(0))}},
		{"Gather", nil, []any{0, scalar(int64(-2))}},
		{"Unsqueeze", nil, []any{1, int64s(0)}},
		{"Unsqueeze", nil, []any{2, int64s(0)}},
	}
	for _, c := range []struct {
		name  string
		links []link // 5 on
		want  []Dim
	}{
		{"split heads", []link{
			{"Concat", attribute(axis(0)), []any{3, 4, int64s(3, -1)}},
			{"Reshape", nil, []any{x, 5}}}, []Dim{B, S, 3, 4}},
		{"flat and back", []link{
			{"Reshape", nil, []any{x, int64s(-1, 12)}},
			{"Concat", attribute(axis(0)), []any{3, 4, int64s(12)}},
			{"Reshape", nil, []any{5, 6}}}, []Dim{B, S, 12}},
		{"flat and inferred", []link{
			{"Reshape", nil, []any{x, int64s(-1, 12)}},
			{"Concat", attribute(axis(0)), []any{3, int64s(-1, 12)}},
			{"Reshape", nil, []any{5, 6}}}, []Dim{B, S, 12}},
		{"expanded, with -1 for what stays", []link{
			{"Concat", attribute(axis(0)), []any{3, 4, int64s(12)}},
			{"Equal", nil, []any{5, int64s(-1, -1, -1)}},
			{"Where", nil, []any{6, int64s(1, 1, 1), 5}},
			{"Expand", nil, []any{shaped(B, 1, 12), 7}}}, []Dim{B, S, 12}},
		{"added to the first of a table", []link{
			{"Slice", nil, []any{shaped(1, 512, 12), int64s(0), 4, int64s(1)}},
			{"Add", nil, []any{x, 5}}}, []Dim{B, S, 12}},
		{"repeated for each text", []link{
			{"Concat", attribute(axis(0)), []any{3, int64s(1)}},
			{"Tile", nil, []any{shaped(1, S), 5}}}, []Dim{B, S}},
		{"half a dimension", []link{
			{"Gather", nil, []any{0, scalar(int64(2))}},
			{"Div", nil, []any{5, scalar(int64(2))}},
			{"Unsqueeze", nil, []any{6, int64s(0)}},
			{"Expand", nil, []any{shaped(1), 7}}}, []Dim{6}},
		{"positions behind a past", []link{
			{"Add", nil, []any{1, 2}},
			{"Range", nil, []any{1, 5, scalar(int64(1))}}}, []Dim{S}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := inferChain(t, append(sizes[:len(sizes):len(sizes)], c.links...)); !reflect.DeepEqual(got.Shape, c.want) {
				t.Errorf("shape %v, want %v", got.Shape, c.want)
			}
		})
	}
}

// Equal sums and products of symbols are one symbol, others are not.
func TestSymbols(t *testing.T) {
	s := &Symbols{last: S}
	if s.sum(B, S) != s.sum(S, B) || s.sum(B, S) == s.sum(B, 1) {
		t.Error("sums")
	}
	product := s.product(B, s.product(3, S))
	if product != s.product(s.product(S, B), 3) || product == s.product(B, S) {
		t.Error("products")
	}
	if d, ok := s.quotient([]Dim{product}, []Dim{S, 3}); !ok || d != B {
		t.Errorf("quotient %v, %v", d, ok)
	}
	if _, ok := s.quotient([]Dim{B}, []Dim{S}); ok {
		t.Error("a quotient of different symbols")
	}
	if d := s.product(1<<40, s.product(1<<40, B)); d.Known() && d != 1<<63-1 {
		t.Errorf("overflow gives %d", d)
	}
}
