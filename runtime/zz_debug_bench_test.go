package runtime_test

import (
	"fmt"
	"testing"

	"github.com/fmoe-go/fmoe/internal/benchmodel"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
)

func TestBenchDump(t *testing.T) {
	tiny := benchmodel.Transformer{Layers: 1, Model: 16, Heads: 2, Hidden: 32, Vocabulary: 50, Positions: 20}
	for _, m := range []*onnx.Model{tiny.Decoder(), tiny.Encoder()} {
		s, err := runtime.New(m, runtime.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(s.Listing())
	}
}
