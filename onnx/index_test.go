package onnx

import (
	"errors"
	"reflect"
	"slices"
	"testing"
)

// nestedModel has a Loop whose body has an If; both use values of the main
// graph, and shadow one.
func nestedModel() *Graph {
	then := &Graph{
		Name:    "then",
		Nodes:   []*Node{{Name: "deep", OpType: "Add", Inputs: []string{"w", "local"}, Outputs: []string{"sum"}}},
		Outputs: []*ValueInfo{{Name: "sum"}},
	}
	otherwise := &Graph{Name: "else", Outputs: []*ValueInfo{{Name: "h"}}}
	body := &Graph{
		Name:         "body",
		Inputs:       []*ValueInfo{{Name: "i"}, {Name: "x"}},
		Initializers: []*Tensor{{Name: "local"}},
		Nodes: []*Node{
			{Name: "if", OpType: "If", Inputs: []string{"i"}, Outputs: []string{"r"}, Attributes: []*Attribute{GraphAttribute("then_branch", then), GraphAttribute("else_branch", otherwise)}},
			{Name: "use_x", OpType: "Neg", Inputs: []string{"x"}, Outputs: []string{"nx"}},
		},
		Outputs: []*ValueInfo{{Name: "r"}},
	}
	return &Graph{
		Name:         "main",
		Inputs:       []*ValueInfo{{Name: "x"}, {Name: "w"}},
		Initializers: []*Tensor{{Name: "w"}},
		Nodes: []*Node{
			{Name: "first", OpType: "Mul", Inputs: []string{"x", "x"}, Outputs: []string{"h"}},
			{Name: "loop", OpType: "Loop", Inputs: []string{"", "x"}, Outputs: []string{"y"}, Attributes: []*Attribute{GraphAttribute("body", body)}},
		},
		Outputs: []*ValueInfo{{Name: "y"}},
	}
}

func TestIndex(t *testing.T) {
	g := nestedModel()
	first, loop := g.Nodes[0], g.Nodes[1]
	x := NewIndex(g)
	for _, c := range []struct {
		value         string
		producer      *Node
		consumers     []Use
		initializer   *Tensor
		input, output bool
	}{
		{value: "x", consumers: []Use{{first, 0}, {first, 1}, {loop, 1}}, input: true},
		{value: "w", consumers: []Use{{loop, Captured}}, initializer: g.Initializers[0], input: true},
		{value: "h", producer: first, consumers: []Use{{loop, Captured}}},
		{value: "y", producer: loop, output: true},
		{value: "r"}, // of the body
		{value: "local"},
		{value: ""},
	} {
		if got := x.Producer(c.value); got != c.producer {
			t.Errorf("%q is produced by %v", c.value, got)
		}
		if got := x.Consumers(c.value); !slices.Equal(got, c.consumers) {
			t.Errorf("%q is used by %v, not %v", c.value, got, c.consumers)
		}
		if got := x.Initializer(c.value); got != c.initializer {
			t.Errorf("%q is the initializer %v", c.value, got)
		}
		if x.IsInput(c.value) != c.input || x.IsOutput(c.value) != c.output {
			t.Errorf("%q: input %v, output %v", c.value, x.IsInput(c.value), x.IsOutput(c.value))
		}
	}
	if use := x.Consumers("h")[0]; !use.Nested() || x.Consumers("x")[0].Nested() {
		t.Error("the wrong use is nested")
	}
}

func TestNewName(t *testing.T) {
	x := NewIndex(nestedModel())
	for _, c := range []struct{ got, want string }{
		{x.NewName("fresh"), "fresh"},
		{x.NewName("fresh"), "fresh_1"},
		{x.NewName("fresh"), "fresh_2"},
		{x.NewName("fresh_1"), "fresh_1_1"},
		{x.NewName("sum"), "sum_1"},     // an output in the innermost graph
		{x.NewName("local"), "local_1"}, // an initializer of the body
		{x.NewName(""), "_1"},
		{x.NewNodeName("deep"), "deep_1"},
		{x.NewNodeName("sum"), "sum"}, // nodes and values have names of their own
	} {
		if c.got != c.want {
			t.Errorf("%q, not %q", c.got, c.want)
		}
	}
}

func TestWalk(t *testing.T) {
	var names []string
	if err := nestedModel().Walk(func(g *Graph) error {
		names = append(names, g.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"main", "body", "then", "else"}; !slices.Equal(names, want) {
		t.Errorf("walked %q, not %q", names, want)
	}
	stop := errors.New("stop")
	count := 0
	err := nestedModel().Walk(func(g *Graph) error {
		count++
		if g.Name == "body" {
			return stop
		}
		return nil
	})
	if err != stop || count != 2 {
		t.Errorf("%v after %d graphs", err, count)
	}
}

// A clone is equal and shares nothing but elements of tensors: it looks at
// every pointer and slice of a model that has each field set.
func TestCloneSharesOnlyElements(t *testing.T) {
	m := decodeTestFile(t, "testdata/newer.onnx")
	clone := m.Clone()
	if !reflect.DeepEqual(m, clone) {
		t.Fatal("the clone differs")
	}
	seen := make(map[uintptr]string)
	allocated(reflect.ValueOf(m), "model", func(p uintptr, path string) { seen[p] = path })
	count := 0
	allocated(reflect.ValueOf(clone), "model", func(p uintptr, path string) {
		count++
		if original, shared := seen[p]; shared {
			t.Errorf("%s is %s of the original", path, original)
		}
	})
	if count < 250 {
		t.Errorf("only %d places were looked at", count)
	}
}

// allocated calls use for each place that v points to, but for tensors' storage.
func allocated(v reflect.Value, path string, use func(p uintptr, path string)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || v.Type() == reflect.TypeFor[*tensorStorage]() {
			return
		}
		use(v.Pointer(), path)
		allocated(v.Elem(), path, use)
	case reflect.Slice:
		if v.Cap() > 0 && v.Type().Elem().Size() > 0 {
			use(v.Pointer(), path)
		}
		for i := range v.Len() {
			allocated(v.Index(i), path+"[]", use)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			allocated(v.Field(i), path+"."+v.Type().Field(i).Name, use)
		}
	}
}

// A value that is used before it is computed has no producer.
func TestIndexOfCycle(t *testing.T) {
	loop := &Node{OpType: "Neg", Inputs: []string{"a"}, Outputs: []string{"a"}}
	early := &Node{OpType: "Neg", Inputs: []string{"late"}, Outputs: []string{"b"}}
	late := &Node{OpType: "Neg", Inputs: []string{"b"}, Outputs: []string{"late"}}
	x := NewIndex(&Graph{Nodes: []*Node{loop, early, late}})
	for value, want := range map[string]*Node{"a": nil, "b": early, "late": nil} {
		if got := x.Producer(value); got != want {
			t.Errorf("%q is made by %v, want %v", value, got, want)
		}
	}
}
