package benchmodel

import (
	"math"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

var tiny = Transformer{Layers: 2, Model: 16, Heads: 2, Hidden: 32, Vocabulary: 50, Positions: 20}

func open(t *testing.T, m *onnx.Model) *runtime.Session {
	t.Helper()
	s, err := runtime.New(m, runtime.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func run(t *testing.T, s *runtime.Session, inputs map[string]*tensor.Tensor) map[string]*tensor.Tensor {
	t.Helper()
	outputs, err := s.Run(t.Context(), inputs)
	if err != nil {
		t.Fatal(err)
	}
	return outputs
}

func integers(values ...int64) *tensor.Tensor { return tensor.FromSlice(values, 1, len(values)) }

// TestDecoderCaches: reading a text in two parts gives the logits of reading
// it at once.
func TestDecoderCaches(t *testing.T) {
	s := open(t, tiny.Decoder())
	inputs := map[string]*tensor.Tensor{"input_ids": integers(3, 1, 4, 1, 5), "attention_mask": integers(1, 1, 1, 1, 1), "position_ids": integers(0, 1, 2, 3, 4)}
	for _, v := range s.Inputs()[3:] {
		inputs[v.Name] = tensor.New(onnx.Float32, 1, 2, 0, 8)
	}
	want := tensor.Of[float32](run(t, s, inputs)["logits"])[3*tiny.Vocabulary:]

	inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"] = integers(3, 1, 4), integers(1, 1, 1), integers(0, 1, 2)
	first := run(t, s, inputs)
	for _, v := range s.Inputs()[3:] {
		inputs[v.Name] = first["present."+v.Name[len("past_key_values."):]]
	}
	inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"] = integers(1, 5), integers(1, 1, 1, 1, 1), integers(3, 4)
	got := tensor.Of[float32](run(t, s, inputs)["logits"])
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > 1e-5 {
			t.Fatalf("logit %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// TestEncoderMask: what the mask hides changes nothing.
func TestEncoderMask(t *testing.T) {
	s := open(t, tiny.Encoder())
	var results [2][]float32
	for i, last := range []int64{7, 9} {
		outputs := run(t, s, map[string]*tensor.Tensor{"input_ids": integers(1, 2, last), "attention_mask": integers(1, 1, 0), "token_type_ids": integers(0, 0, 0)})
		results[i] = tensor.Of[float32](outputs["last_hidden_state"])[:2*tiny.Model]
	}
	for i, x := range results[0] {
		if x != results[1][i] {
			t.Fatalf("element %d is %v and %v", i, x, results[1][i])
		}
	}
}

func TestLayerRouting(t *testing.T) {
	const tokens = 512
	for _, test := range []struct {
		favoured    int
		least, most int64 // tokens of an expert
	}{{0, 64, 192}, {2, 0, tokens}} {
		m := Mixture{Experts: 8, TopK: 2, Model: 64, Hidden: 16, Favoured: test.favoured}.Layer()
		node := m.Graph.Nodes[0]
		node.Outputs = append(node.Outputs, "", "count")
		m.Graph.Outputs = append(m.Graph.Outputs, value("count", onnx.Int64, 8))
		s := open(t, m)
		inputs, err := dataset.Random(m, s.Inputs(), map[string]int{"tokens": tokens}, 1)
		if err != nil {
			t.Fatal(err)
		}
		counts := tensor.Of[int64](run(t, s, inputs)["count"])
		for e, n := range counts {
			if n < test.least || n > test.most || test.favoured > 0 && (n == tokens) != (e < test.favoured) {
				t.Errorf("with %d favoured the experts get %v tokens", test.favoured, counts)
				break
			}
		}
		if node.OpType != moe.OpType {
			t.Errorf("the node is a %s", node.OpType)
		}
	}
}

func TestWeights(t *testing.T) {
	weights, err := tensor.FromONNX(Product(300, 400).Graph.Initializers[0])
	if err != nil {
		t.Fatal(err)
	}
	sum, squares := 0.0, 0.0
	for _, x := range tensor.Of[float32](weights) {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	n := float64(weights.Len())
	if mean, std := sum/n, math.Sqrt(squares/n); math.Abs(mean) > 2e-4 || math.Abs(std-weightStd) > 2e-4 {
		t.Errorf("mean %v, standard deviation %v, want 0 and %v", mean, std, weightStd)
	}
}
