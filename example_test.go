package fmoe_test

import (
	"context"
	"fmt"
	"log"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Rewrite a model into mixtures of experts and run it, without writing a file.
func Example() {
	model, err := onnx.ReadFile("models/gpt-megatron/model.onnx")
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()

	report, err := fmoefy.Rewrite(model, fmoefy.Options{NumExperts: 8, TopK: 2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(report.Blocks), "blocks, the same function:", report.Equal)

	session, err := runtime.New(model, runtime.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	tokens := tensor.FromSlice([]int64{'L', 'i', 'g', 'h', 't'}, 1, 5)
	outputs, err := session.Run(context.Background(), map[string]*tensor.Tensor{"input_ids": tokens})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("logits:", outputs["logits"])

	// Output:
	// 6 blocks, the same function: true
	// logits: float32[1,5,256]
}
