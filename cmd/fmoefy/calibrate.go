package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/language"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// calibrationFlags say what data --init split is fitted to.
type calibrationFlags struct {
	path   string
	tokens int
}

func (c *calibrationFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.path, "calibrate", "", "fit experts and routers of --init split to this `data`: a text for a language model, or a directory of ONNX test data or of such directories")
	flags.IntVar(&c.tokens, "calibrate-tokens", 1<<15, "read about this many tokens of the text, from all parts of it")
}

// complete checks the flags. The options get inputs without tensors yet.
func (c *calibrationFlags) complete(o *fmoefy.Options, flags *pflag.FlagSet) error {
	switch {
	case c.path == "" && flags.Changed("calibrate-tokens"):
		return cli.Misusef("--calibrate-tokens needs --calibrate")
	case c.tokens < 1:
		return cli.Misusef("--calibrate-tokens=%d must be 1 or more", c.tokens)
	case c.path != "":
		o.Calibration = make([]map[string]*tensor.Tensor, 1)
	}
	return nil
}

// open reads the data for m, which was read from path.
func (c *calibrationFlags) open(ctx context.Context, o *fmoefy.Options, models *modelFlags, m *onnx.Model, path string) error {
	if c.path == "" {
		return nil
	}
	o.Run = func(m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
		return models.run(ctx, m, inputs)
	}
	info, err := os.Stat(c.path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		o.Calibration, err = readTestData(c.path, m)
		return err
	}
	text, err := os.ReadFile(c.path)
	if err != nil {
		return err
	}
	texts, err := language.NewTexts(m, path, language.Options{Tokenizer: models.tokenizer})
	if err != nil {
		return err
	}
	all := texts.Inputs(string(text))
	total := 0
	for _, inputs := range all {
		total += texts.Tokens(inputs)
	}
	if total == 0 {
		return fmt.Errorf("%s has no tokens", c.path)
	}
	runs := min(len(all), max(1, c.tokens*len(all)/total))
	o.Calibration = nil
	for i := range runs {
		o.Calibration = append(o.Calibration, all[i*len(all)/runs])
	}
	return nil
}

// readTestData reads the inputs of a directory of ONNX test data, or of all
// such directories in it.
func readTestData(dir string, m *onnx.Model) ([]map[string]*tensor.Tensor, error) {
	inputs := slices.DeleteFunc(slices.Clone(m.Graph.Inputs), func(v *onnx.ValueInfo) bool { return m.Graph.Initializer(v.Name) != nil })
	dirs := []string{dir}
	if _, err := os.Stat(filepath.Join(dir, "input_0.pb")); errors.Is(err, fs.ErrNotExist) {
		if dirs, err = filepath.Glob(filepath.Join(dir, "*", "input_0.pb")); err != nil {
			return nil, err
		}
		if len(dirs) == 0 {
			return nil, fmt.Errorf("there is no input_0.pb in %s nor in its directories", dir)
		}
		for i := range dirs {
			dirs[i] = filepath.Dir(dirs[i])
		}
	}
	var list []map[string]*tensor.Tensor
	for _, dir := range dirs {
		tensors, err := dataset.ReadInputs(dir, inputs)
		if err != nil {
			return nil, err
		}
		list = append(list, tensors)
	}
	return list, nil
}
