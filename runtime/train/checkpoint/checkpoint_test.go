package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// filled is a tensor whose elements depend on a seed.
func filled(t onnx.DataType, seed int64, shape ...int) *tensor.Tensor {
	x := tensor.New(t, shape...)
	if t == onnx.Float32 {
		for i, v := 0, tensor.Of[float32](x); i < len(v); i++ {
			v[i] = float32((int64(i)*37+seed*11)%101)/50 - 1
		}
		return x
	}
	for i := range x.Data {
		x.Data[i] = byte(int64(i)*37 + seed*11)
	}
	return x
}

// sampleModel computes tanh(x·tied + bias)·tiedᵀ + frozen: its matrix serves
// twice. It has weights of other types that no node reads.
func sampleModel() *onnx.Model {
	value := func(name string, dims ...onnx.Dim) *onnx.ValueInfo {
		return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32, Shape: &onnx.Shape{Dims: dims}}}
	}
	rows, width := onnx.Dim{Param: "rows"}, onnx.Dim{Value: 300, Known: true}
	return &onnx.Model{IRVersion: 8, OpsetImports: []onnx.OpsetImport{{Version: 17}}, Graph: &onnx.Graph{
		Name:    "sample",
		Inputs:  []*onnx.ValueInfo{value("x", rows, width)},
		Outputs: []*onnx.ValueInfo{value("y", rows, width)},
		Initializers: []*onnx.Tensor{
			filled(onnx.Float32, 1, 300, 3).ToONNX("tied"),
			filled(onnx.Float32, 2, 3).ToONNX("bias"),
			filled(onnx.Float32, 3, 300).ToONNX("frozen"),
			filled(onnx.BFloat16, 4, 7, 2).ToONNX("half"),
			tensor.FromSlice([]int64{-1, 300}).ToONNX("shape"),
			filled(onnx.Int4, 5, 3000).ToONNX("packed"),
			tensor.FromStrings([]string{"a", "b"}).ToONNX("words"),
		},
		Nodes: []*onnx.Node{
			{OpType: "Gemm", Name: "up", Inputs: []string{"x", "tied", "bias"}, Outputs: []string{"h"}},
			{OpType: "Tanh", Name: "tanh", Inputs: []string{"h"}, Outputs: []string{"a"}},
			{OpType: "Gemm", Name: "down", Inputs: []string{"a", "tied", "frozen"}, Outputs: []string{"z"}, Attributes: []*onnx.Attribute{onnx.IntAttribute("transB", 1)}},
			{OpType: "Reshape", Name: "reshape", Inputs: []string{"z", "shape"}, Outputs: []string{"y"}},
		},
	}}
}

type sampleState struct {
	Seed     uint64
	Position []int64
	Note     string
}

// sampleSnapshot is what a run has at a step.
func sampleSnapshot(step int64) Snapshot {
	return Snapshot{
		Step:    step,
		Model:   sampleModel(),
		Weights: []Named{{Name: "bias", Tensor: filled(onnx.Float32, step, 3)}, {Name: "tied", Tensor: filled(onnx.Float32, step+1, 300, 3)}, {Name: "half", Tensor: filled(onnx.BFloat16, step+2, 7, 2)}},
		Optimizer: []Named{{Name: "adamw.m/tied", Tensor: filled(onnx.Float32, step+3, 300, 3)}, {Name: "adamw.v/tied", Tensor: filled(onnx.Float32, step+4, 300, 3)},
			{Name: "adamw.step", Tensor: tensor.Scalar(step)}, {Name: "master/half", Tensor: filled(onnx.Float64, step+5, 7, 2)}},
		State: sampleState{uint64(step) << 50, []int64{step, -step}, "<&> ü"},
	}
}

func equal(a, b *tensor.Tensor) bool {
	return a.Type == b.Type && slices.Equal(a.Shape, b.Shape) && bytes.Equal(a.Data, b.Data)
}

// checkSample makes sure that a checkpoint holds what sampleSnapshot gave.
func checkSample(c *Checkpoint) error {
	want := sampleSnapshot(c.Step())
	for _, section := range []struct {
		got  *Tensors
		want []Named
	}{{c.Weights, append(want.Weights, Named{Name: "frozen", Tensor: filled(onnx.Float32, 3, 300)})}, {c.Optimizer, want.Optimizer}} {
		if len(section.got.Names()) != len(section.want) {
			return fmt.Errorf("tensors %q", section.got.Names())
		}
		for _, w := range section.want {
			if got, err := section.got.Tensor(w.Name); err != nil || !equal(got, w.Tensor) {
				return fmt.Errorf("%q is not what was saved (%v)", w.Name, err)
			}
		}
	}
	var state sampleState
	if err := c.State(&state); err != nil || !reflect.DeepEqual(state, want.State) {
		return fmt.Errorf("state %+v, %v", state, err)
	}
	m, err := c.Model()
	if err != nil {
		return err
	}
	for _, t := range sampleModel().Graph.Initializers {
		wantTensor := must(tensor.FromONNX(t))
		for _, w := range want.Weights {
			if w.Name == t.Name {
				wantTensor = w.Tensor
			}
		}
		if got, err := tensor.FromONNX(m.Graph.Initializer(t.Name)); err != nil || !equal(got, wantTensor) {
			return fmt.Errorf("initializer %q is not what was saved (%v)", t.Name, err)
		}
	}
	return onnx.Check(m)
}

func save(t testing.TB, dir string, o Options, steps ...int64) {
	t.Helper()
	for _, step := range steps {
		if _, err := Save(dir, sampleSnapshot(step), o); err != nil {
			t.Fatal(err)
		}
	}
}

// names returns the names in a directory, hidden ones included, but for the
// lock.
func names(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	for _, e := range must(os.ReadDir(dir)) {
		if e.Name() != lockName {
			all = append(all, e.Name())
		}
	}
	return all
}

func TestSaveAndOpen(t *testing.T) {
	for _, c := range []struct {
		name               string
		shardBytes         int64
		weights, optimizer int // shards
	}{{"one shard", 0, 1, 1}, {"shards", 4000, 2, 2}, {"a shard for each tensor", 1, 4, 4}} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "runs", "first")
			path, err := Save(dir, sampleSnapshot(1000), Options{ShardBytes: c.shardBytes})
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(dir, "step-00001000"); path != want {
				t.Errorf("path %s, not %s", path, want)
			}
			want := []string{"manifest.json", "model.onnx"}
			for i := range c.optimizer {
				want = append(want, fmt.Sprintf("optimizer-%05d-of-%05d.safetensors", i+1, c.optimizer))
			}
			want = append(want, "state.json")
			for i := range c.weights {
				want = append(want, fmt.Sprintf("weights-%05d-of-%05d.safetensors", i+1, c.weights))
			}
			if got := names(t, path); !slices.Equal(got, want) {
				t.Errorf("files %q, not %q", got, want)
			}
			for _, place := range []string{path, dir, dir + "/"} {
				got, err := Open(place)
				if err != nil {
					t.Fatal(err)
				}
				if err := checkSample(got); err != nil {
					t.Error(err)
				}
				if got.Step() != 1000 || got.Path() != path {
					t.Errorf("step %d of %s", got.Step(), got.Path())
				}
				if err := got.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A checkpoint may be copied anywhere and have any name.
func TestCheckpointMoves(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{}, 7)
	best := filepath.Join(t.TempDir(), "best")
	if err := os.CopyFS(best, os.DirFS(filepath.Join(dir, stepName(7)))); err != nil {
		t.Fatal(err)
	}
	c, err := Open(best)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := checkSample(c); err != nil {
		t.Error(err)
	}
}

// A model that was trained can be saved with what was opened from its
// checkpoint, without a copy of the weights in memory.
func TestSaveWhatWasOpened(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{}, 3)
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next := sampleSnapshot(4)
	next.Model = must(c.Model())
	if _, err := Save(dir, next, Options{}); err != nil {
		t.Fatal(err)
	}
	later, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	if err := checkSample(later); err != nil || later.Step() != 4 {
		t.Errorf("step %d: %v", later.Step(), err)
	}
}

func TestKeep(t *testing.T) {
	for _, c := range []struct {
		options Options
		want    string // the steps that are left
	}{
		{Options{}, "1 2 3 4 5 6 7"},
		{Options{Keep: 1}, "7"},
		{Options{Keep: 3}, "5 6 7"},
		{Options{Keep: 2, KeepEvery: 3}, "3 6 7"},
		{Options{Keep: 100}, "1 2 3 4 5 6 7"},
	} {
		dir := t.TempDir()
		save(t, dir, c.options, 1, 2, 3, 4, 5, 6, 7)
		var want []string
		for step := range strings.FieldsSeq(c.want) {
			want = append(want, "step-0000000"+step)
		}
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("%+v: %q is left, not %q", c.options, got, want)
		}
	}
}

// Damaged checkpoints do not count among those that are kept, and are left to
// their owner; those of later steps are of another run's history.
func TestKeepCountsWhatIsComplete(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{}, 1, 2, 3, 9)
	if err := os.Remove(filepath.Join(dir, stepName(3), stateName)); err != nil {
		t.Fatal(err)
	}
	save(t, dir, Options{Keep: 2}, 4)
	if got, want := names(t, dir), []string{stepName(2), stepName(3), stepName(4), stepName(9)}; !slices.Equal(got, want) {
		t.Errorf("%q is left, not %q", got, want)
	}
	run := must(OpenRun(dir, Options{}))
	if err := errors.Join(run.RemoveAfter(3), run.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, dir), []string{stepName(2), stepName(3)}; !slices.Equal(got, want) {
		t.Errorf("%q is left after step 3, not %q", got, want)
	}
}

func TestSaveReplacesTheSameStep(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{}, 5)
	again := sampleSnapshot(5)
	again.State = "again"
	if _, err := Save(dir, again, Options{Keep: 1}); err != nil {
		t.Fatal(err)
	}
	c := must(Open(dir))
	defer c.Close()
	var state string
	if err := c.State(&state); err != nil || state != "again" {
		t.Errorf("%q, %v", state, err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("%q is left", got)
	}
}

func TestSaveRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Snapshot)
		want   string
	}{
		{"no model", func(s *Snapshot) { s.Model = nil }, "no model"},
		{"a negative step", func(s *Snapshot) { s.Step = -1 }, "negative"},
		{"a weight of another shape", func(s *Snapshot) { s.Weights[0].Tensor = filled(onnx.Float32, 1, 4) }, `the weight "bias" is float32[4], the model's initializer is float32[3]`},
		{"a weight of another type", func(s *Snapshot) { s.Weights[0].Tensor = filled(onnx.Float16, 1, 3) }, `the weight "bias" is float16[3], the model's initializer is float32[3]`},
		{"a weight that the model has not", func(s *Snapshot) { s.Weights[0].Name = "nobody" }, `no initializer "nobody"`},
		{"a weight twice", func(s *Snapshot) { s.Weights[0].Name = "tied" }, `the weight "tied"`},
		{"a weight without value", func(s *Snapshot) { s.Weights[0].Tensor = nil }, `the weight "bias" has no value`},
		{"a tensor of the optimizer twice", func(s *Snapshot) { s.Optimizer[1].Name = "adamw.m/tied" }, `"adamw.m/tied"`},
		{"strings in the optimizer", func(s *Snapshot) { s.Optimizer[0].Tensor = tensor.FromStrings([]string{"a"}) }, "type string"},
		{"a state that is not JSON", func(s *Snapshot) { s.State = func() {} }, "not JSON"},
		{"an infinite number in the state", func(s *Snapshot) { s.State = json.RawMessage("1e") }, "not JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			save(t, dir, Options{}, 1)
			s := sampleSnapshot(2)
			c.change(&s)
			for _, o := range []Options{{}, {ShardBytes: 1}} {
				_, err := Save(dir, s, o)
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %v, not one line with %q and the directory", err, c.want)
				}
				if got := names(t, dir); !slices.Equal(got, []string{stepName(1)}) {
					t.Errorf("%q is left", got)
				}
			}
		})
	}
	if _, err := OpenRun(t.TempDir(), Options{Keep: -1}); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Errorf("keeping −1: error %v", err)
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{ShardBytes: 1}, 6)
	c := must(Open(dir))
	defer c.Close()
	into := func(all []Named) []Named {
		var empty []Named
		for _, n := range all {
			empty = append(empty, Named{Name: n.Name, Tensor: tensor.New(n.Type, n.Shape...)})
		}
		return empty
	}
	want := sampleSnapshot(6)
	weights, optimizer := into(want.Weights), into(want.Optimizer)
	if err := errors.Join(c.Weights.CopyTo(weights), c.Optimizer.CopyAllTo(optimizer)); err != nil {
		t.Fatal(err)
	}
	for i, w := range append(want.Weights, want.Optimizer...) {
		if got := append(weights, optimizer...)[i]; !equal(got.Tensor, w.Tensor) {
			t.Errorf("%q is not what was saved", w.Name)
		}
	}
	x := func(name string, value *tensor.Tensor) []Named {
		return append(into(want.Weights), Named{Name: name, Tensor: value})
	}
	for _, f := range []struct {
		err  error
		want string
	}{
		{c.Weights.CopyTo(x("nobody", tensor.New(onnx.Float32, 1))), `has no weight "nobody"`},
		{c.Weights.CopyTo(x("frozen", tensor.New(onnx.Float32, 301))), `the weight "frozen" is float32[300], not float32[301]`},
		{c.Weights.CopyTo(x("frozen", tensor.New(onnx.Float16, 300))), `the weight "frozen" is float32[300], not float16[300]`},
		{c.Weights.CopyAllTo(into(want.Weights)), `has a weight "frozen", for which there is no use`},
		{c.Optimizer.CopyAllTo(into(want.Optimizer[1:])), `has a tensor of the optimizer "adamw.m/tied"`},
	} {
		if f.err == nil || !strings.Contains(f.err.Error(), f.want) || !strings.Contains(f.err.Error(), c.Path()) {
			t.Errorf("error %v, not one with %q", f.err, f.want)
		}
	}
}

// Several processes may write shards, whose descriptions travel as JSON; what
// they saved is the same as what one saved.
func TestManyWriters(t *testing.T) {
	dir := t.TempDir()
	run := must(OpenRun(dir, Options{}))
	defer run.Close()
	s := sampleSnapshot(8)
	weights := must(Weights(s.Model, s.Weights))
	w := must(run.Begin(s.Step))
	var shards []Shard
	for rank, part := range []struct{ weights, optimizer []Named }{{weights[:1], s.Optimizer[:3]}, {weights[1:], nil}, {nil, s.Optimizer[3:]}} {
		sent := must(json.Marshal(must(WriteShards(w.Path(), rank, part.weights, part.optimizer, Options{ShardBytes: 4000}))))
		var received []Shard
		if err := json.Unmarshal(sent, &received); err != nil {
			t.Fatal(err)
		}
		shards = append(shards, received...)
	}
	path, err := w.Commit(s.Model, s.State, shards)
	if err != nil {
		t.Fatal(err)
	}
	c := must(Open(path))
	defer c.Close()
	if err := checkSample(c); err != nil {
		t.Error(err)
	}

	w = must(run.Begin(9))
	shards = nil
	for rank := range 2 {
		shards = append(shards, must(WriteShards(w.Path(), rank, weights, nil, Options{}))...)
	}
	if _, err := w.Commit(s.Model, s.State, shards); err == nil || !strings.Contains(err.Error(), `weights-00001-of-00002.safetensors and weights-00002-of-00002.safetensors both have a tensor "tied"`) {
		t.Errorf("two writers of the same weights: error %v", err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{stepName(8)}) {
		t.Errorf("%q is left", got)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	run := must(OpenRun(dir, Options{}))
	_, err := OpenRun(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "another run saves there") || !strings.Contains(err.Error(), fmt.Sprintf("process %d on ", os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second run: error %v", err)
	}
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	save(t, dir, Options{}, 1)
}

func TestExport(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{ShardBytes: 1}, 1, 2)
	for _, external := range []onnx.ExternalMode{onnx.ExternalNever, onnx.ExternalAlways} {
		out := filepath.Join(t.TempDir(), "out.onnx")
		if err := Export(dir, out, onnx.WriteOptions{External: external}); err != nil {
			t.Fatal(err)
		}
		m, err := onnx.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		want := sampleModel()
		if len(m.Graph.Initializers) != len(want.Graph.Initializers) || !slices.Equal(m.Graph.Nodes[0].Inputs, want.Graph.Nodes[0].Inputs) || !slices.Equal(m.Graph.Nodes[2].Inputs, want.Graph.Nodes[2].Inputs) {
			t.Error("the graph changed")
		}
		if got := must(tensor.FromONNX(m.Graph.Initializer("tied"))); !equal(got, filled(onnx.Float32, 3, 300, 3)) {
			t.Error("the weights are not those of the newest checkpoint")
		}
		if err := onnx.Check(m); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{modelName, "other.onnx"} {
		if err := Export(dir, filepath.Join(dir, stepName(2), name), onnx.WriteOptions{}); err == nil || !strings.Contains(err.Error(), "choose a file elsewhere") {
			t.Errorf("into the checkpoint: error %v", err)
		}
	}
	if newest(t, dir) != 2 {
		t.Error("an export damaged the checkpoint")
	}
	// The optimizer's state is not needed, the weights are.
	if err := os.Remove(filepath.Join(dir, stepName(2), "optimizer-00001-of-00004.safetensors")); err != nil {
		t.Fatal(err)
	}
	if err := Export(dir, filepath.Join(t.TempDir(), "out.onnx"), onnx.WriteOptions{}); err != nil {
		t.Error(err)
	}
	flip(t, filepath.Join(dir, stepName(1), "weights-00002-of-00004.safetensors"))
	for path, wanted := range map[string]string{
		filepath.Join(dir, stepName(1)): "weights-00002-of-00004.safetensors: its checksum is",
		t.TempDir():                     "there is no checkpoint in",
		filepath.Join(dir, "nowhere"):   "no such file",
	} {
		out := filepath.Join(t.TempDir(), "out.onnx")
		if err := Export(path, out, onnx.WriteOptions{}); err == nil || !strings.Contains(err.Error(), wanted) {
			t.Errorf("%s: error %v, not one with %q", path, err, wanted)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a file was written in spite of the error", path)
		}
	}
}

// A model that was saved and exported again, whoever made it, is the same model.
func TestExportOfSampleModels(t *testing.T) {
	paths := must(filepath.Glob("../../../models/*/model.onnx"))
	if len(paths) < 4 {
		t.Fatalf("models %q", paths)
	}
	encoded := func(path string) []byte {
		m, err := onnx.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Embed(); err != nil {
			t.Fatal(err)
		}
		for i, w := range m.Graph.Initializers { // in whatever field their elements are
			m.Graph.Initializers[i] = must(tensor.FromONNX(w)).ToONNX(w.Name)
		}
		return must(onnx.Encode(m))
	}
	for _, path := range paths {
		m, err := onnx.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out.onnx")
		if _, err := Save(dir, Snapshot{Step: 1, Model: m}, Options{ShardBytes: 1 << 20, files: sound()}); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := Export(dir, out, onnx.WriteOptions{}); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if !bytes.Equal(encoded(path), encoded(out)) {
			t.Errorf("%s is another model after it was saved and exported", path)
		}
	}
}

// flip changes one bit in the last byte of a file.
func flip(t testing.TB, path string) {
	t.Helper()
	content := must(os.ReadFile(path))
	content[len(content)-1] ^= 1
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
}
