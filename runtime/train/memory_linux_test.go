package train_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train"
)

// resident returns the bytes that this process has in memory, pages of files
// included.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// A worker has its own experts in memory, and no more of the model's file.
func TestWorkersMemory(t *testing.T) {
	const experts, hidden, model, workers = 8, 4096, 1024, 4
	path := filepath.Join(t.TempDir(), "model.onnx")
	writeExperts(t, path, experts, hidden, model)
	bytes := 2 * experts * hidden * model * 4
	groups := make([]*comm.Groups, workers)
	err := comm.RunLocal(t.Context(), workers, comm.Options{}, func(ctx context.Context, c comm.Communicator) (err error) {
		groups[c.Rank()], err = comm.NewGroups(ctx, c, comm.Layout{Expert: workers})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	before := resident(t)
	m, err := onnx.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	o := train.DefaultOptions()
	o.Optimizer = train.DefaultOptimizer(train.SGD)
	o.Optimizer.Momentum = 0
	o.Loss.Kind, o.Workers = train.Output, groups[2]
	trainer, err := train.New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	if got := resident(t) - before; got > bytes/workers*11/10 {
		t.Errorf("one of %d workers has %d KiB in memory for experts of %d KiB", workers, got>>10, bytes>>10)
	}
}

// writeExperts writes a model of one layer, whose output is its loss.
func writeExperts(t *testing.T, path string, experts, hidden, width int) {
	t.Helper()
	weight := func(name string, shape ...int) *onnx.Tensor {
		x := tensor.New(onnx.Float32, shape...)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = float32(i%7) - 3
		}
		return x.ToONNX(name)
	}
	value := func(name string, dims ...onnx.Dim) *onnx.ValueInfo {
		return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32, Shape: &onnx.Shape{Dims: dims}}}
	}
	m := &onnx.Model{IRVersion: 10, OpsetImports: []onnx.OpsetImport{{Version: 20}, {Domain: moe.Domain, Version: moe.Version}}, Graph: &onnx.Graph{
		Name: "experts", Inputs: []*onnx.ValueInfo{value("x", onnx.Dim{Param: "tokens"}, onnx.Dim{Known: true, Value: int64(width)})},
		Outputs: []*onnx.ValueInfo{value("loss")},
		Initializers: []*onnx.Tensor{weight("gate", width, experts), weight("fc1", experts, hidden, width),
			weight("fc2", experts, width, hidden)},
		Nodes: []*onnx.Node{
			{Name: "experts", Domain: moe.Domain, OpType: moe.OpType, Inputs: []string{"x", "gate", "", "fc1", "", "fc2"}, Outputs: []string{"y"},
				Attributes: []*onnx.Attribute{onnx.IntAttribute("top_k", 2)}},
			{Name: "loss", OpType: "ReduceMean", Inputs: []string{"y"}, Outputs: []string{"loss"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}},
		},
	}}
	if err := onnx.WriteFile(path, m, onnx.WriteOptions{External: onnx.ExternalAlways}); err != nil {
		t.Fatal(err)
	}
}
