package runtime_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// fmoeModel has one FMoE node of 8 experts between two nodes, with inputs
// beside x by slot. All of its outputs are the model's, Y behind a node.
func fmoeModel(t testing.TB, config moe.Config, inputs map[int]string) *onnx.Model {
	r := rand.New(rand.NewPCG(1, 2))
	weight := func(shape ...int) *tensor.Tensor {
		w := tensor.New(onnx.Float32, shape...)
		for i := range tensor.Of[float32](w) {
			tensor.Of[float32](w)[i] = float32(r.NormFloat64())
		}
		return w
	}
	n := &onnx.Node{Name: "layers.0.moe", Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(),
		Inputs: make([]string, moe.InputCount), Outputs: moe.OutputNames[:moe.OutputHidden]}
	for slot, name := range map[int]string{moe.InputX: "a", moe.InputGateWeight: "gate", moe.InputFC1Weight: "fc1", moe.InputFC2Weight: "fc2"} {
		n.Inputs[slot] = name
	}
	graphInputs := []string{"x float32[batch,tokens,4]"}
	for slot, declared := range inputs {
		n.Inputs[slot], _, _ = strings.Cut(declared, " ")
		if strings.Contains(declared, " ") {
			graphInputs = append(graphInputs, declared)
		}
	}
	m := model(t, graphInputs, []string{"z float32[batch,tokens,4]", "aux_loss float32[]", "expert_count int64[8]", "z_loss float32[]",
		"expert_indices int64[batch,tokens,slots]", "expert_scores float32[batch,tokens,slots]", "router_logits float32[batch,tokens,8]"},
		map[string]*tensor.Tensor{"gate": weight(4, 8), "noise": weight(4, 8), "fc1": weight(8, 16, 4), "fc2": weight(8, 4, 16)},
		node(t, "a = Neg(x)"), n, node(t, "z = Add(Y, x)"))
	m.OpsetImports = append(m.OpsetImports, onnx.OpsetImport{Domain: moe.Domain, Version: moe.Version})
	return m
}

// A gate that is not registered is refused with what to do about it, even
// where the file has a function for runtimes that do not know FMoE.
func TestUnknownGate(t *testing.T) {
	config := moe.NaiveConfig(2, moe.GELU)
	config.Gate = "test-session"
	m := fmoeModel(t, config, nil)
	m.Graph.Nodes[1].Outputs, m.Graph.Outputs = []string{"Y"}, m.Graph.Outputs[:1]
	m.Functions = []*onnx.Function{{Domain: moe.Domain, Name: moe.OpType, Inputs: moe.InputNames[:], Outputs: []string{"Y"},
		OpsetImports: m.OpsetImports, Nodes: []*onnx.Node{node(t, "Y = Identity(X)")}}}
	_, err := runtime.New(m, runtime.Options{})
	if err == nil {
		t.Fatal("a session was made")
	}
	for _, want := range []string{`"layers.0.moe"`, `gate "test-session" is not known; there are `, "moe.Register", "fmoefy regate"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	naive, err := moe.KindOf(moe.GateNaive)
	if err != nil {
		t.Fatal(err)
	}
	naive.Name = config.Gate
	moe.Register(naive)
	open(t, m)
}

// The step of training is an input like others; the same one gives the same
// bits, with passes and without.
func TestTrainingSteps(t *testing.T) {
	config := moe.DefaultConfig(moe.GateNoisy)
	config.TopK = 2
	m := fmoeModel(t, config, map[int]string{moe.InputNoiseWeight: "noise", moe.InputStep: "step int64[]", moe.InputMask: "mask bool[batch,tokens]"})
	x, mask := tensor.New(onnx.Float32, 3, 5, 4), tensor.New(onnx.Bool, 3, 5)
	for i := range tensor.Of[float32](x) {
		tensor.Of[float32](x)[i] = float32(i%7) - 3
	}
	for i := range mask.Data {
		mask.Data[i] = byte(min(i%4, 1))
	}
	var sessions []*runtime.Session
	for _, o := range []runtime.Options{{Threads: 1}, {Threads: 2, NoFusion: true}} {
		s, err := runtime.New(m, o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		sessions = append(sessions, s)
	}
	run := func(s *runtime.Session, step int64) map[string]*tensor.Tensor {
		out, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x": x, "mask": mask, "step": tensor.Scalar(step)})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first, second := run(sessions[0], 0), run(sessions[0], 1)
	for name, got := range run(sessions[1], 0) {
		if again := run(sessions[0], 0)[name]; !bytes.Equal(got.Data, first[name].Data) || !bytes.Equal(again.Data, got.Data) {
			t.Errorf("%s of equal steps differs", name)
		}
	}
	for _, name := range []string{"expert_scores", "aux_loss", "z"} {
		if bytes.Equal(first[name].Data, second[name].Data) {
			t.Errorf("%s of different steps is equal", name)
		}
	}
	rows := int64(0)
	for _, n := range tensor.Of[int64](first["expert_count"]) {
		rows += n
	}
	if want := int64(2 * (15 - 4)); rows != want {
		t.Errorf("%d rows, want %d of the tokens that are not masked", rows, want)
	}
}

// What a gate decides about is part of the memory that is planned.
func TestRoutingMemory(t *testing.T) {
	s := open(t, fmoeModel(t, moe.NaiveConfig(2, moe.GELU), nil))
	const tokens = 1000
	if _, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x": tensor.New(onnx.Float32, 1, tokens, 4)}); err != nil {
		t.Fatal(err)
	}
	// Logits in two types, choices and scores, the rows that experts compute.
	if got, least := s.Memory().Plan, int64(tokens*(8*(4+8)+2*(4+8)+2*4*(16+4))); got < least {
		t.Errorf("a plan of %d bytes, want at least %d", got, least)
	}
}
