package benchmark

import (
	"testing"

	"github.com/fmoe-go/fmoe/internal/benchmodel"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/dataset"
)

func TestCountWork(t *testing.T) {
	const d, h, vocabulary, layers = 16, 32, 50, 2
	small := benchmodel.Transformer{Layers: layers, Model: d, Heads: 2, Hidden: h, Vocabulary: vocabulary, Positions: 20}
	// The weights of a layer: projections with biases, MLP and two norms.
	const matrices, vectors = 4*d*d + 2*d*h, 4*d + h + d + 4*d
	tests := []struct {
		name              string
		model             *onnx.Model
		dims              map[string]int
		operations, bytes float64
	}{
		{"product", benchmodel.Product(3, 5), map[string]int{"rows": 7}, 2 * 7 * 3 * 5, 4 * 3 * 5},
		{"mixture of few tokens", benchmodel.Mixture{Experts: 8, TopK: 2, Model: d, Hidden: h}.Layer(), map[string]int{"tokens": 1},
			2 * (d*8 + 2*2*d*h), 4 * (d*8 + 2*(2*d*h+d+h))},
		{"mixture of many tokens", benchmodel.Mixture{Experts: 8, TopK: 2, Model: d, Hidden: h}.Layer(), map[string]int{"tokens": 100},
			100 * 2 * (d*8 + 2*2*d*h), 4 * (d*8 + 8*(2*d*h+d+h))},
		{"decoder", small.Decoder(), map[string]int{"batch": 1, "sequence": 3, "past_sequence": 4},
			2 * 3 * (layers*(matrices+2*7*d) + d*vocabulary),
			4 * (layers*(matrices+vectors) + d*vocabulary + 2*d + 2*3*d)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inputs, err := dataset.Random(test.model, test.model.Graph.Inputs, test.dims, 1)
			if err != nil {
				t.Fatal(err)
			}
			work, err := CountWork(test.model, inputs)
			if err != nil {
				t.Fatal(err)
			}
			if work.Operations != test.operations {
				t.Errorf("%v operations, want %v", work.Operations, test.operations)
			}
			// Numbers in formulas and shapes count too, and are little.
			if work.Bytes < test.bytes || work.Bytes > test.bytes+1200 {
				t.Errorf("%v bytes, want %v", work.Bytes, test.bytes)
			}
		})
	}
}

func TestMeasureMachine(t *testing.T) {
	if m := MeasureMachine(2); !(m.Peak > 1e8 && m.Bandwidth > 1e8) {
		t.Errorf("%+v", m)
	}
}

func TestSteady(t *testing.T) {
	var kept [][]byte
	times, allocations, err := Steady(10, func() error {
		kept = append(kept[:0], make([]byte, 100))
		return nil
	})
	if err != nil || len(times) != 10 || allocations < 1 || allocations > 5 {
		t.Errorf("%d runs with %v allocations each, %v", len(times), allocations, err)
	}
}
