package fmoefy_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// tuned returns a model with noise in its weights.
func tuned(t *testing.T, m *onnx.Model, seed uint64) *onnx.Model {
	t.Helper()
	m = m.Clone()
	random := rand.New(rand.NewPCG(seed, seed))
	for i, w := range m.Graph.Initializers {
		if !w.DataType.IsFloat() || len(w.Dims) == 0 {
			continue
		}
		values := numbersOf(t, w)
		for j := range values {
			values[j] *= 1 + 0.1*random.NormFloat64()
		}
		x := tensor.New(w.DataType, len(values))
		tensor.ConvertFloat(x, tensor.FromSlice(values, len(values)))
		m.Graph.Initializers[i] = onnx.NewTensor(w.Name, w.DataType, w.Dims, x.Data)
	}
	return m
}

// content returns the bytes that a tensor is written as.
func content(t *testing.T, x *onnx.Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := x.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func numbersOf(t *testing.T, x *onnx.Tensor) []float64 {
	t.Helper()
	data := content(t, x)
	n := len(data) * 8 / x.DataType.Bits()
	values := tensor.New(onnx.Float64, n)
	tensor.ConvertFloat(values, &tensor.Tensor{Type: x.DataType, Shape: []int{n}, Data: data})
	return tensor.Of[float64](values)
}

// families are models with MLPs of every kind and element type, with and
// without biases.
var families = []string{"bert", "llama", "t5", "zoo/phi-3-torchscript", "zoo/mistral-torchscript-bfloat16", "zoo/gpt2-torchscript-float16"}

func sample(t *testing.T, name string) *onnx.Model {
	t.Helper()
	m, err := onnx.ReadFile(filepath.Join("../models", name, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestModels: expert e has the weights that the MLP of model e has, and the
// rest is the base's or the average.
func TestModels(t *testing.T) {
	for _, name := range families {
		t.Run(name, func(t *testing.T) {
			base := sample(t, name)
			models := []*onnx.Model{tuned(t, base, 1), base, tuned(t, base, 2)}
			given := map[int]fmoefy.ExpertModel{0: {Name: "a.onnx", Model: models[0]}, 2: {Name: "b.onnx", Model: models[2]}}
			var alone []*onnx.Model
			for _, m := range models {
				one, _ := rewrite(t, m, fmoefy.Options{NumExperts: 1})
				alone = append(alone, one)
			}
			for _, rest := range []fmoefy.Rest{"", fmoefy.RestAverage} {
				merged, report := rewrite(t, base, fmoefy.Options{Models: given, Rest: rest})
				if report.NumExperts != 3 || report.Init != fmoefy.FromModels || report.Equal || !strings.Contains(report.Why, "experts are the MLPs of other models") {
					t.Errorf("the report says %+v", report)
				}
				for _, w := range merged.Graph.Initializers {
					got := content(t, w)
					var want []byte
					switch role := w.Name[strings.LastIndex(w.Name, ".")+1:]; {
					case strings.HasPrefix(role, "gate_weight"):
						continue
					case strings.HasPrefix(role, "fc1_") || strings.HasPrefix(role, "fc2_") || strings.HasPrefix(role, "fc3_"):
						for _, one := range alone {
							want = append(want, content(t, one.Graph.Initializer(w.Name))...)
						}
					case rest == fmoefy.RestAverage && w.DataType.IsFloat():
						checkAverage(t, w, models)
						continue
					default:
						want = content(t, base.Graph.Initializer(w.Name))
					}
					if !bytes.Equal(got, want) {
						t.Errorf("rest %q: %s is not what the models have", rest, w.Name)
					}
				}
			}
		})
	}
}

func checkAverage(t *testing.T, got *onnx.Tensor, models []*onnx.Model) {
	t.Helper()
	epsilon := map[onnx.DataType]float64{onnx.Float32: 1e-6, onnx.Float16: 1e-3, onnx.BFloat16: 8e-3}[got.DataType]
	var list [][]float64
	for _, m := range models {
		list = append(list, numbersOf(t, m.Graph.Initializer(got.Name)))
	}
	for i, x := range numbersOf(t, got) {
		mean, size := 0.0, 0.0
		for _, values := range list {
			mean += values[i] / float64(len(list))
			size = max(size, math.Abs(values[i]))
		}
		if x != mean && math.Abs(x-mean) > epsilon*size+1e-7 { // equal infinities have no difference
			t.Fatalf("%s: element %d is %g, the average %g", got.Name, i, x, mean)
		}
	}
}

// TestEqualModels: where all models equal the base, so does what they become,
// whatever the router and wherever the rest is from.
func TestEqualModels(t *testing.T) {
	for _, name := range families {
		t.Run(name, func(t *testing.T) {
			base := sample(t, name)
			given := map[int]fmoefy.ExpertModel{0: {Name: "a.onnx", Model: base.Clone()}, 1: {Name: "b.onnx", Model: base}}
			for _, o := range []fmoefy.Options{
				{Models: given},
				{Models: given, NumExperts: 4, Rest: fmoefy.RestAverage, GateInit: fmoefy.GateOrthogonal},
			} {
				merged, report := rewrite(t, base, o)
				if report.Equal != (o.Rest == "") {
					t.Errorf("rest %q: the report says %v: %s", o.Rest, report.Equal, report.Why)
				}
				tolerance := 1e-4
				if strings.Contains(name, "float16") {
					tolerance = 5e-2
				}
				compare(t, merged, base, tolerance)
			}
		})
	}
}

// TestSharedInBaseOnly: layers that the base shares are experts of their own
// where a model has different ones.
func TestSharedInBaseOnly(t *testing.T) {
	b := newBuilder(17)
	m := layers(b, 2)
	base := m.Clone()
	for i := range 4 { // the second layer's weights become the first one's
		w := base.Graph.Initializers[i]
		base.Graph.Initializers[i+4] = onnx.NewTensor(base.Graph.Initializers[i+4].Name, w.DataType, w.Dims, content(t, w))
	}
	_, report := rewrite(t, base, fmoefy.Options{NumExperts: 2})
	if report.Blocks[1].SharesWith == "" {
		t.Fatal("the base's layers do not share their experts")
	}
	if _, report = rewrite(t, base, fmoefy.Options{NumExperts: 2, Models: map[int]fmoefy.ExpertModel{1: {Name: "m", Model: m}}}); report.Blocks[1].SharesWith != "" {
		t.Error("layers that differ in a model share their experts")
	}
}

// mlp writes one layer with a residual around it.
func mlp(activation string, hidden int, bias bool, kind onnx.DataType, n int) *onnx.Model {
	b := newBuilder(17)
	b.kind = kind
	x := b.tokens()
	for range n {
		h := b.op("MatMul", x, b.weight(dModel, hidden))
		if bias {
			h = b.op("Add", h, b.weight(hidden))
		}
		x = b.op("Add", x, b.op("MatMul", b.op(activation, h), b.weight(hidden, dModel)))
	}
	b.output(x)
	return b.model
}

// TestModelsDiffer: a model of another shape is refused, with the file, the
// block and what differs.
func TestModelsDiffer(t *testing.T) {
	base := mlp("Relu", dHidden, true, onnx.Float32, 2)
	renamed := base.Clone()
	for _, n := range renamed.Graph.Nodes {
		n.Name = "/encoder/layers.7/" + n.Name
	}
	invalid := base.Clone()
	invalid.OpsetImports = nil
	for _, test := range []struct {
		name  string
		model *onnx.Model
		want  string
	}{
		{"fewer blocks", mlp("Relu", dHidden, true, onnx.Float32, 1), "is missing: it has 1 blocks"},
		{"width", mlp("Relu", dHidden+1, true, onnx.Float32, 2), "its d_model is 6 and d_hidden 11, not 6 and 10"},
		{"activation", mlp("Tanh", dHidden, true, onnx.Float32, 2), "it is plain with tanh, not plain with relu"},
		{"bias", mlp("Relu", dHidden, false, onnx.Float32, 2), "one of the two has a bias that the other lacks"},
		{"type", mlp("Relu", dHidden, true, onnx.Float64, 2), "it computes in float64, not float32"},
		{"name", renamed, "it has the name encoder.layers.7"},
		{"invalid", invalid, "it is not valid"},
		{"nothing", nil, "there is no model"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := fmoefy.Rewrite(base.Clone(), fmoefy.Options{NumExperts: 2, Models: map[int]fmoefy.ExpertModel{1: {Name: "tuned.onnx", Model: test.model}}})
			if err == nil || !strings.Contains(err.Error(), "the model for expert 1, tuned.onnx") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestNoAverage: initializers that have no average are refused by name.
func TestNoAverage(t *testing.T) {
	build := func(code int8, extra string) *onnx.Model {
		b := newBuilder(17)
		x := b.tokens()
		x = b.op("Add", x, b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel))
		b.graph.Initializers = append(b.graph.Initializers, tensor.FromSlice([]int8{code}).ToONNX("codes"), tensor.FromSlice([]float32{1}).ToONNX(extra))
		scaled := b.op("DequantizeLinear", "codes", extra)
		b.output(b.op("Add", x, scaled))
		return b.model
	}
	base := build(1, "scale")
	for _, test := range []struct {
		name  string
		model *onnx.Model
		want  string
	}{
		{"integers", build(2, "scale"), `"codes": it is int8 and differs`},
		{"missing", build(1, "factor"), `"scale": it is missing`},
	} {
		t.Run(test.name, func(t *testing.T) {
			given := map[int]fmoefy.ExpertModel{0: {Name: "tuned.onnx", Model: test.model}}
			_, err := fmoefy.Rewrite(base.Clone(), fmoefy.Options{NumExperts: 2, Models: given, Rest: fmoefy.RestAverage})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			rewrite(t, base, fmoefy.Options{NumExperts: 2, Models: given})
		})
	}
}

// TestOrthogonal: the columns of an orthogonal router have the scale as their
// length and nothing in common.
func TestOrthogonal(t *testing.T) {
	base := layers(newBuilder(17), 1)
	for _, experts := range []int{1, 2, dModel} {
		m, _ := rewrite(t, base, fmoefy.Options{NumExperts: experts, GateInit: fmoefy.GateOrthogonal, GateScale: 3})
		for a, x := range routerColumns(t, m) {
			for b, y := range routerColumns(t, m) {
				want := 0.0
				if a == b {
					want = 9
				}
				if got := product(x, y); math.Abs(got-want) > 1e-5 {
					t.Errorf("%d experts: columns %d and %d have the product %g, want %g", experts, a, b, got, want)
				}
			}
		}
	}
	if _, err := fmoefy.Rewrite(base.Clone(), fmoefy.Options{NumExperts: dModel + 1, GateInit: fmoefy.GateOrthogonal}); err == nil {
		t.Error("more orthogonal columns than dimensions were accepted")
	}
}

// routerColumns returns the columns of the first router.
func routerColumns(t *testing.T, m *onnx.Model) [][]float64 {
	t.Helper()
	for _, n := range m.Graph.Nodes {
		if n.OpType != moe.OpType {
			continue
		}
		w := m.Graph.Initializer(n.Inputs[moe.InputGateWeight])
		values, experts := numbersOf(t, w), int(w.Dims[1])
		columns := make([][]float64, experts)
		for i, x := range values {
			columns[i%experts] = append(columns[i%experts], x)
		}
		return columns
	}
	t.Fatal("there is no router")
	return nil
}

func product(a, b []float64) float64 {
	sum := 0.0
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

// TestPrompts: the first block's input is the model's own, so that its router
// is known from the prompts.
func TestPrompts(t *testing.T) {
	base := layers(newBuilder(17), 2)
	token := func(hot int, size float32, n int) map[string]*tensor.Tensor {
		x := tensor.New(onnx.Float32, 1, n, dModel)
		for i := range n {
			tensor.Of[float32](x)[i*dModel+hot] = size
			tensor.Of[float32](x)[i*dModel+dModel-1] = 2 // common to all
		}
		return map[string]*tensor.Tensor{"x": x}
	}
	prompts := [][]map[string]*tensor.Tensor{{token(0, 1, 2), token(0, 4, 1)}, {token(1, 2, 5)}} // means 2 and 2
	for _, test := range []struct {
		contrast bool
		want     [2][dModel]float64
	}{
		{false, [2][dModel]float64{{math.Sqrt2, 0, 0, 0, 0, math.Sqrt2}, {0, math.Sqrt2, 0, 0, 0, math.Sqrt2}}},
		{true, [2][dModel]float64{{math.Sqrt2, -math.Sqrt2}, {-math.Sqrt2, math.Sqrt2}}},
	} {
		t.Run(fmt.Sprintf("contrast %v", test.contrast), func(t *testing.T) {
			m, report := rewrite(t, base, fmoefy.Options{NumExperts: 2, Prompts: prompts, PromptsContrast: test.contrast, GateScale: 2, Run: runModel})
			if !report.Equal {
				t.Error("copies with a prompted router are not equal")
			}
			for e, column := range routerColumns(t, m) {
				for i, x := range column {
					if math.Abs(x-test.want[e][i]) > 1e-6 {
						t.Errorf("expert %d: column %v, want %v", e, column, test.want[e])
						break
					}
				}
			}
		})
	}
	for _, test := range []struct {
		options fmoefy.Options
		want    string
	}{
		{fmoefy.Options{NumExperts: 3, Prompts: prompts, Run: runModel}, "prompts for 2 experts, but the router chooses among 3"},
		{fmoefy.Options{NumExperts: 2, Prompts: prompts}, "something that runs the model"},
		{fmoefy.Options{NumExperts: 2, Prompts: [][]map[string]*tensor.Tensor{prompts[0], nil}, Run: runModel}, "prompts of expert 1 have no tokens"},
		{fmoefy.Options{NumExperts: 2, Prompts: [][]map[string]*tensor.Tensor{prompts[0], {{}}}, Run: runModel}, "a prompt of expert 1"},
	} {
		if _, err := fmoefy.Rewrite(base.Clone(), test.options); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}
