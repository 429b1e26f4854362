package zoo_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
)

// diverse are files of the zoo with MLPs of every kind, with and without
// biases, in every type, in branches, shared by layers and after other
// exporters' manners.
var diverse = []string{
	"albert-dynamo", "bert-torchscript-functions", "bloom-torchscript-cache", "falcon-dynamo", "gpt2-torchscript-cache-merged",
	"gpt2-torchscript-float16", "gpt2-torchscript-onnxruntime", "llama-dynamo-float16", "mistral-torchscript-bfloat16",
	"phi-3-dynamo", "t5-v1.1-dynamo", "whisper-torchscript",
}

// inits are options of every init.
var inits = []initCase{
	{"copy", fmoefy.Options{Init: fmoefy.Copy}},
	{"copy, shared expert", fmoefy.Options{Init: fmoefy.Copy, SharedExpert: true, SharedWeight: 0.3}},
	{"copy, int8", fmoefy.Options{Init: fmoefy.Copy, ExpertWeights: fmoefy.StoreInt8}},
	{"noise", fmoefy.Options{Init: fmoefy.Noise}},
	{"drop", fmoefy.Options{Init: fmoefy.Drop}},
	{"virtual-group", fmoefy.Options{Init: fmoefy.VirtualGroup, Granularity: 4}},
	{"virtual-group, shared expert", fmoefy.Options{Init: fmoefy.VirtualGroup, SharedExpert: true}},
	{"random", fmoefy.Options{Init: fmoefy.Random}},
	{"models", fmoefy.Options{Init: fmoefy.FromModels}},
	{"split, all parts", fmoefy.Options{Init: fmoefy.Split, TopK: 8}},
	{"split", fmoefy.Options{Init: fmoefy.Split}},
}

type initCase struct {
	name    string
	options fmoefy.Options
}

// storedLimit bounds what int8 experts change an output by.
const storedLimit = 5e-2

// TestInitsKeepTheirPromise: with every init the rewritten samples and files of
// the zoo compute what the report promises.
func TestInitsKeepTheirPromise(t *testing.T) {
	names, _ := fmoefy.Inits()
	for _, name := range names {
		if !slices.ContainsFunc(inits, func(c initCase) bool { return c.options.Init == name }) {
			t.Errorf("init %s is not in the list", name)
		}
	}
	types := map[string]string{}
	for _, f := range readListing(t) {
		types[f.Name] = f.Type
	}
	folders, err := filepath.Glob("../*/model.onnx")
	if err != nil || len(folders) < 5 {
		t.Fatalf("%d samples: %v", len(folders), err)
	}
	for _, name := range diverse {
		folders = append(folders, filepath.Join(name, "model.onnx"))
	}
	for _, path := range folders {
		folder := filepath.Dir(path)
		limit := limitsOf["float32"]
		if elementType, ok := types[folder]; ok {
			limit = limitsOf[elementType]
		}
		data := filepath.Join(folder, "test_data_set_0")
		dense, err := run(path, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range inits {
			t.Run(folder+"/"+c.name, func(t *testing.T) {
				model, err := onnx.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				defer model.Close()
				o := c.options
				o.NumExperts, o.Seed = 8, 1
				if o.Init == fmoefy.FromModels {
					same, err := onnx.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					defer same.Close()
					o.Models = map[int]fmoefy.ExpertModel{0: {Name: path, Model: same}, 5: {Name: path, Model: same}}
				}
				report, err := fmoefy.Rewrite(model, o)
				if err != nil {
					t.Fatal(err)
				}
				rewritten := filepath.Join(t.TempDir(), "rewritten.onnx")
				if err := onnx.WriteFile(rewritten, model, onnx.WriteOptions{}); err != nil {
					t.Fatal(err)
				}
				got, err := run(rewritten, data)
				if err != nil {
					t.Fatal(err)
				}
				differs, err := difference(got, dense)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("differs by %.2g; equal %v, nearly %v: %s", differs, report.Equal, report.Approximate, report.Why)
				switch {
				case report.Equal && !(differs <= limit.rewritten):
					t.Errorf("differs by %.2g, the report promises the same function: %s", differs, report.Why)
				case report.Approximate && !(differs <= storedLimit):
					t.Errorf("differs by %.2g, the report promises nearly the same function: %s", differs, report.Why)
				case !report.Equal && !report.Approximate && differs == 0:
					t.Errorf("does not differ, the report says that it does: %s", report.Why)
				}
			})
		}
	}
}
