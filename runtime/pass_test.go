package runtime_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// passCase is a model that passes rewrite, and the operators of what they make
// of it.
type passCase struct {
	name         string
	inputs       []string // such as "x float32[2,n]"; n is 5 when it runs
	outputs      []string
	constants    map[string]*tensor.Tensor
	nodes        []*onnx.Node
	want         string // operators, separated by spaces; chains between braces, if any are wanted
	opsetVersion int64  // 0 for 17
}

// run compiles the model with passes and without, compares the operators and
// the results on random inputs.
func (c passCase) run(t *testing.T) {
	t.Helper()
	m := model(t, c.inputs, c.outputs, c.constants, c.nodes...)
	m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: "com.microsoft", Version: 1})
	if c.opsetVersion > 0 {
		m.OpsetImports[0].Version = c.opsetVersion
	}
	plain, err := runtime.New(m, runtime.Options{Threads: 1, NoFusion: true})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	fused := open(t, m)
	operators := strings.Join(fused.NodeTypes(), " ")
	if !strings.Contains(c.want, "{") {
		operators = strings.NewReplacer("{", "", "}", "").Replace(operators)
	}
	if operators != c.want {
		t.Errorf("operators %s, want %s", operators, c.want)
	}
	random := rand.New(rand.NewPCG(1, 2))
	inputs := map[string]*tensor.Tensor{}
	for _, v := range plain.Inputs() {
		inputs[v.Name] = randomInput(random, v)
	}
	want, err := plain.Run(context.Background(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fused.Run(context.Background(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		if _, err := tensor.Compare(got[name], want[name], 1e-5, 1e-5); err != nil {
			t.Errorf("output %q %v", name, err)
		}
	}
}

func randomInput(random *rand.Rand, v *onnx.ValueInfo) *tensor.Tensor {
	shape := []int{}
	for _, d := range v.Type.Shape.Dims {
		n := 5
		if d.Known {
			n = int(d.Value)
		} else if d.Param == "batch" {
			n = 2
		}
		shape = append(shape, n)
	}
	x := tensor.New(v.Type.ElemType, shape...)
	switch x.Type {
	case onnx.Float32:
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(2 * random.NormFloat64())
		}
	case onnx.Int64:
		for i := range tensor.Of[int64](x) {
			tensor.Of[int64](x)[i] = random.Int64N(2)
		}
	case onnx.Bool:
		for i := range x.Data {
			x.Data[i] = byte(random.IntN(2))
		}
	}
	return x
}

// scalars makes constants of one element.
func scalars(list map[string]float32) map[string]*tensor.Tensor {
	out := map[string]*tensor.Tensor{}
	for name, x := range list {
		out[name] = tensor.Scalar(x)
	}
	return out
}

// steps makes nodes from lines such as "y = Op(a, b)"; "microsoft.Op" is an
// operator of ONNX Runtime's.
func steps(t testing.TB, text string) (list []*onnx.Node) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		n := node(t, line)
		if name, ok := strings.CutPrefix(n.OpType, "microsoft."); ok {
			n.Domain, n.OpType = "com.microsoft", name
		}
		list = append(list, n)
	}
	return list
}

// Passes rewrite the bodies of control flow, and keep what bodies capture.
func TestPassesInBodies(t *testing.T) {
	body := func(text, output string) *onnx.Graph {
		return &onnx.Graph{Name: output, Nodes: steps(t, text), Outputs: []*onnx.ValueInfo{value(t, output+" float32[n]")}}
	}
	branch := node(t, "y = If(c)",
		onnx.GraphAttribute("then_branch", body("s = Sigmoid(h)\na = Mul(h, s)", "a")),
		onnx.GraphAttribute("else_branch", body("b = Neg(h)", "b")))
	passCase{
		inputs: []string{"x float32[n]", "c bool[]"}, outputs: []string{"y float32[n]"},
		nodes: append(steps(t, "t = Sigmoid(x)\nh = Mul(t, x)"), branch),
		want:  "Swish If Swish Neg",
	}.run(t)
}

// Many thousands of nodes, among them chains in which everything is used
// several times, do not take the passes more than linear time.
func TestPassesAreLinear(t *testing.T) {
	var nodes []*onnx.Node
	last := "x"
	for range 20000 {
		next := fmt.Sprintf("v%d", len(nodes))
		nodes = append(nodes, node(t, next+" = Mul("+last+", "+last+")"))
		last = next
	}
	m := model(t, []string{"x float32[2]"}, []string{last + " float32[2]"}, nil, nodes...)
	open(t, m)
}
