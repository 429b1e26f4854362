package runtime_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// sample is a model of the folder models, or its rewriting to a mixture of 8
// experts, 2 of which a token uses.
type sample struct {
	name    string
	rewrite bool
}

var samples = []sample{{"gpt-megatron", false}, {"gpt-megatron", true}, {"bert", false}, {"llama", false}, {"t5", false}}

func (m sample) String() string {
	if m.rewrite {
		return m.name + "-moe"
	}
	return m.name
}

func (m sample) read(t testing.TB) *onnx.Model {
	t.Helper()
	model, err := onnx.ReadFile(filepath.Join("..", "models", m.name, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	if m.rewrite {
		if _, err := fmoefy.Rewrite(model, fmoefy.Options{NumExperts: 8, TopK: 2}); err != nil {
			t.Fatal(err)
		}
	}
	return model
}

func (m sample) open(t testing.TB, o runtime.Options) *runtime.Session {
	t.Helper()
	s, err := runtime.New(m.read(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// inputs makes random inputs of the given length in the model's order.
func (m sample) inputs(t testing.TB, s *runtime.Session, length int) []*tensor.Tensor {
	t.Helper()
	dims := map[string]int{}
	for _, v := range s.Inputs() {
		for _, d := range v.Type.Shape.Dims {
			if d.Param != "" && d.Param != "batch" {
				dims[d.Param] = length
			}
		}
	}
	named, err := dataset.Random(m.read(t), s.Inputs(), dims, 1)
	if err != nil {
		t.Fatal(err)
	}
	var list []*tensor.Tensor
	for _, v := range s.Inputs() {
		list = append(list, named[v.Name])
	}
	return list
}

// What a runner has run once it runs again without allocating anything.
func TestRunnerAllocatesNothing(t *testing.T) {
	for _, m := range samples {
		for _, threads := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, %d threads", m, threads), func(t *testing.T) {
				s := m.open(t, runtime.Options{Threads: threads})
				r, inputs := s.NewRunner(), m.inputs(t, s, 24)
				n := testing.AllocsPerRun(5, func() {
					if _, err := r.Run(context.Background(), inputs); err != nil {
						t.Fatal(err)
					}
				})
				if n != 0 {
					t.Errorf("%v allocations a run", n)
				}
			})
		}
	}
}

// A runner gives the bits of single runs, whatever it ran before and however
// many threads there are.
func TestRunnerEqualsRun(t *testing.T) {
	for _, m := range samples {
		t.Run(m.String(), func(t *testing.T) {
			single := m.open(t, runtime.Options{Threads: 1})
			for _, threads := range []int{1, 2, 4} {
				r := m.open(t, runtime.Options{Threads: threads}).NewRunner()
				for _, length := range []int{5, 17, 3, 17} {
					inputs := m.inputs(t, single, length)
					named := map[string]*tensor.Tensor{}
					for i, v := range single.Inputs() {
						named[v.Name] = inputs[i]
					}
					want, err := single.Run(context.Background(), named)
					if err != nil {
						t.Fatal(err)
					}
					got, err := r.Run(context.Background(), inputs)
					if err != nil {
						t.Fatal(err)
					}
					for i, v := range single.Outputs() {
						if w := want[v.Name]; !slices.Equal(got[i].Shape, w.Shape) || !bytes.Equal(got[i].Data, w.Data) {
							t.Errorf("%d threads, length %d: output %q differs", threads, length, v.Name)
						}
					}
				}
			}
		})
	}
}

func TestRunnerErrors(t *testing.T) {
	r := open(t, model(t, []string{"x float32[n,2]"}, []string{"y float32[n,2]"}, nil, node(t, "y = Relu(x)"))).NewRunner()
	for _, inputs := range [][]*tensor.Tensor{nil, {nil}, {tensor.New(onnx.Int64, 1, 2)}, {tensor.New(onnx.Float32, 2)}} {
		if _, err := r.Run(context.Background(), inputs); err == nil {
			t.Errorf("runs for inputs %v", inputs)
		}
	}
	out, err := r.Run(context.Background(), []*tensor.Tensor{floats([]int{1, 2}, 1, -1)})
	if err != nil {
		t.Fatal(err)
	}
	wantTensor(t, out[0], floats([]int{1, 2}, 1, 0))
}

// Only plans that are asked for have their nodes' times, each node's once.
func TestProfile(t *testing.T) {
	m := sample{"gpt-megatron", true}
	s := m.open(t, runtime.Options{Profile: true})
	r, inputs := s.NewRunner(), m.inputs(t, s, 8)
	for range 3 {
		if _, err := r.Run(context.Background(), inputs); err != nil {
			t.Fatal(err)
		}
	}
	experts := 0
	for _, n := range s.Profile() {
		if n.Calls != 3 || n.Time < 0 {
			t.Errorf("%+v, want 3 calls", n)
		}
		if n.OpType == "FMoE" {
			experts++
		}
	}
	if experts == 0 {
		t.Error("no FMoE node was timed")
	}
	s.ResetProfile()
	if p := s.Profile(); len(p) != 0 {
		t.Errorf("%d times after they were reset", len(p))
	}
	if p := m.open(t, runtime.Options{}).Profile(); p != nil {
		t.Errorf("%d times that nobody asked for", len(p))
	}
}

func BenchmarkRun(b *testing.B) {
	for _, m := range samples {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/threads=%d", m, threads), func(b *testing.B) {
				s := m.open(b, runtime.Options{Threads: threads})
				r, inputs := s.NewRunner(), m.inputs(b, s, 24)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := r.Run(context.Background(), inputs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
