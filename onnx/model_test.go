package onnx

import (
	"reflect"
	"testing"
)

func TestAccessors(t *testing.T) {
	weight := NewTensor("w", Float32, []int64{0}, nil)
	n := &Node{
		OpType:  "Gemm",
		Domain:  "ai.onnx",
		Inputs:  []string{"x", "", "b"},
		Outputs: []string{"y"},
		Attributes: []*Attribute{
			IntAttribute("transB", 1), FloatAttribute("alpha", 0.5), StringAttribute("mode", "linear"), IntsAttribute("perm", 1, 0),
		},
	}
	gelu := &Function{Name: "Gelu", Domain: "my.domain", Overload: "tanh", OpsetImports: []OpsetImport{{Version: 18}}}
	m := &Model{OpsetImports: []OpsetImport{{Domain: "ai.onnx", Version: 17}}, Functions: []*Function{gelu}}
	g := &Graph{Initializers: []*Tensor{weight}}
	call := func(overload string) *Node { return &Node{OpType: "Gelu", Domain: "my.domain", Overload: overload} }
	imported := func(_ int64, ok bool) bool { return ok }
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"an integer", n.Int("transB", 0), int64(1)},
		{"no integer", n.Int("transA", 7), int64(7)},
		{"an integer of another type", n.Int("alpha", 7), int64(7)},
		{"a float", n.Float("alpha", 1), float32(0.5)},
		{"no float", n.Float("beta", 1), float32(1)},
		{"a string", n.String("mode", ""), "linear"},
		{"no string", n.String("other", "nearest"), "nearest"},
		{"integers", n.Ints("perm"), []int64{1, 0}},
		{"no integers", n.Ints("axes"), []int64(nil)},
		{"an input", n.Input(2), "b"},
		{"an absent input", n.Input(1), ""},
		{"an input too many", n.Input(3), ""},
		{"an output", n.Output(0), "y"},
		{"an output too many", n.Output(1), ""},
		{"the operator", n.Is("Gemm"), true},
		{"another domain's operator", call("").Is("Gelu"), false},
		{"an initializer", g.Initializer("w"), weight},
		{"no initializer", g.Initializer("x"), (*Tensor)(nil)},
		{"the model's opset", must(m.OpsetVersion("")), int64(17)},
		{"the function's opset", must(gelu.OpsetVersion("ai.onnx")), int64(18)},
		{"no opset", imported(m.OpsetVersion("other")), false},
		{"the called function", m.Function(call("tanh")), gelu},
		{"another overload", m.Function(call("erf")), (*Function)(nil)},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %v, not %v", c.what, c.got, c.want)
		}
	}
}

func TestDataTypes(t *testing.T) {
	for _, c := range []struct {
		t     DataType
		name  string
		valid bool
		float bool
		bytes int64 // of five elements, -1 when unknown
	}{
		{Float32, "float32", true, true, 20},
		{BFloat16, "bfloat16", true, true, 10},
		{Complex128, "complex128", true, false, 80},
		{Bool, "bool", true, false, 5},
		{Float6E2M3, "float6e2m3", true, true, 4},
		{Int4, "int4", true, false, 3},
		{Uint2, "uint2", true, false, 2},
		{String, "string", true, false, -1},
		{Undefined, "undefined", false, false, -1},
		{-1, "DataType(-1)", false, false, -1},
		{99, "DataType(99)", false, false, -1},
	} {
		size, err := c.t.ByteSize(5)
		if err != nil {
			size = -1
		}
		if c.t.String() != c.name || c.t.Valid() != c.valid || c.t.IsFloat() != c.float || size != c.bytes {
			t.Errorf("%d: %s, valid %v, float %v, %d bytes", int32(c.t), c.t, c.t.Valid(), c.t.IsFloat(), size)
		}
	}
}
