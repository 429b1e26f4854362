package runtime_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// workersModel has three layers of experts and a loss for each token, and what
// a worker of the groups has of them; nil stands for one process.
func workersModel(t testing.TB, g *comm.Groups) *onnx.Model {
	const experts, d, h, layers = 5, 6, 8, 3
	first, end, from, to := 0, experts, 0, h
	config := moe.DefaultConfig(moe.GateGShard)
	config.TopK, config.Activation = 2, moe.GELU
	if g != nil {
		first, end = comm.Share(experts, g.Expert.Size(), g.Expert.Rank())
		from, to = comm.Share(h, g.Tensor.Size(), g.Tensor.Rank())
		config.FirstExpert = first
	}
	weights := map[string]*tensor.Tensor{}
	r := rand.New(rand.NewPCG(5, 6))
	// weight makes a part of random numbers that do not depend on it.
	weight := func(name string, own func(e, i, j int) bool, shape []int, part ...int) {
		var w []float32
		for e := range shape[0] {
			for i := range shape[1] {
				for j := range shape[2] {
					if x := float32(r.NormFloat64()) / 2; own(e, i, j) {
						w = append(w, x)
					}
				}
			}
		}
		weights[name] = tensor.FromSlice(w, part...)
	}
	last := "x"
	nodes := []*onnx.Node{}
	aux := "zero"
	weights["zero"] = tensor.FromSlice([]float32{0})
	weights["zero"].Shape = []int{}
	for i := range layers {
		name := func(s string) string { return fmt.Sprintf("%s%d", s, i) }
		weight(name("gate"), func(int, int, int) bool { return true }, []int{1, d, experts}, d, experts)
		weight(name("fc1"), func(e, i, _ int) bool { return e >= first && e < end && i >= from && i < to }, []int{experts, h, d}, end-first, to-from, d)
		weight(name("fc2"), func(e, _, j int) bool { return e >= first && e < end && j >= from && j < to }, []int{experts, d, h}, end-first, d, to-from)
		n := &onnx.Node{Name: name("moe"), Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(),
			Inputs: []string{name("a"), name("gate"), "", name("fc1"), "", name("fc2")}, Outputs: []string{name("y"), name("aux")}}
		n.Inputs = append(n.Inputs, make([]string, moe.InputCount-len(n.Inputs))...)
		n.Inputs[moe.InputStep] = "step"
		nodes = append(nodes, node(t, fmt.Sprintf("%s = Tanh(%s)", name("a"), last)), n,
			node(t, fmt.Sprintf("%s = Add(%s, %s)", name("x"), last, name("y"))), node(t, fmt.Sprintf("%s = Add(%s, %s)", name("sum"), aux, name("aux"))))
		last, aux = name("x"), name("sum")
	}
	nodes = append(nodes, node(t, "squares = Mul("+last+", "+last+")"), node(t, "total = ReduceSum(squares)", onnx.IntAttribute("keepdims", 0)),
		node(t, "weighted = Mul("+aux+", share)"), node(t, "loss = Add(total, weighted)"))
	m := model(t, []string{"x float32[tokens,6]", "step int64[]", "share float32[]"}, []string{"loss float32[]", last + " float32[tokens,6]"}, weights, nodes...)
	m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: moe.Domain, Version: moe.Version})
	return m
}

// TestWorkersGradients: sessions of workers give the outputs and gradients of
// one session, with all passes, with blocks that are computed twice, and with
// products of half precision.
func TestWorkersGradients(t *testing.T) {
	const tokens = 23
	with := []string{"x"}
	for i := range 3 {
		with = append(with, fmt.Sprint("gate", i), fmt.Sprint("fc1", i), fmt.Sprint("fc2", i))
	}
	x := make([]float32, tokens*6)
	r := rand.New(rand.NewPCG(8, 8))
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	run := func(ctx context.Context, m *onnx.Model, o runtime.Options, lo, hi int) (map[string]*tensor.Tensor, error) {
		s, err := runtime.New(m, o)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		in := map[string]*tensor.Tensor{"x": tensor.FromSlice(x[lo*6:hi*6], hi-lo, 6), "step": tensor.Scalar(int64(4)),
			"share": tensor.Scalar(float32(hi-lo) / tokens), runtime.GradientName("loss"): tensor.Scalar(float32(1))}
		for _, v := range m.Graph.Initializers {
			if slices.Contains(with, v.Name) {
				if in[v.Name], err = tensor.FromONNX(v); err != nil {
					return nil, err
				}
			}
		}
		if _, err := s.Run(ctx, in); err != nil {
			return nil, err
		}
		return s.Run(ctx, in) // a second time, in memory that was used
	}
	for _, test := range []struct {
		name      string
		recompute bool
		precision onnx.DataType
		tolerance float64
	}{{"plain", false, onnx.Undefined, 1e-5}, {"recompute", true, onnx.Undefined, 1e-5}, {"bfloat16", false, onnx.BFloat16, 0.05}} {
		options := func(g *comm.Groups) runtime.Options {
			return runtime.Options{Threads: 1, Precision: test.precision, Workers: g, Gradient: &runtime.Gradient{Of: "loss", With: with, Recompute: test.recompute}}
		}
		want, err := run(t.Context(), workersModel(t, nil), options(nil), 0, tokens)
		if err != nil {
			t.Fatal(err)
		}
		for _, layout := range []comm.Layout{{}, {Data: 3}, {Expert: 2}, {Data: 2, Expert: 2}, {Expert: 2, Slice: 2}, {Tensor: 2}} {
			t.Run(test.name+", "+layout.String(), func(t *testing.T) {
				err := comm.RunLocal(t.Context(), layout.Size(), comm.Options{}, func(ctx context.Context, world comm.Communicator) error {
					g, err := comm.NewGroups(ctx, world, layout)
					if err != nil {
						return err
					}
					lo, hi := comm.Share(tokens, g.Tokens.Size(), g.Tokens.Rank())
					got, err := run(ctx, workersModel(t, g), options(g), lo, hi)
					if err != nil {
						return err
					}
					near := func(what string, got, want []float32) error {
						largest := 1.0
						for _, x := range want {
							largest = max(largest, math.Abs(float64(x)))
						}
						for i, x := range want {
							if d := math.Abs(float64(got[i] - x)); !(d <= test.tolerance*largest) {
								return fmt.Errorf("element %d of %s is %v, want %v", i, what, got[i], x)
							}
						}
						return nil
					}
					for _, name := range []string{"x2", runtime.GradientName("x")} {
						if err := near(name, tensor.Of[float32](got[name]), tensor.Of[float32](want[name])[lo*6:hi*6]); err != nil {
							return err
						}
					}
					sum := slices.Clone(tensor.Of[float32](got[runtime.GradientName("gate1")]))
					if err := g.Tokens.AllReduce(ctx, comm.Slice(sum), comm.Sum).Wait(); err != nil {
						return err
					}
					return near("gradient by gate1", sum, tensor.Of[float32](want[runtime.GradientName("gate1")]))
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}
