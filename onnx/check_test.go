package onnx

import (
	"strings"
	"testing"
)

// Each case breaks a model that is otherwise right in one way.
func TestCheckReports(t *testing.T) {
	for _, c := range []struct {
		name     string
		damage   func(m *Model)
		problems []string // parts of the error, in order
	}{
		{"nothing wrong", func(*Model) {}, nil},
		{"no graph", func(m *Model) { m.Graph = nil }, []string{"the model has no graph"}},
		{"no opset", func(m *Model) { m.OpsetImports = nil }, []string{"model: it imports no operator set"}},
		{"a domain twice", func(m *Model) { m.OpsetImports = append(m.OpsetImports, OpsetImport{Domain: "ai.onnx", Version: 18}) }, []string{`the operator domain "ai.onnx" twice`}},
		{"version 0", func(m *Model) { m.OpsetImports[0].Version = 0 }, []string{"versions start at 1"}},
		{"a domain that is not imported", func(m *Model) { m.Graph.Nodes[0].Domain = "other" }, []string{`graph "main": node "a" (Add)`, `domain "other"`}},
		{"no operator", func(m *Model) { m.Graph.Nodes[0].OpType = "" }, []string{`node "a" ()`, "no operator"}},
		{"an input that nothing gives", func(m *Model) { m.Graph.Nodes[0].Inputs[1] = "nowhere" }, []string{`node "a" (Add)`, `no value "nowhere" for its input 1`}},
		{"an unnamed node", func(m *Model) { m.Graph.Nodes[0].Name, m.Graph.Nodes[0].Inputs[0] = "", "nowhere" }, []string{"node 0 (Add)"}},
		{"an absent input", func(m *Model) { m.Graph.Nodes[0].Inputs[1] = "" }, nil},
		{"nodes in the wrong order", func(m *Model) { n := m.Graph.Nodes; n[0], n[1] = n[1], n[0] }, []string{`graph "main": node "b" (Softmax): its input 0, "y", is produced by a later node, node "a" (Add)`}},
		{"a cycle", func(m *Model) { m.Graph.Nodes[0].Inputs[0] = "z" }, []string{`in a cycle: node "a" (Add) → node "b" (Softmax) → node "a" (Add)`}},
		{"a node that uses itself", func(m *Model) { m.Graph.Nodes[1].Inputs[0] = "z" }, []string{`in a cycle: node "b" (Softmax) → node "b" (Softmax)`}},
		{"two inputs of a name", func(m *Model) { m.Graph.Inputs = append(m.Graph.Inputs, &ValueInfo{Name: "x"}) }, []string{`two inputs "x"`}},
		{"an unnamed input", func(m *Model) { m.Graph.Inputs = append(m.Graph.Inputs, &ValueInfo{}) }, []string{"input 1 has no name"}},
		{"an input with a default", func(m *Model) { m.Graph.Inputs = append(m.Graph.Inputs, &ValueInfo{Name: "w"}) }, nil},
		{"two initializers of a name", func(m *Model) { m.Graph.Initializers = append(m.Graph.Initializers, m.Graph.Initializers[0]) }, []string{`two initializers "w"`}},
		{"an output of an input's name", func(m *Model) { m.Graph.Nodes[1].Outputs[0] = "x" }, []string{`node "b" (Softmax): its output "x" has the name of another value`, `output 0, "z", is produced by no node`}},
		{"an output that nothing gives", func(m *Model) { m.Graph.Outputs[0].Name = "nowhere" }, []string{`graph "main": output 0, "nowhere", is produced by no node`}},
		{"an initializer of the wrong size", func(m *Model) { m.Graph.Initializers[0].Dims[0] = 3 }, []string{`initializer tensor "w": it has 8 bytes of data, its type and dims take 12`}},
		{"a negative dimension", func(m *Model) { m.Graph.Initializers[0].Dims[0] = -2 }, []string{`tensor "w": negative dimension in [-2]`}},
		{"an unknown element type", func(m *Model) { m.Graph.Initializers[0].DataType = 99 }, []string{`tensor "w": its element type, DataType(99), is not known`}},
		{"too few strings", func(m *Model) { m.Graph.Initializers[0] = &Tensor{Name: "w", DataType: String, Dims: []int64{2}} }, []string{"it has 0 strings, its dims take 2"}},
		{"a sparse initializer without indices", func(m *Model) { m.Graph.SparseInitializers = []*SparseTensor{{}} }, []string{"sparse initializer 0: it lacks its values"}},
		{"a constant of the wrong size", func(m *Model) {
			m.Graph.Nodes[0].Attributes = []*Attribute{TensorAttribute("value", NewTensor("c", Int64, nil, nil))}
		}, []string{`node "a" (Add): attribute "value" has a bad tensor "c": it has 0 bytes`}},
		{"two attributes of a name", func(m *Model) { n := m.Graph.Nodes[1]; n.Attributes = append(n.Attributes, n.Attributes[0]) }, []string{`two attributes "axis"`}},
		{"an attribute without value", func(m *Model) { m.Graph.Nodes[1].Attributes[0].Type = AttributeTensor }, []string{`attribute "axis" has the type TENSOR, but no value`}},
		{"an attribute without type", func(m *Model) { m.Graph.Nodes[1].Attributes[0].Type = AttributeUndefined }, []string{`attribute "axis" has no type`}},
		{"an attribute of another type", func(m *Model) { m.Graph.Nodes[1].Attributes[0].Graph = &Graph{} }, []string{`attribute "axis" has the type INT, but a value of type GRAPH`}},
		{"a reference in the main graph", func(m *Model) { m.Graph.Nodes[1].Attributes[0].RefName = "k" }, []string{`attribute "axis" refers to the attribute "k", which only a node in a function can do`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := smallModel()
			c.damage(m)
			wantProblems(t, Check(m), c.problems)
		})
	}
}

// wantProblems fails unless the error has exactly the parts, one after
// another, or there is none for none.
func wantProblems(t *testing.T, err error, parts []string) {
	t.Helper()
	if len(parts) == 0 {
		if err != nil {
			t.Errorf("error %v", err)
		}
		return
	}
	if err == nil {
		t.Fatalf("no error, not one with %q", parts)
	}
	rest := err.Error()
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Errorf("error %q, not one with %q", err, parts)
			return
		}
		rest = after
	}
}

// branches makes a model with an If whose branches are made of these nodes.
func branches(then, otherwise *Graph, after ...*Node) *Model {
	return &Model{IRVersion: 8, OpsetImports: []OpsetImport{{Version: 17}}, Graph: &Graph{
		Name:   "main",
		Inputs: []*ValueInfo{{Name: "cond"}, {Name: "x"}},
		Nodes: append([]*Node{{Name: "if", OpType: "If", Inputs: []string{"cond"}, Outputs: []string{"y"},
			Attributes: []*Attribute{GraphAttribute("then_branch", then), GraphAttribute("else_branch", otherwise)}}}, after...),
		Outputs: []*ValueInfo{{Name: "y"}},
	}}
}

func branch(in, out string) *Graph {
	return &Graph{Name: "branch", Nodes: []*Node{{Name: "inner", OpType: "Neg", Inputs: []string{in}, Outputs: []string{out}}}, Outputs: []*ValueInfo{{Name: out}}}
}

func TestCheckNestedGraphs(t *testing.T) {
	after := &Node{Name: "after", OpType: "Neg", Inputs: []string{"y"}, Outputs: []string{"late"}}
	for _, c := range []struct {
		name     string
		model    *Model
		problems []string
	}{
		{"branches that capture and share a name", branches(branch("x", "out"), branch("x", "out")), nil},
		{"a capture that nothing gives", branches(branch("x", "a"), branch("nowhere", "b")), []string{`graph "main": node "if" (If): else_branch: graph "branch": node "inner" (Neg): there is no value "nowhere"`}},
		{"a name of the graph around", branches(branch("x", "x"), branch("x", "b")), []string{`node "inner" (Neg): its output "x" has the name of another value`}},
		{"a captured value that depends on the If", branches(branch("late", "a"), branch("x", "b"), after), []string{`graph "main": nodes depend on one another in a cycle: node "if" (If) → node "after" (Neg) → node "if" (If)`}},
		{"a capture from a later node", branches(branch("late", "a"), branch("x", "b"), &Node{Name: "after", OpType: "Neg", Inputs: []string{"x"}, Outputs: []string{"late"}}), []string{`node "inner" (Neg): its input 0, "late", is produced by a later node, node "after" (Neg)`}},
	} {
		t.Run(c.name, func(t *testing.T) { wantProblems(t, Check(c.model), c.problems) })
	}
}

// calling makes a function of that name that calls others.
func calling(name string, callees ...string) *Function {
	f := &Function{Name: name, Domain: "my.domain", Inputs: []string{"x"}, OpsetImports: []OpsetImport{{Domain: "my.domain", Version: 1}}}
	last := "x"
	for _, callee := range callees {
		f.Nodes = append(f.Nodes, &Node{Domain: "my.domain", OpType: callee, Inputs: []string{last}, Outputs: []string{last + "'"}})
		last += "'"
	}
	f.Outputs = []string{last}
	return f
}

func TestCheckFunctions(t *testing.T) {
	var chain []*Function
	for i := range 150 {
		chain = append(chain, calling(strings.Repeat("f", i+1), strings.Repeat("f", i+2)))
	}
	body := func(change func(f *Function)) []*Function {
		f := calling("f", "g")
		change(f)
		return []*Function{f}
	}
	for _, c := range []struct {
		name      string
		functions []*Function
		problems  []string
	}{
		{"calls without cycle", []*Function{calling("f", "g", "h"), calling("g", "h"), calling("h")}, nil},
		{"a function that calls itself", []*Function{calling("f", "f")}, []string{"my.domain::f: the function calls itself: my.domain::f calls my.domain::f"}},
		{"two that call each other", []*Function{calling("f", "g"), calling("g", "f")}, []string{"my.domain::f calls my.domain::g calls my.domain::f"}},
		{"calls nested too deep", chain, []string{"nest more than 100 deep"}},
		{"two of a name", []*Function{calling("f"), calling("f")}, []string{"my.domain::f: there are two such functions"}},
		{"overloads", []*Function{calling("f"), {Name: "f", Domain: "my.domain", Overload: "second"}}, nil},
		{"no name", []*Function{calling("")}, []string{"the function has no name"}},
		{"a value of the main graph", body(func(f *Function) { f.Nodes[0].Inputs[0] = "w" }), []string{`function my.domain::f: node 0 (g): there is no value "w"`}},
		{"an output that nothing gives", body(func(f *Function) { f.Outputs[0] = "nowhere" }), []string{`function my.domain::f: output "nowhere" is produced by no node`}},
		{"a domain of the model only", body(func(f *Function) { f.OpsetImports = nil }), []string{`function my.domain::f: node 0 (g): no version of its operator domain "my.domain"`}},
		{"two inputs of a name", body(func(f *Function) { f.Inputs = []string{"x", "x"} }), []string{`two inputs "x"`}},
		{"an attribute that it has", body(func(f *Function) {
			f.Attributes, f.Nodes[0].Attributes = []string{"k"}, []*Attribute{{Name: "axis", Type: AttributeInt, RefName: "k"}}
		}), nil},
		{"an attribute with default", body(func(f *Function) {
			f.AttributeDefaults, f.Nodes[0].Attributes = []*Attribute{IntAttribute("k", 1)}, []*Attribute{{Name: "axis", Type: AttributeInt, RefName: "k"}}
		}), nil},
		{"an attribute that it has not", body(func(f *Function) {
			f.Nodes[0].Attributes = []*Attribute{{Name: "axis", Type: AttributeInt, RefName: "k"}}
		}), []string{`attribute "axis" refers to the attribute "k", which the function does not have`}},
		{"an attribute twice", body(func(f *Function) {
			f.Attributes, f.AttributeDefaults = []string{"k"}, []*Attribute{IntAttribute("k", 1)}
		}), []string{`two attributes "k"`}},
		{"too many inputs for a call", body(func(f *Function) { f.Domain, f.Name, f.Inputs = "my.domain", "Softmax", nil }), []string{"it has 1 inputs and 1 outputs, the function that it calls 0 and 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := smallModel()
			m.Functions = c.functions
			wantProblems(t, Check(m), c.problems)
		})
	}
	m := smallModel()
	m.IRVersion, m.Functions = 7, []*Function{calling("f")}
	wantProblems(t, Check(m), []string{"IR version 8 or newer, not 7"})
}

func TestCheckSparseTensors(t *testing.T) {
	good := func() *SparseTensor {
		return &SparseTensor{
			Values:  NewTensor("v", Uint8, []int64{2}, []byte{1, 2}),
			Indices: NewTensor("i", Int64, []int64{2, 3}, make([]byte, 48)),
			Dims:    []int64{4, 4, 4},
		}
	}
	for _, c := range []struct {
		name   string
		damage func(s *SparseTensor)
		want   []string
	}{
		{"coordinates", func(*SparseTensor) {}, nil},
		{"offsets", func(s *SparseTensor) { s.Indices = NewTensor("i", Int64, []int64{2}, make([]byte, 16)) }, nil},
		{"values of the wrong size", func(s *SparseTensor) { s.Values.Dims[0] = 3 }, []string{`values: tensor "v": it has 2 bytes`}},
		{"indices of the wrong size", func(s *SparseTensor) { s.Indices.Dims[0] = 3 }, []string{`indices: tensor "i": it has 48 bytes`}},
		{"indices that are not integers", func(s *SparseTensor) { s.Indices.DataType = Float64 }, []string{"its indices are of type float64, not int64"}},
		{"too few indices", func(s *SparseTensor) { s.Indices = NewTensor("i", Int64, []int64{1, 3}, make([]byte, 24)) }, []string{"indices have the dims [1 3], for 2 values in 3 dimensions"}},
		{"a matrix of values", func(s *SparseTensor) { s.Values.Dims = []int64{1, 2} }, []string{"its values have the dims [1 2]"}},
		{"a negative dimension", func(s *SparseTensor) { s.Dims[0] = -4 }, []string{"negative dimension"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good()
			c.damage(s)
			m := smallModel()
			m.Graph.Nodes[0].Attributes = []*Attribute{{Name: "value", Type: AttributeSparseTensor, SparseTensor: s}}
			wantProblems(t, Check(m), c.want)
		})
	}
}

func TestCheckStopsListing(t *testing.T) {
	m := smallModel()
	for range 250 {
		m.Graph.Nodes = append(m.Graph.Nodes, &Node{OpType: "Neg", Inputs: []string{"nowhere"}})
	}
	err := Check(m)
	wantProblems(t, err, []string{"nowhere", "and 150 problems more"})
	if lines := strings.Count(err.Error(), "\n"); lines != 100 {
		t.Errorf("%d lines", lines+1)
	}
}
