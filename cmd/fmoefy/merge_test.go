package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/internal/megatron"
	"github.com/fmoe-go/fmoe/onnx"
)

func TestMerge(t *testing.T) {
	dir := t.TempDir()
	m, err := onnx.ReadFile("../../models/gpt-megatron/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ranks, err := megatron.Split(m, 2, megatron.Options{Vocabulary: true})
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{filepath.Join(dir, "rank_00.onnx"), filepath.Join(dir, "rank_01.onnx")}
	for i, path := range paths {
		if err := onnx.WriteFile(path, ranks[i], onnx.WriteOptions{External: onnx.ExternalAlways}); err != nil {
			t.Fatal(err)
		}
	}
	full := filepath.Join(dir, "full.onnx")
	run := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = dispatch(t.Context(), append([]string{"merge"}, args...), &out, &errs)
		return code, out.String(), errs.String()
	}
	code, stdout, stderr := run(append(paths, "-o", full, "--json")...)
	var result mergeResult
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != cli.Success {
		t.Fatalf("exit code %d, %s %v", code, stderr, err)
	}
	if result.Ranks != 2 || len(result.Column) != 13 || len(result.Row) != 12 || len(result.Vocabulary) != 1 {
		t.Errorf("%+v", result)
	}
	merged, err := onnx.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	defer merged.Close()
	for _, w := range m.Graph.Initializers {
		joined := merged.Graph.Initializer(w.Name)
		if joined == nil || !w.DataType.IsFloat() || len(w.Dims) < 2 {
			continue // named anew, or not split
		}
		got, err := joined.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := w.Bytes(); !bytes.Equal(got, want) {
			t.Errorf("%s is not as it was before the split", w.Name)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{paths, cli.Misuse, "-o OUT.onnx is missing"},
		{[]string{paths[0], "-o", full}, cli.Misuse, "two ranks"},
		{[]string{"-o", full}, cli.Misuse, "RANK.onnx... is missing"},
		{append([]string{"--external", "sometimes", "-o", full}, paths...), cli.Misuse, "auto, always or never"},
		{[]string{paths[0], "../../models/bert/model.onnx", "-o", full}, cli.Failure, "not ranks of one model"},
		{[]string{paths[0], "nowhere.onnx", "-o", full}, cli.Failure, "nowhere.onnx"},
	} {
		if code, _, stderr := run(c.args...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit code %d, stderr %q, want %d and %q", c.args, code, stderr, c.code, c.want)
		}
	}
}
