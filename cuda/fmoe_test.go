//go:build fmoecuda

package cuda_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/cuda"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// layer is an FMoE node by itself.
type layer struct {
	tokens, d, h, experts, k int
	t, router                onnx.DataType
	gated, bias              bool
	normalize                bool
	activation               moe.Activation
}

func (l layer) String() string {
	return fmt.Sprintf("%s N=%d d=%d h=%d T=%d k=%d gated=%t bias=%t %s", l.t, l.tokens, l.d, l.h, l.experts, l.k, l.gated, l.bias, l.activation)
}

// numbers returns random numbers of a normal distribution, the same million
// again and again.
func numbers(r *rand.Rand, t onnx.DataType, deviation float64, shape ...int) *tensor.Tensor {
	n := tensor.Count(shape)
	some := tensor.New(onnx.Float32, min(n, 1<<20))
	for i := range tensor.Of[float32](some) {
		tensor.Of[float32](some)[i] = float32(r.NormFloat64() * deviation)
	}
	converted := tensor.New(t, some.Len())
	tensor.ConvertFloat(converted, some)
	out := tensor.New(t, shape...)
	for at := 0; at < len(out.Data); {
		at += copy(out.Data[at:], converted.Data)
	}
	return out
}

func (l layer) model(t testing.TB) (*onnx.Model, map[string]*tensor.Tensor) {
	r := rand.New(rand.NewPCG(1, 2))
	config := moe.NaiveConfig(l.k, l.activation)
	config.Normalize = l.normalize
	n := &onnx.Node{Name: "moe", Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(),
		Inputs: make([]string, moe.InputCount), Outputs: []string{"Y", "", "expert_count"}}
	n.Inputs[0] = "X"
	g := &onnx.Graph{Name: "layer", Nodes: []*onnx.Node{n}}
	weight := func(slot int, x *tensor.Tensor) {
		n.Inputs[slot] = moe.InputNames[slot]
		g.Initializers = append(g.Initializers, x.ToONNX(n.Inputs[slot]))
	}
	scale := func(depth int) float64 { return 1 / math.Sqrt(float64(depth)) }
	weight(moe.InputGateWeight, numbers(r, l.router, scale(l.d), l.d, l.experts))
	weight(moe.InputFC1Weight, numbers(r, l.t, scale(l.d), l.experts, l.h, l.d))
	weight(moe.InputFC2Weight, numbers(r, l.t, scale(l.h), l.experts, l.d, l.h))
	if l.gated {
		weight(moe.InputFC3Weight, numbers(r, l.t, scale(l.d), l.experts, l.h, l.d))
	}
	if l.bias {
		weight(moe.InputGateBias, numbers(r, l.router, 0.5, l.experts))
		weight(moe.InputFC1Bias, numbers(r, l.t, 0.5, l.experts, l.h))
		weight(moe.InputFC2Bias, numbers(r, l.t, 0.5, l.experts, l.d))
		if l.gated {
			weight(moe.InputFC3Bias, numbers(r, l.t, 0.5, l.experts, l.h))
		}
	}
	value := func(name string, t onnx.DataType, dims ...int) *onnx.ValueInfo {
		shape := &onnx.Shape{}
		for _, d := range dims {
			shape.Dims = append(shape.Dims, onnx.Dim{Known: true, Value: int64(d)})
		}
		return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t, Shape: shape}}
	}
	g.Inputs = []*onnx.ValueInfo{value("X", l.t, l.tokens, l.d)}
	g.Outputs = []*onnx.ValueInfo{value("Y", l.t, l.tokens, l.d), value("expert_count", onnx.Int64, l.experts)}
	m := &onnx.Model{IRVersion: 10, Graph: g, OpsetImports: []onnx.OpsetImport{{Version: 23}, {Domain: moe.Domain, Version: moe.Version}}}
	return m, map[string]*tensor.Tensor{"X": numbers(r, l.t, 1, l.tokens, l.d)}
}

func needGPU(t testing.TB) {
	if _, err := cuda.GPUs(); err != nil {
		t.Skip(err)
	}
}

func run(t testing.TB, m *onnx.Model, device string, inputs map[string]*tensor.Tensor) map[string]*tensor.Tensor {
	s, err := runtime.New(m, runtime.Options{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Run(context.Background(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFMoE compares layers with the CPU's, relative to the norm of all results,
// and expects the same bits again.
func TestFMoE(t *testing.T) {
	needGPU(t)
	for _, l := range []layer{
		{tokens: 100, d: 64, h: 96, experts: 8, k: 2, t: onnx.Float32, router: onnx.Float32, normalize: true, activation: moe.GELU},
		{tokens: 77, d: 36, h: 52, experts: 5, k: 3, t: onnx.Float32, router: onnx.Float32, gated: true, bias: true, activation: moe.SiLU},
		{tokens: 1, d: 64, h: 64, experts: 130, k: 4, t: onnx.Float32, router: onnx.Float32, bias: true, normalize: true, activation: moe.ReLU},
		{tokens: 3000, d: 128, h: 256, experts: 16, k: 2, t: onnx.BFloat16, router: onnx.Float32, bias: true, normalize: true, activation: moe.GELU},
		{tokens: 500, d: 136, h: 200, experts: 33, k: 8, t: onnx.BFloat16, router: onnx.BFloat16, gated: true, normalize: true, activation: moe.SiLU},
		{tokens: 500, d: 136, h: 200, experts: 33, k: 8, t: onnx.Float16, router: onnx.Float16, gated: true, bias: true, normalize: true, activation: moe.SiLU},
		{tokens: 90, d: 30, h: 50, experts: 7, k: 1, t: onnx.Float16, router: onnx.Float32, normalize: true, activation: moe.ReLU2},
	} {
		t.Run(l.String(), func(t *testing.T) {
			m, inputs := l.model(t)
			want, got, again := run(t, m, "cpu", inputs), run(t, m, cuda.Name, inputs), run(t, m, cuda.Name, inputs)
			if string(got["Y"].Data) != string(again["Y"].Data) {
				t.Error("a second run gives other bits")
			}
			tolerance := map[onnx.DataType]float64{onnx.Float32: 1e-5, onnx.Float16: 2e-3, onnx.BFloat16: 1e-2}[l.t]
			if e := difference(t, got["Y"], want["Y"]); !(e < tolerance) {
				t.Errorf("the relative difference is %.3g, more than %.3g", e, tolerance)
			}
			if l.router == onnx.Float32 && string(got["expert_count"].Data) != string(want["expert_count"].Data) {
				t.Errorf("experts compute %v rows, want %v", tensor.Of[int64](got["expert_count"]), tensor.Of[int64](want["expert_count"]))
			}
		})
	}
}

// difference is ‖got − want‖ / ‖want‖, or ‖got‖ where want is 0.
func difference(t testing.TB, got, want *tensor.Tensor) float64 {
	a, err := tensor.Float64s(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tensor.Float64s(want)
	if err != nil {
		t.Fatal(err)
	}
	up, down := 0.0, 0.0
	for i := range b {
		up, down = up+(a[i]-b[i])*(a[i]-b[i]), down+b[i]*b[i]
	}
	if down == 0 {
		down = 1
	}
	return math.Sqrt(up / down)
}

// BenchmarkFMoE reports the rate of the layer by itself, without copies.
func BenchmarkFMoE(b *testing.B) {
	needGPU(b)
	for _, l := range []layer{
		{tokens: 24576, d: 1536, h: 256, experts: 128, k: 8, t: onnx.BFloat16, router: onnx.BFloat16, gated: true, normalize: true, activation: moe.SiLU},
		{tokens: 8192, d: 1024, h: 4096, experts: 64, k: 2, t: onnx.BFloat16, router: onnx.BFloat16, normalize: true, activation: moe.GELU},
		{tokens: 16384, d: 4096, h: 1536, experts: 128, k: 8, t: onnx.BFloat16, router: onnx.BFloat16, gated: true, normalize: true, activation: moe.SiLU},
		{tokens: 4096, d: 1024, h: 4096, experts: 64, k: 2, t: onnx.Float32, router: onnx.Float32, normalize: true, activation: moe.GELU},
		{tokens: 16, d: 4096, h: 1536, experts: 128, k: 8, t: onnx.BFloat16, router: onnx.BFloat16, gated: true, normalize: true, activation: moe.SiLU},
	} {
		b.Run(l.String(), func(b *testing.B) {
			m, inputs := l.model(b)
			s, err := runtime.New(m, runtime.Options{Device: cuda.Name, Profile: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			runner := s.NewRunner()
			run := func() {
				if _, err := runner.Run(context.Background(), []*tensor.Tensor{inputs["X"]}); err != nil {
					b.Fatal(err)
				}
			}
			run()
			s.ResetProfile()
			for b.Loop() {
				run()
			}
			for _, n := range s.Profile() {
				if n.OpType != moe.OpType {
					continue
				}
				products := 2
				if l.gated {
					products = 3
				}
				seconds := n.Time.Seconds() / float64(n.Calls)
				work := 2 * float64(products) * float64(l.tokens) * float64(l.k) * float64(l.d) * float64(l.h)
				b.ReportMetric(seconds*1e6, "µs/layer")
				b.ReportMetric(work/seconds/1e12, "TFLOP/s")
			}
		})
	}
}

// gradient returns a model whose loss weighs the outputs of a layer, and what
// the loss is differentiated with respect to.
func (l layer) gradient(t testing.TB) (*onnx.Model, map[string]*tensor.Tensor, *runtime.Gradient) {
	m, inputs := l.model(t)
	g := m.Graph
	with := []string{"X"}
	for _, w := range g.Initializers {
		with = append(with, w.Name)
	}
	g.Initializers = append(g.Initializers, numbers(rand.New(rand.NewPCG(3, 4)), l.t, 1, l.tokens, l.d).ToONNX("weights"))
	g.Nodes = append(g.Nodes,
		&onnx.Node{Name: "weigh", OpType: "Mul", Inputs: []string{"Y", "weights"}, Outputs: []string{"weighed"}},
		&onnx.Node{Name: "sum", OpType: "ReduceSum", Inputs: []string{"weighed"}, Outputs: []string{"loss"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}})
	g.Outputs = []*onnx.ValueInfo{{Name: "loss", Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: l.t, Shape: &onnx.Shape{}}}}
	one := tensor.New(l.t)
	tensor.ConvertFloat(one, tensor.Scalar[float32](1))
	inputs[runtime.GradientName("loss")] = one
	for _, w := range g.Initializers[:len(g.Initializers)-1] {
		x, err := tensor.FromONNX(w)
		if err != nil {
			t.Fatal(err)
		}
		inputs[w.Name] = x
	}
	return m, inputs, &runtime.Gradient{Of: "loss", With: with}
}

// TestFMoEGradient compares gradients with the CPU's, relative to the norm of
// all elements, and expects the same bits again.
func TestFMoEGradient(t *testing.T) {
	needGPU(t)
	for _, l := range []layer{
		{tokens: 100, d: 64, h: 96, experts: 8, k: 2, t: onnx.Float32, router: onnx.Float32, normalize: true, activation: moe.GELU},
		{tokens: 77, d: 36, h: 52, experts: 5, k: 3, t: onnx.Float32, router: onnx.Float32, gated: true, bias: true, activation: moe.SiLU},
		{tokens: 700, d: 128, h: 256, experts: 16, k: 2, t: onnx.BFloat16, router: onnx.Float32, bias: true, normalize: true, activation: moe.GELU},
		{tokens: 500, d: 136, h: 200, experts: 33, k: 8, t: onnx.BFloat16, router: onnx.BFloat16, gated: true, normalize: true, activation: moe.SiLU},
		{tokens: 500, d: 136, h: 200, experts: 33, k: 8, t: onnx.Float16, router: onnx.Float16, gated: true, bias: true, normalize: true, activation: moe.GELUTanh},
		{tokens: 90, d: 30, h: 50, experts: 7, k: 1, t: onnx.Float16, router: onnx.Float32, normalize: true, activation: moe.ReLU2},
	} {
		t.Run(l.String(), func(t *testing.T) {
			m, inputs, of := l.gradient(t)
			results := map[string][]map[string]*tensor.Tensor{}
			for _, device := range []string{"cpu", cuda.Name} {
				s, err := runtime.New(m, runtime.Options{Device: device, Gradient: of})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				for range 2 {
					out, err := s.Run(context.Background(), inputs)
					if err != nil {
						t.Fatal(err)
					}
					results[device] = append(results[device], out)
				}
			}
			tolerance := map[onnx.DataType]float64{onnx.Float32: 1e-5, onnx.Float16: 4e-3, onnx.BFloat16: 2e-2}[l.t]
			for _, name := range of.With {
				name = runtime.GradientName(name)
				want, got := results["cpu"][0][name], results[cuda.Name]
				if e := difference(t, got[0][name], want); !(e < tolerance) {
					t.Errorf("the relative difference of %s is %.3g", name, e)
				}
				if !bytes.Equal(got[0][name].Data, got[1][name].Data) {
					t.Errorf("%s has other bits in another run", name)
				}
			}
		})
	}
}

// BenchmarkFMoEGradient runs layers forward and backward.
func BenchmarkFMoEGradient(b *testing.B) {
	needGPU(b)
	for _, l := range []layer{
		{tokens: 24576, d: 1536, h: 256, experts: 128, k: 8, t: onnx.BFloat16, router: onnx.BFloat16, gated: true, normalize: true, activation: moe.SiLU},
		{tokens: 8192, d: 1024, h: 4096, experts: 64, k: 2, t: onnx.BFloat16, router: onnx.BFloat16, normalize: true, activation: moe.GELU},
		{tokens: 16384, d: 4096, h: 1536, experts: 128, k: 8, t: onnx.BFloat16, router: onnx.BFloat16, gated: true, normalize: true, activation: moe.SiLU},
		{tokens: 4096, d: 1024, h: 4096, experts: 64, k: 2, t: onnx.Float32, router: onnx.Float32, normalize: true, activation: moe.GELU},
	} {
		b.Run(l.String(), func(b *testing.B) {
			m, inputs, of := l.gradient(b)
			s, err := runtime.New(m, runtime.Options{Device: cuda.Name, Gradient: of, Profile: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			list := make([]*tensor.Tensor, len(s.Inputs()))
			for i, v := range s.Inputs() {
				list[i] = inputs[v.Name]
			}
			runner := s.NewRunner()
			run := func() {
				if _, err := runner.Run(context.Background(), list); err != nil {
					b.Fatal(err)
				}
			}
			run()
			s.ResetProfile()
			for b.Loop() {
				run()
			}
			seconds := 0.0
			for _, n := range s.Profile() {
				if n.OpType == moe.OpType || n.OpType == moe.GradientOpType {
					seconds += n.Time.Seconds() / float64(n.Calls)
				}
			}
			products := 2
			if l.gated {
				products = 3
			}
			work := 3 * 2 * float64(products) * float64(l.tokens) * float64(l.k) * float64(l.d) * float64(l.h)
			b.ReportMetric(seconds*1e6, "µs/layer")
			b.ReportMetric(work/seconds/1e12, "TFLOP/s")
		})
	}
}
