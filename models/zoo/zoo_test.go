// Package zoo holds exports of many architectures; see README.md.
package zoo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// file is a line of zoo.json: a model and the MLP blocks that its
// architecture has.
type file struct {
	Name      string   `json:"name"`
	Family    string   `json:"family"`
	Exporter  string   `json:"exporter"`
	Opset     int      `json:"opset"`
	Type      string   `json:"dtype"`
	Variant   string   `json:"variant"`
	Blocks    []blocks `json:"blocks"`
	Traps     string   `json:"traps"` // what looks like an MLP block and is none
	Reference string   `json:"reference"`
}

// blocks are Count MLP blocks of one form.
type blocks struct {
	Kind       string `json:"kind"`
	Activation string `json:"activation"`
	DModel     int64  `json:"d_model"`
	DHidden    int64  `json:"d_hidden"`
	Count      int    `json:"count"`
}

// limits bound differences in units of an output's largest element.
type limits struct {
	reference float64 // from ONNX Runtime
	rewritten float64 // of the rewritten model from the original
}

// Half types have 11 and 8 bits of precision; models round to them at every
// node, ONNX Runtime at other nodes than moerun or not at all.
var limitsOf = map[string]limits{
	"float32":  {reference: 1e-4, rewritten: 1e-4},
	"float16":  {reference: 1e-2, rewritten: 1e-2},
	"bfloat16": {reference: 5e-2, rewritten: 5e-2},
}

// measurement is what a row of docs/zoo.md says of a file.
type measurement struct {
	file
	Expected, Found int
	Missed, False   []string // blocks by form
	Left            int      // what looks like an MLP block and was left, with a reason
	Replaced        int
	FromReference   float64 // in units of an output's largest element
	FromOriginal    float64 // of the rewritten model, likewise; 0 where no block was found
}

func readListing(t *testing.T) []file {
	t.Helper()
	data, err := os.ReadFile("zoo.json")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	if err := json.Unmarshal(data, &files); err != nil {
		t.Fatal(err)
	}
	return files
}

// Every folder is listed, once.
func TestListingIsComplete(t *testing.T) {
	folders, err := filepath.Glob("*/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	families, listed := map[string]bool{}, []string{}
	for _, f := range readListing(t) {
		families[f.Family] = true
		listed = append(listed, filepath.Join(f.Name, "model.onnx"))
	}
	slices.Sort(folders)
	slices.Sort(listed)
	if !slices.Equal(folders, listed) {
		t.Errorf("folders %q, listed %q", folders, listed)
	}
	if len(listed) < 60 || len(families) < 27 {
		t.Errorf("%d files of %d families, want at least 60 of 27", len(listed), len(families))
	}
}

// In every file Find recognises the MLP blocks that the architecture has and
// no others, moerun gives ONNX Runtime's outputs, and rewriting the blocks to
// mixtures of equal experts keeps the outputs.
func TestZoo(t *testing.T) {
	for _, f := range readListing(t) {
		t.Run(f.Name, func(t *testing.T) {
			m, err := measure(f, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, problem := range m.problems() {
				t.Error(problem)
			}
		})
	}
}

// A block that was not found is missed, also where another was found instead;
// one that cannot be replaced is not found.
func TestCountReportsMissedAndFalse(t *testing.T) {
	m := &measurement{file: file{Blocks: []blocks{{Kind: "plain", Activation: "gelu", DModel: 32, DHidden: 64, Count: 2}}}}
	found := fmoefy.Block{Kind: fmoefy.Plain, Activation: moe.GELU, DModel: 32, DHidden: 64}
	wider, refused := found, found
	wider.DHidden, refused.Refused = 65, "a reason"
	m.count([]fmoefy.Block{found, wider, refused})
	want := measurement{file: m.file, Expected: 2, Found: 2, Left: 1,
		Missed: []string{"plain gelu 32→64"}, False: []string{"plain gelu 32→65"}}
	if !reflect.DeepEqual(*m, want) {
		t.Errorf("measured %+v, want %+v", *m, want)
	}
}

// problems says what is wrong with the measured file.
func (m *measurement) problems() (list []string) {
	if len(m.Missed) > 0 {
		list = append(list, "missed: "+strings.Join(m.Missed, ", "))
	}
	if len(m.False) > 0 {
		list = append(list, "not an MLP block: "+strings.Join(m.False, ", "))
	}
	if m.Replaced != m.Found {
		list = append(list, fmt.Sprintf("%d blocks replaced of %d found", m.Replaced, m.Found))
	}
	limit, ok := limitsOf[m.Type]
	if !ok {
		return append(list, fmt.Sprintf("dtype %q of zoo.json is not known", m.Type))
	}
	if !(m.FromReference <= limit.reference) {
		list = append(list, fmt.Sprintf("differs by %.2g from ONNX Runtime, want at most %.2g", m.FromReference, limit.reference))
	}
	if !(m.FromOriginal <= limit.rewritten) {
		list = append(list, fmt.Sprintf("rewritten, it differs by %.2g from the original, want at most %.2g", m.FromOriginal, limit.rewritten))
	}
	return list
}

// measure finds and rewrites the blocks of f and runs it before and after.
// The rewritten model is written to the directory scratch.
func measure(f file, scratch string) (*measurement, error) {
	path := filepath.Join(f.Name, "model.onnx")
	model, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer model.Close()
	m := &measurement{file: f}
	m.count(fmoefy.Find(model))

	rewritten := filepath.Join(scratch, "rewritten.onnx")
	if m.Found > 0 {
		if m.Replaced, err = rewrite(model, rewritten); err != nil {
			return nil, fmt.Errorf("rewrite: %w", err)
		}
	}

	folders, err := filepath.Glob(filepath.Join(f.Name, "test_data_set_*"))
	if err != nil || len(folders) == 0 {
		return nil, fmt.Errorf("%s has no data set: %v", f.Name, err)
	}
	for _, data := range folders {
		want, err := expectedOutputs(path, data)
		if err != nil {
			return nil, err
		}
		got, err := run(path, data)
		if err != nil {
			return nil, err
		}
		fromReference, err := difference(got, want)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", data, err)
		}
		m.FromReference = max(m.FromReference, fromReference)
		if m.Found == 0 {
			continue
		}
		after, err := run(rewritten, data)
		if err != nil {
			return nil, fmt.Errorf("rewritten: %w", err)
		}
		fromOriginal, err := difference(after, got)
		if err != nil {
			return nil, fmt.Errorf("rewritten, %s: %w", data, err)
		}
		m.FromOriginal = max(m.FromOriginal, fromOriginal)
	}
	return m, nil
}

// rewrite replaces the blocks of model and writes it to path. It returns the
// number of blocks that it replaced.
func rewrite(model *onnx.Model, path string) (int, error) {
	report, err := fmoefy.Rewrite(model, fmoefy.Options{NumExperts: 8, TopK: 2, Seed: 1})
	if err != nil {
		return 0, err
	}
	replaced := 0
	for _, b := range report.Blocks {
		if b.Replaced {
			replaced++
		}
	}
	if err := onnx.Check(model); err != nil {
		return 0, err
	}
	return replaced, onnx.WriteFile(path, model, onnx.WriteOptions{})
}

// count compares what Find found with the architecture's blocks.
func (m *measurement) count(found []fmoefy.Block) {
	surplus := map[string]int{} // found less expected, by form
	for _, b := range m.Blocks {
		surplus[form(b.Kind, b.Activation, b.DModel, b.DHidden)] -= b.Count
		m.Expected += b.Count
	}
	for _, b := range found {
		if b.Refused != "" {
			m.Left++
			continue
		}
		m.Found++
		surplus[form(string(b.Kind), string(b.Activation), b.DModel, b.DHidden)]++
	}
	for _, form := range slices.Sorted(maps.Keys(surplus)) {
		switch n := surplus[form]; {
		case n < 0:
			m.Missed = append(m.Missed, slices.Repeat([]string{form}, -n)...)
		case n > 0:
			m.False = append(m.False, slices.Repeat([]string{form}, n)...)
		}
	}
}

func form(kind, activation string, dModel, dHidden int64) string {
	return fmt.Sprintf("%s %s %d→%d", kind, activation, dModel, dHidden)
}

func run(path, data string) (map[string]*tensor.Tensor, error) {
	s, err := runtime.Open(path, runtime.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	inputs, err := dataset.ReadInputs(data, s.Inputs())
	if err != nil {
		return nil, err
	}
	return s.Run(context.Background(), inputs)
}

func expectedOutputs(path, data string) (map[string]*tensor.Tensor, error) {
	model, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer model.Close()
	return dataset.ReadOutputs(data, model.Graph.Outputs)
}

// difference returns the largest difference of an element, divided by the
// largest element of the same output of want.
func difference(got, want map[string]*tensor.Tensor) (float64, error) {
	if len(got) != len(want) {
		return 0, fmt.Errorf("%d outputs, want %d", len(got), len(want))
	}
	worst := 0.0
	for name, w := range want {
		if got[name] == nil {
			return 0, fmt.Errorf("output %q is missing", name)
		}
		d, err := tensor.Compare(got[name], w, 0, 0)
		if err != nil {
			return 0, fmt.Errorf("output %q %w", name, err)
		}
		s, ok := dataset.Summarize(w)
		if !ok || s.Largest() == 0 || math.IsNaN(s.Largest()) {
			return 0, fmt.Errorf("output %q has nothing to compare with", name)
		}
		worst = max(worst, d.MaxAbs/s.Largest())
	}
	return worst, nil
}
