package checkpoint_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/checkpoint"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	w := tensor.FromSlice([]float32{1, 2})
	model := &onnx.Model{IRVersion: 8, OpsetImports: []onnx.OpsetImport{{Version: 17}},
		Graph: &onnx.Graph{Name: "g", Initializers: []*onnx.Tensor{w.Clone().ToONNX("w")}}}

	run, err := checkpoint.OpenRun(filepath.Join(dir, "run"), checkpoint.Options{Keep: 3})
	if err != nil {
		log.Fatal(err)
	}
	defer run.Close()
	momentum := tensor.FromSlice([]float32{0.5, 0.5})
	copy(tensor.Of[float32](w), []float32{3, 4}) // a step of training
	_, err = run.Save(checkpoint.Snapshot{
		Step:      100,
		Model:     model,
		Weights:   []checkpoint.Named{{Name: "w", Tensor: w}},
		Optimizer: []checkpoint.Named{{Name: "momentum/w", Tensor: momentum}},
		State:     map[string]int{"batch": 100},
	})
	if err != nil {
		log.Fatal(err)
	}

	c, err := checkpoint.Open(filepath.Join(dir, "run"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	resumed := tensor.New(onnx.Float32, 2)
	if err := c.Weights.CopyTo([]checkpoint.Named{{Name: "w", Tensor: resumed}}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Step(), tensor.Of[float32](resumed), c.Optimizer.Names())
	// Output: 100 [3 4] [momentum/w]
}
