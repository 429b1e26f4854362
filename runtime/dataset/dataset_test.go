package dataset

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// value makes an input or output of the given name and type; a dimension
// that is not a number is a symbol, "?" an unnamed one.
func value(name string, t onnx.DataType, dims ...any) *onnx.ValueInfo {
	shape := &onnx.Shape{}
	for _, d := range dims {
		switch d := d.(type) {
		case int:
			shape.Dims = append(shape.Dims, onnx.Dim{Value: int64(d), Known: true})
		case string:
			shape.Dims = append(shape.Dims, onnx.Dim{Param: strings.Trim(d, "?")})
		}
	}
	return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t, Shape: shape}}
}

func equal(a, b *tensor.Tensor) bool {
	return a != nil && b != nil && a.Type == b.Type && reflect.DeepEqual(a.Shape, b.Shape) && bytes.Equal(a.Data, b.Data) && reflect.DeepEqual(a.Strings, b.Strings)
}

func TestTensorFilesRoundTrip(t *testing.T) {
	dir := t.TempDir()
	x := tensor.FromSlice([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
	for _, file := range []string{"x.npy", "x.pb"} {
		path := filepath.Join(dir, file)
		for range 2 { // the second time over the first
			if err := WriteTensor(path, "x", x); err != nil {
				t.Fatal(err)
			}
		}
		name, got, err := ReadTensor(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]string{"x.npy": "", "x.pb": "x"}[file]; name != want || !equal(got, x) {
			t.Errorf("%s: got %q %s, want %q %s", file, name, got, want, x)
		}
	}
	if err := WriteTensor(filepath.Join(dir, "x.npy"), "s", tensor.FromStrings([]string{"a"})); err == nil {
		t.Error("strings went into a .npy file")
	}
	if _, got, err := ReadTensor(filepath.Join(dir, "x.npy")); err != nil || !equal(got, x) {
		t.Errorf("a failed write harmed the file that was there: %v, %v", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}

func TestReadTensorRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"x.txt", "x.npy", "x.pb"} {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte{0xff, 0xff}, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ReadTensor(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one that names the file", file, err)
		}
	}
}

func TestReadInputs(t *testing.T) {
	inputs := []*onnx.ValueInfo{value("a", onnx.Float32, 1), value("b", onnx.Float32, 1)}
	one, two := tensor.FromSlice([]float32{1}), tensor.FromSlice([]float32{2})
	tests := []struct {
		name  string
		files [][2]string // name in the file, value
		want  map[string]*tensor.Tensor
		err   string
	}{
		{name: "by name", files: [][2]string{{"b", "1"}, {"a", "2"}}, want: map[string]*tensor.Tensor{"b": one, "a": two}},
		{name: "by number", files: [][2]string{{"", "1"}, {"other", "2"}}, want: map[string]*tensor.Tensor{"a": one, "b": two}},
		{name: "an optional input absent", files: [][2]string{{"b", "1"}}, want: map[string]*tensor.Tensor{"b": one}},
		{name: "none", err: "there is no"},
		{name: "too many", files: [][2]string{{"", "1"}, {"", "2"}, {"", "2"}}, err: "no input number 2"},
		{name: "twice the same", files: [][2]string{{"a", "1"}, {"a", "2"}}, err: `two files for the input "a"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for i, f := range test.files {
				x := map[string]*tensor.Tensor{"1": one, "2": two}[f[1]]
				if err := WriteTensor(filepath.Join(dir, "input_"+string(rune('0'+i))+".pb"), f[0], x); err != nil {
					t.Fatal(err)
				}
			}
			got, err := ReadInputs(dir, inputs)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil || len(got) != len(test.want) {
				t.Fatalf("got %v, %v, want %v", got, err, test.want)
			}
			for name, want := range test.want {
				if !equal(got[name], want) {
					t.Errorf("%s: got %v, want %v", name, got[name], want)
				}
			}
		})
	}
}

func TestWriteOutputs(t *testing.T) {
	outputs := []*onnx.ValueInfo{value("logits", onnx.Float32, 1), value("a/b", onnx.Float32, 1)}
	tensors := map[string]*tensor.Tensor{"logits": tensor.FromSlice([]float32{1}), "a/b": tensor.FromSlice([]float32{2})}
	for format, files := range map[string][]string{PB: {"output_0.pb", "output_1.pb"}, NPY: {"logits.npy", "output_1.npy"}} {
		dir := filepath.Join(t.TempDir(), "new")
		paths, err := WriteOutputs(dir, format, outputs, tensors)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range outputs {
			if _, got, err := ReadTensor(paths[i]); err != nil || filepath.Base(paths[i]) != files[i] || !equal(got, tensors[v.Name]) {
				t.Errorf("%s: %s has %v, %v; want %s with %v", format, paths[i], got, err, files[i], tensors[v.Name])
			}
		}
	}
	dir := t.TempDir()
	if _, err := WriteOutputs(dir, PB, outputs, tensors); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadOutputs(dir, outputs); err != nil || !equal(got["a/b"], tensors["a/b"]) {
		t.Errorf("outputs that were written read back as %v, %v", got, err)
	}
}

// embedding is a model that looks tokens up in a table of 5 rows.
func embedding() *onnx.Model {
	return &onnx.Model{Graph: &onnx.Graph{
		Initializers: []*onnx.Tensor{onnx.NewTensor("table", onnx.Float32, []int64{5, 1}, make([]byte, 20))},
		Nodes:        []*onnx.Node{{OpType: "Gather", Inputs: []string{"table", "tokens"}, Outputs: []string{"y"}}},
	}}
}

func TestRandomShapes(t *testing.T) {
	tests := []struct {
		input *onnx.ValueInfo
		dims  map[string]int
		want  []int
	}{
		{value("x", onnx.Float32, 3, 4), nil, []int{3, 4}},
		{value("x", onnx.Float32, "batch_size", "sequence"), nil, []int{2, 8}},
		{value("x", onnx.Float32, "?", "?"), nil, []int{2, 8}},
		{value("x", onnx.Float32, "batch", "seq"), map[string]int{"batch": 1, "seq": 3}, []int{1, 3}},
		{value("x", onnx.Float32, "?", "?"), map[string]int{"x:1": 5}, []int{2, 5}},
		{value("x", onnx.Float32, "past_sequence", "past_sequence + seq"), nil, []int{0, 8}},
		{value("x", onnx.Float32, "past", "past + seq"), map[string]int{"past": 3}, []int{3, 11}},
		{value("x", onnx.Float32, "past", "past + 1"), map[string]int{"past": 4}, []int{4, 5}},
		{value("x", onnx.Float32), nil, []int{}},
	}
	for _, test := range tests {
		got, err := Random(embedding(), []*onnx.ValueInfo{test.input}, test.dims, 1)
		if err != nil {
			t.Errorf("%s with %v: %v", test.input.Type, test.dims, err)
		} else if !reflect.DeepEqual(got["x"].Shape, test.want) {
			t.Errorf("%s with %v: got shape %v, want %v", test.input.Type, test.dims, got["x"].Shape, test.want)
		}
	}
}

func TestRandomRefuses(t *testing.T) {
	tests := []struct {
		name  string
		input *onnx.ValueInfo
		dims  map[string]int
		want  string
	}{
		{"unknown dimension", value("x", onnx.Float32, "batch"), map[string]int{"bach": 1}, "the model has batch"},
		{"fixed dimensions", value("x", onnx.Float32, 2), map[string]int{"batch": 1}, "all of the model's are fixed"},
		{"negative dimension", value("x", onnx.Float32, "batch"), map[string]int{"batch": -1}, "negative"},
		{"huge dimension", value("x", onnx.Float32, "batch"), map[string]int{"batch": 1 << 40}, "too large"},
		{"strings", value("x", onnx.String, 1), nil, "give it as a file"},
		{"unknown rank", &onnx.ValueInfo{Name: "x", Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: onnx.Float32}}, nil, "give it as a file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Random(embedding(), []*onnx.ValueInfo{test.input}, test.dims, 1); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestRandomValues(t *testing.T) {
	inputs := []*onnx.ValueInfo{
		value("tokens", onnx.Int64, 1000), value("mask", onnx.Int32, 3), value("flag", onnx.Bool, 2), value("x", onnx.Float16, 1000),
	}
	a, err := Random(embedding(), inputs, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for _, token := range tensor.Of[int64](a["tokens"]) {
		seen[token] = true
	}
	if want := map[int64]bool{0: true, 1: true, 2: true, 3: true, 4: true}; !reflect.DeepEqual(seen, want) {
		t.Errorf("tokens take the values %v, want those that the table has", seen)
	}
	if want := tensor.FromSlice([]int32{1, 1, 1}); !equal(a["mask"], want) {
		t.Errorf("an integer that selects nothing is %v, want ones", tensor.Of[int32](a["mask"]))
	}
	if want := tensor.FromSlice([]bool{true, true}); !equal(a["flag"], want) {
		t.Errorf("booleans are %v, want true", tensor.Of[bool](a["flag"]))
	}
	x, err := tensor.Float64s(a["x"])
	if err != nil {
		t.Fatal(err)
	}
	mean, square := 0.0, 0.0
	for _, v := range x {
		mean += v / 1000
		square += v * v / 1000
	}
	if mean < -0.2 || mean > 0.2 || square < 0.7 || square > 1.3 {
		t.Errorf("floats have mean %.3f and mean square %.3f, want about 0 and 1", mean, square)
	}

	same, err := Random(embedding(), inputs, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Random(embedding(), inputs, nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	if !equal(same["tokens"], a["tokens"]) || equal(other["tokens"], a["tokens"]) {
		t.Error("the seed does not decide what is drawn")
	}
}

func TestSummarize(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	tests := []struct {
		x    *tensor.Tensor
		want Summary
		ok   bool
	}{
		{tensor.FromSlice([]float64{1, -4, 6}), Summary{Min: -4, Max: 6, Mean: 1}, true},
		{tensor.FromSlice([]float64{1, inf, nan, 3}), Summary{Min: 1, Max: 3, Mean: 2, NotFinite: 2}, true},
		{tensor.FromSlice([]int32{3}), Summary{Min: 3, Max: 3, Mean: 3}, true},
		{tensor.FromSlice([]float64{nan}), Summary{Min: inf, Max: -inf, NotFinite: 1}, false},
		{tensor.FromStrings([]string{"a"}), Summary{}, false},
	}
	for _, test := range tests {
		if got, ok := Summarize(test.x); got != test.want || ok != test.ok {
			t.Errorf("%v: got %+v, %t, want %+v, %t", test.x, got, ok, test.want, test.ok)
		}
	}
	if got := (Summary{Min: -4, Max: 3}).Largest(); got != 4 {
		t.Errorf("the largest magnitude is %v, want 4", got)
	}
}
