package checkpoint

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// partOf cuts a box out of a tensor.
func partOf(n Named, from, size []int) Named {
	part := Named{Name: n.Name, Tensor: tensor.New(n.Type, size...), Part: &safetensors.Part{Shape: n.Shape, From: from}}
	if err := part.TakeFrom(n.Tensor); err != nil {
		panic(err)
	}
	return part
}

// process is what one of several processes has.
type process struct{ weights, optimizer []Named }

// divided deals a snapshot out to three processes. All have some of it, and
// each has a part of what is large, by rows or by columns.
func divided(s Snapshot, columns bool) []process {
	weights := must(Weights(s.Model, s.Weights))
	tied := slices.IndexFunc(weights, func(n Named) bool { return n.Name == "tied" })
	var list []process
	for rank := range 3 {
		p := process{optimizer: slices.Clone(s.Optimizer[2:])}
		for i, n := range weights {
			if i == tied {
				n = partOf(n, []int{100 * rank, 0}, []int{100, 3})
			}
			p.weights = append(p.weights, n)
		}
		from, size := []int{100 * rank, 0}, []int{100, 3}
		if columns {
			from, size = []int{0, rank}, []int{300, 1}
		}
		p.optimizer = append(p.optimizer, partOf(s.Optimizer[0], from, size))
		if rank != 1 { // the first one and the last share it
			p.optimizer = append(p.optimizer, partOf(s.Optimizer[1], []int{75 * rank, 0}, []int{150, 3}))
		}
		list = append(list, p)
	}
	return list
}

// savePlanned saves what processes have, which tell one another all in JSON.
func savePlanned(r *Run, s Snapshot, processes []process) (path string, err error) {
	pieces := make([][]Piece, len(processes))
	for i, p := range processes {
		if err := json.Unmarshal(must(json.Marshal(Pieces(p.weights, p.optimizer))), &pieces[i]); err != nil {
			return "", err
		}
	}
	w, err := r.Begin(s.Step)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			w.Abort()
		}
	}()
	planned, err := w.Plan(pieces)
	if err != nil {
		return "", err
	}
	var plan Plan
	if err := json.Unmarshal(must(json.Marshal(planned)), &plan); err != nil {
		return "", err
	}
	for rank, p := range processes {
		if err := plan.Write(rank, p.weights, p.optimizer, r.options); err != nil {
			return "", err
		}
	}
	var shards []Shard
	for rank := range processes {
		list, err := plan.Sum(rank)
		if err != nil {
			return "", err
		}
		shards = append(shards, list...)
	}
	return w.Commit(s.Model, s.State, shards)
}

// What processes save together, each parts of the same tensors, is what one
// saves, and each finds its part again.
func TestPlan(t *testing.T) {
	for _, shardBytes := range []int64{0, 1000} {
		dir := t.TempDir()
		run := must(OpenRun(dir, Options{ShardBytes: shardBytes}))
		s := sampleSnapshot(8)
		processes := divided(s, true)
		path, err := savePlanned(run, s, processes)
		if err != nil {
			t.Fatal(err)
		}
		c := must(Open(path))
		if err := checkSample(c); err != nil {
			t.Error(err)
		}
		for rank, p := range processes {
			for _, n := range p.optimizer {
				got := n
				got.Tensor = tensor.New(n.Type, n.Shape...)
				if err := c.Optimizer.CopyTo([]Named{got}); err != nil || !equal(got.Tensor, n.Tensor) {
					t.Errorf("process %d finds another %q (%v)", rank, n.Name, err)
				}
			}
		}
		c.Close()
		run.Close()
	}
}

func TestPlanRefuses(t *testing.T) {
	run := must(OpenRun(t.TempDir(), Options{}))
	defer run.Close()
	s := sampleSnapshot(8)
	for _, test := range []struct {
		name, err string
		change    func(p []process) []process
	}{
		{"a process is missing", `of the tensor "tied" 300 elements are with no process`, func(p []process) []process { return p[:2] }},
		{"other shapes", "processes have the tensor", func(p []process) []process {
			p[1].optimizer[0] = Named{Name: p[1].optimizer[0].Name, Tensor: filled(p[1].optimizer[0].Type, 1, 2)}
			return p
		}},
	} {
		if _, err := savePlanned(run, s, test.change(divided(s, true))); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.err)
		}
	}
	if got := names(t, run.dir); len(got) != 0 {
		t.Errorf("%q is left", got)
	}
}

// Whatever fails while processes save, the checkpoint before is the newest.
func TestPlanFails(t *testing.T) {
	forEachFault(t, false, func(t *testing.T, d *faulty) bool {
		dir := t.TempDir()
		save(t, dir, Options{}, 1)
		run := must(OpenRun(dir, Options{}))
		defer run.Close()
		run.files, run.options.files = d, d
		s := sampleSnapshot(2)
		path, err := savePlanned(run, s, divided(s, false))
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		want := int64(1)
		if path != "" || d.fault == "syncdir "+dir { // it is there, though perhaps not for long
			want = 2
		}
		if got := newest(t, dir); got != want {
			t.Errorf("the newest checkpoint is of step %d, want %d", got, want)
		}
		return err == nil
	})
}
