package runtime_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestGradients(t *testing.T) {
	devicetest.Gradients(t, runtime.Options{Threads: 2}, devicetest.GradientCases)
}

// TestGradientTypes leaves a case out whose mask 16 bits do not hold.
func TestGradientTypes(t *testing.T) {
	cases := slices.DeleteFunc(slices.Clone(devicetest.GradientCases), func(c devicetest.GradientCase) bool {
		return c.Name == "Attention/a query that sees no key"
	})
	devicetest.GradientTypes(t, runtime.Options{Threads: 1}, cases)
}

// refused is the reason of operators whose Gradient says what to do instead.
const refused = "it is refused with advice"

// withoutGradient are the operators that have none, by the reason.
var withoutGradient = map[string][]string{
	"its output is not of real numbers": {
		"And", "ArgMax", "ArgMin", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Equal", "Greater",
		"GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "Not", "Or", "Shape", "Size", "Xor",
	},
	"its inputs are integers or shapes": {
		"BlackmanWindow", "Constant", "ConstantOfShape", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range",
	},
	"it is random": {
		"RandomNormal", "RandomUniform",
	},
	refused: {
		"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
		"com.microsoft::MatMulNBits", "com.microsoft::QMoE", "com.microsoft::MoE",
	},
	"it is control flow": {
		"If", "Loop", "Scan",
	},
	"it fills caches of decoders": {
		"TensorScatter",
	},
	"only the compiler makes it": {
		"ai.fmoe::Chain", "ai.fmoe::Linear", "ai.fmoe::SumTo",
	},
	"it changes weights": {"ai.fmoe::AdamUpdate", "ai.fmoe::SumOfSquares"},
}

// TestGradientsAreComplete: every operator has a gradient, and a case that
// tests it, or a reason why it has none.
func TestGradientsAreComplete(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range devicetest.GradientCases {
		tested[operatorName(c.Domain, c.OpType)] = true
	}
	reasons := map[string]string{}
	for reason, list := range withoutGradient {
		for _, name := range list {
			reasons[name] = reason
		}
	}
	for _, o := range op.Operators() {
		name := operatorName(o.Domain, o.Name)
		reason := reasons[name]
		switch {
		case strings.HasSuffix(name, "Gradient"):
		case o.Gradient == nil && reason == "":
			t.Errorf("%s has no gradient", name)
		case o.Gradient != nil && reason != "" && reason != refused:
			t.Errorf("%s has a gradient, though %s", name, reason)
		case o.Gradient != nil && reason == "" && !tested[name] && !o.Nondeterministic:
			t.Errorf("no case tests the gradient of %s", name)
		}
	}
}

// TestRefusedGradients: errors say what to do about an operator that passes no
// gradient, and name a tensor that gradients are wanted for.
func TestRefusedGradients(t *testing.T) {
	weight, experts := tensor.New(onnx.Float32, 4, 4), tensor.New(onnx.Float32, 4, 4, 4)
	scale, zero := tensor.Scalar(float32(0.1)), tensor.Scalar(int8(0))
	initializers := map[string]*tensor.Tensor{"w": weight, "v": weight, "experts": experts, "scale": scale, "zero": zero}
	sum := func() *onnx.Node {
		return node(t, "loss = ReduceSum(y)", onnx.IntAttribute("keepdims", 0))
	}
	microsoft := func(n *onnx.Node) *onnx.Node {
		n.Domain = "com.microsoft"
		return n
	}
	const dequantize = `"fmoefy --dequantize"`
	for _, c := range []struct {
		name  string
		nodes []*onnx.Node
		want  []string // none where there is no error
	}{
		{"experts of ONNX Runtime", []*onnx.Node{node(t, "h = MatMul(x, w)"), microsoft(node(t, "y = MoE(h, h, experts, , experts)", onnx.IntAttribute("k", 1)))},
			[]string{"make_y", "MoE", "fmoefy import", `"w"`}},
		{"a weight that is rounded", []*onnx.Node{node(t, "q = QuantizeLinear(w, scale, zero)"), node(t, "r = DequantizeLinear(q, scale, zero)"),
			node(t, "g = MatMul(x, v)"), node(t, "y = MatMul(g, r)")},
			[]string{"make_q", "QuantizeLinear", dequantize, `"w"`}},
		{"activations that are rounded", []*onnx.Node{node(t, "h = MatMul(x, w)"), node(t, "q, s, z = DynamicQuantizeLinear(h)"), node(t, "i = MatMulInteger(q, q)"),
			node(t, "f = Cast(i)", onnx.IntAttribute("to", int64(onnx.Float32))), node(t, "y = MatMul(f, v)")},
			[]string{"make_q", "DynamicQuantizeLinear", dequantize, `"w"`}},
		{"a rounded weight that the loss does not need", []*onnx.Node{node(t, "q = QuantizeLinear(w, scale, zero)"), node(t, "y = MatMul(x, v)")}, nil},
		{"the shape of a rounded weight", []*onnx.Node{node(t, "q = QuantizeLinear(w, scale, zero)"), node(t, "s = Shape(q)"), node(t, "h = MatMul(x, v)"),
			node(t, "y = Reshape(h, s)")}, nil},
	} {
		m := model(t, []string{"x float32[4,4]"}, []string{"loss"}, initializers, append(c.nodes, sum())...)
		m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: "com.microsoft", Version: 1})
		s, err := runtime.New(m, runtime.Options{Threads: 1, Gradient: &runtime.Gradient{Of: "loss", With: []string{"w", "v"}}})
		if err == nil {
			s.Close()
		}
		if (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, want := range c.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s in it", c.name, err, want)
			}
		}
	}
}

func operatorName(domain, name string) string {
	if domain == "" {
		return name
	}
	return domain + "::" + name
}

// TestGradientsOfONNXCases checks gradients of the nodes that ONNX tests
// operators with.
func TestGradientsOfONNXCases(t *testing.T) {
	if raceDetector {
		t.Skip("other tests run the same kernels in less time")
	}
	checked := 0
	for _, c := range devicetest.ONNXCases(t) {
		switch err := devicetest.RunGradients(c, runtime.Options{Threads: 1}); {
		case errors.Is(err, devicetest.ErrNoGradient):
		case err != nil:
			t.Errorf("%s: %v", c.Name, err)
		default:
			checked++
		}
	}
	t.Logf("%d cases", checked)
}

// TestGradientOfRandomDropout: the gradient goes where the output says that
// elements were kept, scaled like them.
func TestGradientOfRandomDropout(t *testing.T) {
	const length = 1000
	x := tensor.New(onnx.Float64, length)
	for i := range tensor.Of[float64](x) {
		tensor.Of[float64](x)[i] = float64(i%7 + 1)
	}
	m := &onnx.Model{IRVersion: 10, OpsetImports: []onnx.OpsetImport{{Version: 22}}, Graph: &onnx.Graph{Name: "dropout",
		Inputs:       []*onnx.ValueInfo{{Name: "x", Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float64, Shape: &onnx.Shape{Dims: []onnx.Dim{{Known: true, Value: length}}}}}},
		Initializers: []*onnx.Tensor{tensor.Scalar(float32(0.4)).ToONNX("ratio"), tensor.Scalar(true).ToONNX("training")},
		Nodes: []*onnx.Node{
			{Name: "dropout", OpType: "Dropout", Inputs: []string{"x", "ratio", "training"}, Outputs: []string{"y"}},
			{Name: "loss", OpType: "ReduceSum", Inputs: []string{"y"}, Outputs: []string{"loss"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}},
		},
		Outputs: []*onnx.ValueInfo{{Name: "y"}, {Name: "loss"}},
	}}
	s, err := runtime.New(m, runtime.Options{Threads: 2, Gradient: &runtime.Gradient{Of: "loss", With: []string{"x"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		out, err := s.Run(t.Context(), map[string]*tensor.Tensor{"x": x, runtime.GradientName("loss"): tensor.Scalar(1.0)})
		if err != nil {
			t.Fatal(err)
		}
		y, g := tensor.Of[float64](out["y"]), tensor.Of[float64](out[runtime.GradientName("x")])
		for i, v := range tensor.Of[float64](x) {
			if math.Abs(g[i]-y[i]/v) > 1e-7 {
				t.Fatalf("element %d: the gradient is %g, the output %g for %g", i, g[i], y[i], v)
			}
		}
	}
}
