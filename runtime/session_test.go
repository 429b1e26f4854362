package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// node makes a node from "y, z = Op(a, b)".
func node(t testing.TB, text string, attributes ...*onnx.Attribute) *onnx.Node {
	t.Helper()
	left, right, ok := strings.Cut(text, " = ")
	opType, inputs, ok2 := strings.Cut(strings.TrimSuffix(right, ")"), "(")
	if !ok || !ok2 {
		t.Fatalf("not a node: %s", text)
	}
	split := func(s string) []string {
		if s == "" {
			return nil
		}
		return strings.Split(s, ", ")
	}
	return &onnx.Node{Name: "make_" + left, OpType: opType, Inputs: split(inputs), Outputs: split(left), Attributes: attributes}
}

// value makes a declaration from "name float32[batch,4]".
func value(t testing.TB, text string) *onnx.ValueInfo {
	t.Helper()
	name, typ, _ := strings.Cut(text, " ")
	elem, dims, _ := strings.Cut(strings.TrimSuffix(typ, "]"), "[")
	types := map[string]onnx.DataType{"float32": onnx.Float32, "int64": onnx.Int64, "bool": onnx.Bool}
	v := &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: types[elem], Shape: &onnx.Shape{}}}
	for d := range strings.SplitSeq(dims, ",") {
		if d == "" {
			continue
		}
		dim := onnx.Dim{Param: d}
		if n, err := fmt.Sscanf(d, "%d", &dim.Value); n == 1 && err == nil {
			dim.Known, dim.Param = true, ""
		}
		v.Type.Shape.Dims = append(v.Type.Shape.Dims, dim)
	}
	return v
}

func model(t testing.TB, inputs, outputs []string, initializers map[string]*tensor.Tensor, nodes ...*onnx.Node) *onnx.Model {
	t.Helper()
	g := &onnx.Graph{Name: "test", Nodes: nodes}
	for _, s := range inputs {
		g.Inputs = append(g.Inputs, value(t, s))
	}
	for _, s := range outputs {
		g.Outputs = append(g.Outputs, value(t, s))
	}
	for name, v := range initializers {
		g.Initializers = append(g.Initializers, v.ToONNX(name))
	}
	return &onnx.Model{IRVersion: 8, OpsetImports: []onnx.OpsetImport{{Version: 17}}, Graph: g}
}

func open(t testing.TB, m *onnx.Model) *runtime.Session {
	t.Helper()
	s, err := runtime.New(m, runtime.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func floats(shape []int, v ...float32) *tensor.Tensor { return tensor.FromSlice(v, shape...) }

func wantTensor(t *testing.T, got, want *tensor.Tensor) {
	t.Helper()
	d, err := tensor.Compare(got, want, 1e-5, 1e-6)
	if err != nil {
		t.Fatal(err)
	}
	if d.Failures > 0 {
		t.Errorf("element %d is %v, want %v", d.Worst, d.Got, d.Want)
	}
}

// One session serves any shapes, one after the other and at the same time.
func TestRunManyShapes(t *testing.T) {
	m := model(t, []string{"x float32[n,m]"}, []string{"y float32[n,m]"}, nil,
		node(t, "a = Relu(x)"),
		node(t, "s = Shape(x)"),
		node(t, "flat = Reshape(a, minus1)"),
		node(t, "b = Add(flat, flat)"),
		node(t, "c = Reshape(b, s)", onnx.IntAttribute("allowzero", 1)),
		node(t, "y = Sub(c, x)"))
	m.Graph.Initializers = append(m.Graph.Initializers, tensor.FromSlice([]int64{-1}).ToONNX("minus1"))
	s := open(t, m)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			x := tensor.New(onnx.Float32, i%5, i%7)
			want := tensor.New(onnx.Float32, x.Shape...)
			for j := range tensor.Of[float32](x) {
				v := float32(r.NormFloat64())
				tensor.Of[float32](x)[j], tensor.Of[float32](want)[j] = v, 2*max(v, 0)-v
			}
			out, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x": x})
			if err != nil {
				t.Error(err)
				return
			}
			wantTensor(t, out["y"], want)
		})
	}
	wg.Wait()
}

func TestControlFlow(t *testing.T) {
	branch := func(outputs string, nodes ...*onnx.Node) *onnx.Graph {
		return &onnx.Graph{Name: "branch", Nodes: nodes, Outputs: []*onnx.ValueInfo{value(t, outputs)}}
	}
	twice := func(t *testing.T) *onnx.Graph { return branch("p float32[n]", node(t, "p = Add(h, h)")) }
	minus := func(t *testing.T) *onnx.Graph { return branch("q float32[n]", node(t, "q = Neg(h)")) }
	ifNode := func(t *testing.T, cond string) *onnx.Node {
		return node(t, "y = If("+cond+")", onnx.GraphAttribute("then_branch", twice(t)), onnx.GraphAttribute("else_branch", minus(t)))
	}
	x := floats([]int{2}, 1, -3)
	h := []float32{1, 0}
	tests := []struct {
		name  string
		model *onnx.Model
		more  map[string]*tensor.Tensor
		want  *tensor.Tensor
	}{
		{"if by input, taken", model(t, []string{"x float32[n]", "c bool[]"}, []string{"y float32[n]"}, nil,
			node(t, "h = Relu(x)"), ifNode(t, "c")),
			map[string]*tensor.Tensor{"c": tensor.Scalar(true)}, floats([]int{2}, 2*h[0], 2*h[1])},
		{"if by input, not taken", model(t, []string{"x float32[n]", "c bool[]"}, []string{"y float32[n]"}, nil,
			node(t, "h = Relu(x)"), ifNode(t, "c")),
			map[string]*tensor.Tensor{"c": tensor.Scalar(false)}, floats([]int{2}, -h[0], -h[1])},
		{"if by shape is decided when shapes are bound", model(t, []string{"x float32[n]"}, []string{"y float32[n]"},
			map[string]*tensor.Tensor{"two": tensor.FromSlice([]int64{2})},
			node(t, "h = Relu(x)"), node(t, "s = Shape(x)"), node(t, "c = Equal(s, two)"), ifNode(t, "c")),
			nil, floats([]int{2}, 2*h[0], 2*h[1])},
		{"loop doubles three times and keeps each step", model(t, []string{"x float32[n]"}, []string{"y float32[n]", "all float32[k,n]"},
			map[string]*tensor.Tensor{"three": tensor.Scalar(int64(3))},
			node(t, "y, all = Loop(three, , x)", onnx.GraphAttribute("body", &onnx.Graph{
				Inputs:  []*onnx.ValueInfo{value(t, "i int64[]"), value(t, "going bool[]"), value(t, "v float32[n]")},
				Outputs: []*onnx.ValueInfo{value(t, "going bool[]"), value(t, "w float32[n]"), value(t, "u float32[n]")},
				Nodes:   []*onnx.Node{node(t, "w = Add(v, v)"), node(t, "u = Add(w, x)")},
			}))),
			nil, floats([]int{2}, 8, -24)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inputs := map[string]*tensor.Tensor{"x": x}
			for k, v := range test.more {
				inputs[k] = v
			}
			for range 2 { // the second run uses the plan of the first
				out, err := open(t, test.model).Run(context.Background(), inputs)
				if err != nil {
					t.Fatal(err)
				}
				wantTensor(t, out["y"], test.want)
				if all := out["all"]; all != nil {
					wantTensor(t, all, floats([]int{3, 2}, 3, -9, 5, -15, 9, -27))
				}
			}
		})
	}
}

// Values whose shapes depend on content are planned while the model runs, and
// what follows them still comes out right.
func TestShapesFromContent(t *testing.T) {
	m := model(t, []string{"x float32[n]"}, []string{"y float32[k,1]"}, nil,
		node(t, "p = Relu(x)"), node(t, "i = NonZero(p)"), node(t, "rows = Transpose(i)"),
		node(t, "g = GatherND(p, rows)"), node(t, "d = Add(g, g)"), node(t, "y = Unsqueeze(d, one)"))
	m.Graph.Initializers = append(m.Graph.Initializers, tensor.FromSlice([]int64{1}).ToONNX("one"))
	s := open(t, m)
	for _, test := range []struct{ in, want *tensor.Tensor }{
		{floats([]int{4}, 1, -2, 3, 0), floats([]int{2, 1}, 2, 6)},
		{floats([]int{4}, -1, -2, -3, 0), floats([]int{0, 1})},
		{floats([]int{3}, 1, 2, 3), floats([]int{3, 1}, 2, 4, 6)},
	} {
		out, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x": test.in})
		if err != nil {
			t.Fatal(err)
		}
		wantTensor(t, out["y"], test.want)
	}
}

// Every node that cannot be run is listed at once.
func TestUnsupportedNodes(t *testing.T) {
	foreign := node(t, "a = Frobnicate(x)")
	foreign.Domain = "org.example"
	m := model(t, []string{"x float32[n]"}, []string{"y float32[n]"}, nil,
		foreign, node(t, "b = Relu(a)", onnx.IntAttribute("unheard_of", 1)), node(t, "c = NoSuchOperator(b)"), node(t, "y = Relu(c)"))
	m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: "org.example", Version: 3})
	_, err := runtime.New(m, runtime.Options{})
	var unsupported *runtime.UnsupportedError
	if !errors.As(err, &unsupported) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"org.example::Frobnicate version 3", `"make_b": attribute "unheard_of"`, "ai.onnx::NoSuchOperator version 17"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if len(unsupported.Nodes) != 3 {
		t.Errorf("%d nodes listed, want 3", len(unsupported.Nodes))
	}
}

func TestRunErrors(t *testing.T) {
	m := model(t, []string{"x float32[n,2]", "size int64[1]"}, []string{"y float32[m]"}, nil,
		node(t, "one = ConstantOfShape(size)"), node(t, "y = Add(one, one)"))
	s, err := runtime.New(m, runtime.Options{MaxMemory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	x, size := tensor.New(onnx.Float32, 1, 2), tensor.FromSlice([]int64{4})
	tests := []struct {
		name   string
		inputs map[string]*tensor.Tensor
		want   string
	}{
		{"missing input", map[string]*tensor.Tensor{"x": x}, `input "size" is missing`},
		{"unknown input", map[string]*tensor.Tensor{"x": x, "size": size, "z": x}, `there is no input "z"`},
		{"wrong type", map[string]*tensor.Tensor{"x": tensor.New(onnx.Int64, 1, 2), "size": size}, "is int64[1,2], the model needs float32[n,2]"},
		{"wrong shape", map[string]*tensor.Tensor{"x": tensor.New(onnx.Float32, 2, 3), "size": size}, "is float32[2,3], the model needs float32[n,2]"},
		{"too much memory", map[string]*tensor.Tensor{"x": x, "size": tensor.FromSlice([]int64{1 << 40})}, "memory limit"},
		{"negative size", map[string]*tensor.Tensor{"x": x, "size": tensor.FromSlice([]int64{-1})}, "negative"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.Run(context.Background(), test.inputs)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := s.Run(ctx, map[string]*tensor.Tensor{"x": x, "size": size}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
