package runtime_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// childModel is the environment variable by which a process of the test
// learns that it is to run a model and report its memory.
const childModel = "FMOE_TEST_MODEL"

type memoryReport struct {
	Peak int64 // of the process, resident
	runtime.Memory
}

// The peak of a process that loads and runs a model is at most the weights,
// 1.3 times the plan, and what a Go process takes anyway: weights are never in
// memory twice, as the file has them and as kernels do.
func TestPeakMemory(t *testing.T) {
	if path := os.Getenv(childModel); path != "" {
		reportMemory(t, path)
		return
	}
	if raceDetector {
		t.Skip("the race detector takes memory of its own")
	}
	const process = 24 << 20
	for _, test := range []struct {
		name     string
		external onnx.ExternalMode
		nodes    func(t *testing.T, i int) []*onnx.Node
		folded   int64 // bytes of what folding makes of a layer, which is packed then
	}{
		{"products, external data", onnx.ExternalAlways, products, 0},
		{"products, one file", onnx.ExternalNever, products, 0},
		{"products of transposed weights", onnx.ExternalAlways, transposedProducts, layerBytes},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.onnx")
			if err := onnx.WriteFile(path, heavyModel(t, test.nodes), onnx.WriteOptions{External: test.external}); err != nil {
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0], "-test.run=^TestPeakMemory$")
			child.Env = append(os.Environ(), childModel+"="+path)
			out, err := child.CombinedOutput()
			_, text, found := strings.Cut(string(out), "report ")
			var got memoryReport
			if err != nil || !found || json.NewDecoder(strings.NewReader(text)).Decode(&got) != nil {
				t.Fatalf("%v: %s", err, out)
			}
			limit := got.Weights + 13*got.Plan/10 + process + test.folded
			t.Logf("peak %d MB, weights %d MB, plan %d MB", got.Peak>>20, got.Weights>>20, got.Plan>>20)
			if got.Weights < layers*layerBytes || got.Weights > layers*layerBytes*11/10 || got.Plan == 0 {
				t.Errorf("weights of %d bytes and a plan of %d, the model has weights of %d", got.Weights, got.Plan, layers*layerBytes)
			}
			if got.Peak > limit {
				t.Errorf("peak of %d bytes, want at most %d", got.Peak, limit)
			}
		})
	}
}

// heavyModel is a chain of layers, half of which narrow what the others widen.
const (
	layers, narrow, wide = 6, 1024, 4096
	layerBytes           = 4 * narrow * wide
)

func heavyModel(t *testing.T, layer func(*testing.T, int) []*onnx.Node) *onnx.Model {
	var nodes []*onnx.Node
	for i := range layers {
		nodes = append(nodes, layer(t, i)...)
	}
	m := model(t, []string{fmt.Sprintf("x0 float32[n,%d]", narrow)}, []string{fmt.Sprintf("x%d float32[n,%d]", layers, narrow)}, nil, nodes...)
	for i := range layers {
		dims := []int64{narrow, wide}
		if (i%2 == 1) != (len(nodes) > layers) { // it widens, or its transpose does
			dims = []int64{wide, narrow}
		}
		m.Graph.Initializers = append(m.Graph.Initializers, onnx.NewTensor(fmt.Sprintf("w%d", i), onnx.Float32, dims, make([]byte, layerBytes)))
	}
	return m
}

func products(t *testing.T, i int) []*onnx.Node {
	return []*onnx.Node{node(t, fmt.Sprintf("x%d = MatMul(x%d, w%d)", i+1, i, i))}
}

func transposedProducts(t *testing.T, i int) []*onnx.Node {
	return []*onnx.Node{
		node(t, fmt.Sprintf("t%d = Transpose(w%d)", i, i)),
		node(t, fmt.Sprintf("x%d = MatMul(x%d, t%d)", i+1, i, i)),
	}
}

// reportMemory runs the model at path and prints a memoryReport.
func reportMemory(t *testing.T, path string) {
	s, err := runtime.Open(path, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Run(context.Background(), map[string]*tensor.Tensor{"x0": tensor.New(onnx.Float32, 64, narrow)}); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	report := memoryReport{Memory: s.Memory()}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscanf(line, "%d kB", &report.Peak); err != nil {
		t.Fatal(err)
	}
	report.Peak <<= 10
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("report", string(text))
}
