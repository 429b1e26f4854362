package runtime_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/runtime"
)

// unfused lists what stays of the decompositions of normalisations, attention
// and activations in models of exporters, and why.
var unfused = map[string][]string{
	"bert-torchscript-training":    {"Softmax", "Softmax"}, // Dropout behind softmax
	"t5-v1.1-torchscript-training": {"Softmax", "Softmax", "Softmax", "Softmax", "Softmax"},
	// Heads and texts are one axis.
	"bloom-dynamo":               {"Softmax", "Softmax"},
	"bloom-torchscript":          {"Softmax", "Softmax"},
	"bloom-torchscript-cache":    {"Softmax", "Softmax"},
	"megatron-gpt-dynamo":        {"Softmax", "Softmax"},
	"megatron-gpt-swiglu-dynamo": {"Softmax", "Softmax"},
	"megatron-gpt-torchscript":   {"Softmax", "Softmax"},
	"deberta-v2-dynamo":          {"Softmax", "Softmax"},
	"deberta-v2-torchscript":     {"Softmax", "Softmax"},
	"mobilebert-dynamo":          {"Softmax", "Softmax"}, // lengths that Pad gives back
	"mixtral-dynamo":             {"Softmax", "Softmax"}, // routers
	"mixtral-torchscript":        {"Softmax", "Softmax"},
	"olmoe-torchscript":          {"Softmax", "Softmax"},
	"qwen3-moe-torchscript":      {"Softmax", "Softmax"},
	"swin-dynamo":                {"ReduceMean"}, // pooling
}

// TestCoverage: in models of many architectures and exporters, everything
// that passes are to recognise is recognised, but for known exceptions.
func TestCoverage(t *testing.T) {
	files, err := filepath.Glob("../models/zoo/*/model.onnx")
	if err != nil || len(files) == 0 {
		t.Fatalf("no models: %v", err)
	}
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		s, err := runtime.Open(f, runtime.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		left := s.NodeTypes()
		s.Close()
		left = slices.DeleteFunc(left, func(op string) bool {
			return !slices.Contains([]string{"Softmax", "Erf", "Sigmoid", "ReduceMean"}, op)
		})
		if !slices.Equal(left, unfused[name]) {
			t.Errorf("%s: left are %q, want %q", name, left, unfused[name])
		}
	}
}
