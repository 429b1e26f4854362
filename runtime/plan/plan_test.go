package plan_test

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/plan"
)

// eight is a model of four layers of eight experts.
func eight() *plan.Model {
	m := &plan.Model{Length: 128, Dense: 1e7, Experts: 4 * 8 * 2 * 256 * 1024, Operations: 128 * (2e7 + 4*2*4*256*1024), Activations: 1e7, Depth: 4, Width: 256}
	for range 4 {
		l := plan.Layer{Name: "moe", Experts: 8, TopK: 2, DModel: 256, DHidden: 1024, Products: 2, Load: make([]float64, 8)}
		for e := range l.Load {
			l.Load[e] = 1.0 / 8
		}
		m.Layers = append(m.Layers, l)
	}
	return m
}

func cluster(t testing.TB) *plan.Cluster {
	t.Helper()
	c, err := plan.ReadCluster("../../docs/cluster-1024.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func predict(t *testing.T, m *plan.Model, c *plan.Cluster, layout string, o plan.Options) *plan.Prediction {
	t.Helper()
	l, err := comm.ParseLayout(layout)
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Predict(c, l, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProperties(t *testing.T) {
	c, m := cluster(t), eight()
	o := plan.Options{Batch: 1024}
	alone := predict(t, m, c, "", o)
	if len(alone.Collectives) > 0 || alone.Wire != 0 || alone.Bubble != 0 {
		t.Errorf("one worker communicates: %+v", alone)
	}
	parameters := 4 * (m.Dense + m.Experts)
	if got := alone.Memory; got.Weights != parameters || got.Gradients != parameters || got.Optimizer != 2*parameters {
		t.Errorf("memory of one worker is %+v, its parameters are %g bytes", got, parameters)
	}

	t.Run("experts are divided", func(t *testing.T) {
		p := predict(t, m, c, "expert=4,tensor=2", o)
		if want := 4 * (m.Dense + m.Experts/8); math.Abs(p.Memory.Weights-want) > 1 {
			t.Errorf("weights of %g bytes, want %g", p.Memory.Weights, want)
		}
	})
	t.Run("sharding", func(t *testing.T) {
		whole := predict(t, m, c, "data=8", o)
		sharded := predict(t, m, c, "data=8", plan.Options{Batch: 1024, ShardOptimizer: true})
		if got, want := sharded.Memory.Optimizer, whole.Memory.Optimizer/8; math.Abs(got-want) > 1 {
			t.Errorf("optimizer state of %g bytes, want %g", got, want)
		}
		if math.Abs(sharded.Wire-whole.Wire) > 1e-9 {
			t.Errorf("sharding sends for %g s, summing for %g s", sharded.Wire, whole.Wire)
		}
	})
	t.Run("slower links take longer", func(t *testing.T) {
		slow := *c
		slow.Between.Bandwidth /= 10
		for _, layout := range []string{"data=16", "data=4,expert=8", "data=16,slice=2,tensor=2", "data=8,pipeline=4"} {
			if a, b := predict(t, m, c, layout, o), predict(t, m, &slow, layout, o); !(a.Step < b.Step) {
				t.Errorf("%s: a step takes %g s, %g s with a tenth of the bandwidth", layout, a.Step, b.Step)
			}
		}
	})
	t.Run("uneven load takes longer", func(t *testing.T) {
		skewed := eight()
		for i := range skewed.Layers {
			copy(skewed.Layers[i].Load, []float64{0.65, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05})
		}
		if a, b := predict(t, m, c, "expert=8", o), predict(t, skewed, c, "expert=8", o); !(b.Experts > 4*a.Experts && b.Step > a.Step) {
			t.Errorf("experts take %g s, with one of 65 %% of the rows %g s", a.Experts, b.Experts)
		}
	})
	t.Run("workers that share cores", func(t *testing.T) {
		shared := *c
		shared.Shared, shared.Nodes, shared.Workers = true, 1, 2
		a, b := predict(t, m, &shared, "", o), predict(t, m, &shared, "data=2", o)
		if math.Abs(a.Dense-b.Dense) > 1e-9*a.Dense {
			t.Errorf("products take %g s on one worker, %g s on two of the same cores", a.Dense, b.Dense)
		}
	})
}

func TestLayouts(t *testing.T) {
	c, m := cluster(t), eight()
	for _, workers := range []int{1, 2, 3, 12, 64, 1024, plan.MaxWorkers} {
		list, fit, err := m.Layouts(c, workers, plan.Options{Batch: 4 * workers})
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range list {
			if p.Layout.Size() != workers {
				t.Fatalf("%s is not for %d workers", p.Layout, workers)
			}
			if !(p.Step > 0 && p.Efficiency > 0 && p.Efficiency <= 1) || p.Total != p.Memory.Total() {
				t.Fatalf("%s: %+v", p.Layout, p)
			}
			if i > 0 && i < fit && list[i-1].Step > p.Step {
				t.Fatalf("%s is faster than what comes before", p.Layout)
			}
		}
	}
	if _, _, err := m.Layouts(c, 0, plan.Options{Batch: 1}); err == nil {
		t.Error("no workers were planned for")
	}
}

func TestDescribe(t *testing.T) {
	for _, name := range []string{"gpt-megatron", "bert", "llama"} {
		m, err := onnx.ReadFile("../../models/" + name + "/model.onnx")
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		one, err := plan.Describe(m, 16)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		two, err := plan.Describe(m, 32)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !(one.Operations > 0 && one.Dense > 0 && one.Activations > 0) || two.Operations < 2*one.Operations || two.Dense != one.Dense {
			t.Errorf("%s: %+v, of twice the tokens %+v", name, one, two)
		}
	}
}

func TestClusterErrors(t *testing.T) {
	text, err := os.ReadFile("../../docs/cluster-1024.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"nodes: 128", "nodes: 0", "nodes: 0 must be from 1"},
		{"flops: 400e12", "flop: 400e12", "flop not found"},
		{"memory: 80e9", "memory: .inf", "memory: +Inf must be"},
		{"overlap: 0.8", "overlap: 2", "overlap: 2 must be from 0 to 1"},
		{"latency: 10e-6", "latency: -1", "between.latency"},
		{"nodes: 128", "nodes: many", "cannot unmarshal"},
	} {
		_, err := plan.ParseCluster([]byte(strings.Replace(string(text), c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.new, err, c.want)
		}
	}
	if _, err := plan.ParseCluster(nil); err == nil {
		t.Error("an empty file is a cluster")
	}
}

func TestLoad(t *testing.T) {
	even := `[0.125,0.125,0.125,0.125,0.125,0.125,0.125,0.125]`
	layers := strings.TrimSuffix(strings.Repeat(`{"load":`+even+`},`, 4), ",")
	for _, c := range []struct{ text, want string }{
		{`{"routing":{"layers":[` + layers + `]}}`, ""},
		{`{"record":"run"}` + "\n" + `{"record":"step","layers":[` + layers + `]}`, ""},
		{`{"layers":[]}`, "of 0 mixtures"},
		{`{"layers":[` + strings.Replace(layers, "0.125", "0.5", 1) + `]}`, "add up to"},
		{`{"layers":[` + strings.Replace(layers, "0.125", "null", 1) + `]}`, "no share"},
		{`nothing`, "no JSON"},
	} {
		err := eight().SetLoad([]byte(c.text))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: error %v, want %q", c.text, err, c.want)
		}
	}
}

func FuzzParseCluster(f *testing.F) {
	text, err := os.ReadFile("../../docs/cluster-1024.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := plan.ParseCluster(text); err == nil && c.Size() < 1 {
			t.Errorf("a cluster of %d workers", c.Size())
		}
	})
}

// A machine is described such that one worker's step is met.
func TestFit(t *testing.T) {
	c, m, o := cluster(t), eight(), plan.Options{Batch: 64}
	for _, factor := range []float64{0.8, 1, 3} {
		want := factor * predict(t, m, c, "", o).Step
		if err := m.Fit(c, o, want); err != nil {
			t.Fatal(err)
		}
		if got := predict(t, m, c, "", o).Step; math.Abs(got-want) > 1e-6*want {
			t.Errorf("a step of %g s is predicted to take %g", want, got)
		}
	}
}
