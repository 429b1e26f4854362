package main

import (
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// dataFlags say which inputs a model gets.
type dataFlags struct {
	dir    string
	files  []string
	random bool // only in subcommands that do not draw by themselves
	dims   map[string]int
	seed   uint64
	flags  *pflag.FlagSet

	seedIsForMore bool // than random inputs
}

const dataHelp = `Inputs come from a directory of ONNX test data (input_0.pb, input_1.pb, …), from
single files, which win over those of the directory, or are random. Random floats
are normally distributed; integers that select from an embedding table stay below
its size; other integers are 1.`

func (d *dataFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&d.dir, "data", "", "read inputs from this `directory` of ONNX test data")
	d.registerRest(flags)
}

// registerRest registers all flags but --data.
func (d *dataFlags) registerRest(flags *pflag.FlagSet) {
	d.flags = flags
	flags.StringArrayVar(&d.files, "input", nil, "read one input from a .npy or .pb file, as `NAME=FILE`; repeatable")
	flags.StringToIntVar(&d.dims, "dim", nil, "open `dimensions` of random inputs, as batch=2,seq=16, or INPUT:AXIS=8 for one without a name")
	flags.Uint64Var(&d.seed, "seed", 1, "seed of random inputs")
}

// read returns the values of all inputs of a model.
func (d *dataFlags) read(m *onnx.Model, inputs []*onnx.ValueInfo) (map[string]*tensor.Tensor, error) {
	tensors := map[string]*tensor.Tensor{}
	if d.dir != "" {
		var err error
		if tensors, err = dataset.ReadInputs(d.dir, inputs); err != nil {
			return nil, err
		}
	}
	if err := d.readFiles(tensors, inputs); err != nil {
		return nil, err
	}
	var missing []*onnx.ValueInfo
	var names []string
	for _, v := range inputs {
		if tensors[v.Name] == nil {
			missing = append(missing, v)
			names = append(names, fmt.Sprintf("%s %s", v.Name, v.Type))
		}
	}
	if len(missing) == 0 || !d.random {
		for _, name := range []string{"dim", "seed"} {
			if d.flags.Changed(name) && !(name == "seed" && d.seedIsForMore) {
				return nil, cli.Misusef("--%s is for random inputs, and there are none here", name)
			}
		}
	}
	if len(missing) == 0 {
		return tensors, nil
	}
	if !d.random {
		return nil, cli.Misusef("no value for input %s: give --data DIR, --input NAME=FILE or --random", strings.Join(names, ", "))
	}
	drawn, err := dataset.Random(m, missing, d.dims, d.seed)
	if err != nil {
		return nil, cli.Misusef("%w", err)
	}
	maps.Copy(tensors, drawn)
	return tensors, nil
}

func (d *dataFlags) readFiles(tensors map[string]*tensor.Tensor, inputs []*onnx.ValueInfo) error {
	for _, file := range d.files {
		name, path, ok := strings.Cut(file, "=")
		if !ok || name == "" || path == "" {
			return cli.Misusef("--input %s must be NAME=FILE", file)
		}
		known := false
		for _, v := range inputs {
			known = known || v.Name == name
		}
		if !known {
			return cli.Misusef("--input %s: the model has no input %q", file, name)
		}
		_, t, err := dataset.ReadTensor(path)
		if err != nil {
			return err
		}
		tensors[name] = t
	}
	return nil
}
