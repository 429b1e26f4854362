package language

import (
	"context"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestTexts: the model gives for inputs of a text what it gives where it reads
// the text itself.
func TestTexts(t *testing.T) {
	for _, test := range []struct {
		name string
		toy  toy
	}{
		{"plain", toy{}},
		{"int32", toy{tokens: onnx.Int32}},
		{"cache, mask and positions", toy{cached: true, mask: true, positions: 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := test.toy.open(t, Options{Context: 3})
			texts, err := NewTexts(test.toy.model(), writeToy(t, test.toy.model(), letters), Options{Context: 3})
			if err != nil {
				t.Fatal(err)
			}
			s, err := runtime.New(test.toy.model(), runtime.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			windows := [][]int{{0, 3, 2}, {4, 1}}
			runs := texts.Inputs("adceb")
			if len(runs) != len(windows) {
				t.Fatalf("%d runs, want %d", len(runs), len(windows))
			}
			for i, inputs := range runs {
				outputs, err := s.Run(context.Background(), inputs)
				if err != nil {
					t.Fatal(err)
				}
				reader, err := m.newSequence(len(windows[i]))
				if err != nil {
					t.Fatal(err)
				}
				want, err := reader.read(context.Background(), windows[i])
				if err != nil {
					t.Fatal(err)
				}
				if got := tensor.Of[float32](outputs["logits"]); !slices.Equal(got, want.values) {
					t.Errorf("window %d: logits %v, want %v", i, got, want.values)
				}
			}
			if runs := texts.Inputs(""); len(runs) != 0 {
				t.Errorf("an empty text has %d runs", len(runs))
			}
		})
	}
	if _, err := NewTexts(&onnx.Model{Graph: &onnx.Graph{}}, "none.onnx", Options{}); err == nil {
		t.Error("a model without inputs was accepted")
	}
}
